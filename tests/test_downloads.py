"""Against a server on this machine that breaks off, stalls, or sends something else."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pooch
import pytest
import requests
from support import manifest_text

from yolop import files
from yolop.data import downloads
from yolop.data.downloads import DownloadError, Source, fetch, read_manifest, wrong_files
from yolop.files import StoreError

CONTENT = {"LICENSE": b"free", "images/a.jpg": os.urandom(300_000), "images/b.jpg": b"b" * 70_000, "labels/a.txt": b""}
PAGE = b"<!DOCTYPE html><title>Sign in</title>"


def zipped(content=CONTENT, prefix="set-d272fb/", extra=()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(prefix + path, data)
        for name, data, mode in extra:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16  # the constructor tidies names
            archive.writestr(info, data)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `files`; `breaks` lists after how many bytes of a body to break off, `stalls` holds the line instead."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.breaks, self.released = {}, [], [], threading.Event()
        self.stalls, self.announced = False, True
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """A client that has seen enough hangs up."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        body = server.files.get(self.path)
        if isinstance(body, str):
            self.send_response(302)
            self.send_header("Location", body)
            return self.end_headers()
        if body is None or isinstance(body, int):
            return self.send_error(body or 404)
        self.send_response(200)
        if server.announced:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        length = server.breaks.pop(0) if server.breaks else None
        self.wfile.write(body[:length])
        if length is not None and server.stalls:
            self.wfile.flush()
            server.released.wait()


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def source(tmp_path, project, server, monkeypatch):
    """A source of one archive, with its manifest; the project has no copy, and tries do not wait."""
    whole = tmp_path / "whole"
    write(whole)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "tiny.json").write_text(manifest_text(whole, list(CONTENT)))
    monkeypatch.setattr(downloads, "MANIFESTS", tmp_path / "manifests")
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(downloads, "SLACK", 10_000)
    monkeypatch.setattr(files, "DATA", None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    server.files["/set.zip"] = zipped()
    return Source("tiny", (f"{server.url}/set.zip",), "data/tiny")


def write(folder, content=CONTENT):
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def read(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def left_behind(target):
    """What lies beside the target; the lock is never removed."""
    return sorted(path.name for path in target.parent.iterdir() if path.name != ".tiny.lock")


def refused(source, *words):
    """The message of the refusal, after which nothing may be in the target's place, not even parts."""
    with pytest.raises(DownloadError) as caught:
        fetch(source)
    for word in words:
        assert word in str(caught.value)
    assert left_behind(files.ROOT / "data" / "downloads" / "tiny") == []


# --- what comes whole -------------------------------------------------------------------------------------------------


def test_a_download_is_whole_and_done_once(source, server, capsys):
    target = fetch(source)
    assert target == files.ROOT / "data" / "downloads" / "tiny" and read(target) == CONTENT
    assert left_behind(target) == ["tiny"]
    assert fetch(source) == target and len(server.asked) == 1
    assert "100%" in capsys.readouterr().err


def test_an_archive_packed_anew_passes(source, server):
    surplus = [("other/images/c.jpg", b"surplus", 0), ("README", b"more", 0), ("old/images/b.jpg", b"c" * 70_000, 0)]
    server.files["/set.zip"] = zipped(dict(reversed(CONTENT.items())), prefix="", extra=surplus)
    assert read(fetch(source)) == CONTENT


def test_files_may_come_from_several_archives(source, server):
    parts = [{k: v for k, v in CONTENT.items() if k.startswith("images") == images} for images in (True, False)]
    link = ("labels/images", b"../images", stat.S_IFLNK | 0o777)
    server.files |= {"/a.zip": zipped(parts[0], ""), "/b.zip": zipped(parts[1], "task/", [link])}
    both = Source("tiny", (f"{server.url}/a.zip", f"{server.url}/b.zip"), "data/tiny")
    assert read(fetch(both)) == CONTENT


def test_the_file_itself(source, server, tmp_path):
    (tmp_path / "manifests" / "one.json").write_text(manifest_text(tmp_path / "whole", ["images/a.jpg"]))
    server.files["/v6/other-name.pt"] = CONTENT["images/a.jpg"]
    one = Source("one", (f"{server.url}/v6/other-name.pt",), "weights")
    assert read(fetch(one)) == {"images/a.jpg": CONTENT["images/a.jpg"]}
    (fetch(one) / "images/a.jpg").unlink()
    server.files["/v6/other-name.pt"] = PAGE
    with pytest.raises(DownloadError, match=r"images/a\.jpg, in what came.*37 bytes that begin with b'<!DOC"):
        fetch(one)


@pytest.mark.parametrize("stalls", [False, True])
def test_what_breaks_off_or_stalls_is_tried_again(source, server, stalls, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_S", 1)
    server.breaks, server.stalls = [100_000, 0, 250_000], stalls
    assert read(fetch(source)) == CONTENT
    assert server.asked == ["/set.zip"] * 4


def test_waits_grow_and_end(source, server, monkeypatch):
    waited = []
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=waited.append))
    server.files["/set.zip"] = 503
    refused(source, "503", source.urls[0], "downloads/tiny", "YOLOP_DATA", "manifests/tiny.json")
    assert waited == [1, 2, 3] and server.asked == ["/set.zip"] * 4
    server.shutdown()
    server.server_close()
    refused(source, "could not download")


# --- what is something else -------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_asked_for_once(source, server):
    server.files.clear()
    refused(source, "404", "/set.zip")
    assert len(server.asked) == 1


@pytest.mark.parametrize(("sent", "words"), [
    (PAGE, ["37 bytes", "<!DOCTYPE html>", "not a whole zip archive"]),
    (zipped()[:-2000], ["not a whole zip archive"]),
    (zipped().replace(CONTENT["images/a.jpg"][5_000:5_020], bytes(20)), ["not a whole zip archive"]),
    (b"", ["0 bytes", "not a whole zip archive"]),
    (zipped({"a.py": b"another project"}), ["4 of 4 files are missing or changed", "LICENSE, images/a.jpg"]),
    (zipped(CONTENT | {"images/b.jpg": b"c" * 70_000}), ["1 of 4 files", "the first: images/b.jpg, in what came"]),
    (zipped(extra=[("x", os.urandom(900_000), 0)]), ["sends more than 0.8 MB"]),
], ids=["a page", "cut", "a damaged member", "nothing", "another archive", "one changed", "too much"])  # fmt: skip
def test_something_else_is_refused_and_nothing_kept(source, server, sent, words):
    server.files["/set.zip"] = sent
    refused(source, *words)


def test_more_than_the_bound_is_not_read(source, server, monkeypatch):
    sizes, chunks = [], requests.Response.iter_content
    counted = lambda self, size: (sizes.append(len(chunk)) or chunk for chunk in chunks(self, size))  # noqa: E731
    monkeypatch.setattr(requests.Response, "iter_content", counted)
    server.files["/set.zip"], server.announced = zipped() + bytes(5_000_000), False
    refused(source, "sends more than 0.8 MB")
    assert 700_000 < sum(sizes) < 900_000


def test_a_bomb_is_read_no_further_than_the_file_it_stands_for(source, server, monkeypatch):
    asked, read_member = [], zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: asked.append(n) or read_member(self, n))
    server.files["/set.zip"] = zipped(CONTENT | {"images/b.jpg": bytes(50_000_000)})
    refused(source, "1 of 4 files", "images/b.jpg")
    assert sorted(asked) == sorted(len(data) + 1 for data in CONTENT.values())


@pytest.mark.parametrize("url", ["http://example.org/set.zip", "ftp://127.0.0.1/set.zip", "file:///etc/set.zip"])
def test_only_https(source, url):
    refused(Source("tiny", (url,), "data/tiny"), "not an https address")


def test_a_redirect_away_from_https(source, server, monkeypatch):
    server.files["/moved.zip"] = f"http://localhost:{server.server_port}/set.zip"
    moved = Source("tiny", (f"{server.url}/moved.zip",), "data/tiny")
    monkeypatch.setattr(downloads, "LOCAL", ("127.0.0.1",))
    refused(moved, "localhost", "not an https address")
    monkeypatch.setattr(downloads, "LOCAL", ("127.0.0.1", "localhost"))
    assert read(fetch(moved)) == CONTENT


# --- copies that are there --------------------------------------------------------------------------------------------


def state(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in [folder, *folder.rglob("*")]}


def test_a_copy_beside_the_project_is_used_in_place(source, server):
    copy = files.ROOT.parent / "shared/data/tiny"
    write(copy)
    (copy / "README").write_text("more than the manifest asks for")
    for path in [*copy.rglob("*"), copy]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state(copy.parent)
    try:
        assert fetch(source) == copy and server.asked == []
        assert state(copy.parent) == before and not (files.ROOT / "data").exists()
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)


def test_a_copy_beside_the_project_with_wrong_files(source, server, tmp_path, monkeypatch):
    copy = files.ROOT.parent / "shared/data/tiny"
    write(copy, CONTENT | {"images/b.jpg": b"c" * 70_000})
    (copy / "labels/a.txt").unlink()
    with pytest.raises(DownloadError, match=r"2 of 4 files.*images/b\.jpg, labels/a\.txt; restore.*YOLOP_DATA"):
        fetch(source)
    assert server.asked == []
    monkeypatch.setattr(files, "DATA", tmp_path / "mine")  # the way out that the message names
    assert fetch(source) == tmp_path / "mine" / "tiny" and len(server.asked) == 1


def test_a_folder_beside_the_project_without_any_of_the_files_is_no_copy(source):
    write(files.ROOT.parent / "shared/data/tiny", {"README": b"to come"})
    assert fetch(source) == files.ROOT / "data/downloads/tiny"


def test_yolop_data_is_looked_at_first(source, server, tmp_path, monkeypatch):
    write(files.ROOT.parent / "shared/data/tiny")
    write(tmp_path / "mine/tiny")
    monkeypatch.setattr(files, "DATA", tmp_path / "mine")
    assert fetch(source) == tmp_path / "mine/tiny"
    monkeypatch.setattr(files, "DATA", tmp_path / "empty")
    assert fetch(source) == files.ROOT.parent / "shared/data/tiny" and server.asked == []


@pytest.mark.parametrize("own", [True, False])
def test_a_copy_in_the_target_is_repaired(source, server, tmp_path, monkeypatch, own):
    target = (tmp_path / "mine" if own else files.ROOT / "data/downloads") / "tiny"
    if own:
        monkeypatch.setattr(files, "DATA", tmp_path / "mine")
    write(target, CONTENT | {"images/b.jpg": b"damaged", "notes.txt": b"of the user"})
    (target / "LICENSE").unlink()
    kept = (target / "images/a.jpg").stat().st_ino
    assert fetch(source) == target and len(server.asked) == 1
    assert read(target) == CONTENT | {"notes.txt": b"of the user"}
    assert (target / "images/a.jpg").stat().st_ino == kept


@pytest.mark.parametrize("last_act", ["tqdm.tqdm", "downloads._unpacked", "downloads.write_atomically"])
def test_killed_in_the_middle_is_not_taken_for_whole(source, server, tmp_path, last_act):
    code = f"""
import os, tqdm
from yolop.data import downloads
downloads.MANIFESTS = downloads.Path({str(tmp_path / "manifests")!r})
{last_act} = lambda *_, **__: os._exit(9)
downloads.fetch(downloads.{source!r})
"""
    environment = os.environ | {"YOLOP_ROOT": str(files.ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 9
    target = files.ROOT / "data/downloads/tiny"
    assert not target.exists() and left_behind(target) != []
    assert fetch(source) == target and read(target) == CONTENT and left_behind(target) == ["tiny"]
    assert len(server.asked) == (2 if last_act == "tqdm.tqdm" else 1)


def test_unwritable_target(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(files, "DATA", tmp_path / "file")
    with pytest.raises(StoreError, match="could not write .*file/tiny"):
        fetch(source)


# --- manifests --------------------------------------------------------------------------------------------------------


def test_a_manifest_says_what_is_there(tmp_path):
    write(tmp_path)
    text = manifest_text(tmp_path, list(reversed(CONTENT)))
    assert text.count("\n") == len(CONTENT) + 2 and list(json.loads(text)["files"]) == sorted(CONTENT)
    files = {path: tuple(entry) for path, entry in json.loads(text)["files"].items()}
    assert wrong_files(tmp_path, files) == {}
    (tmp_path / "images/a.jpg").write_bytes(CONTENT["images/a.jpg"][::-1])
    assert set(wrong_files(tmp_path, files)) == {"images/a.jpg"}


@pytest.mark.parametrize("path", sorted(downloads.MANIFESTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_manifests_lead_nowhere_else(path):
    files = read_manifest(path.stem)
    assert list(files) == sorted(files) and len(files) > 0
    for name, (size, digest) in files.items():
        parts = name.split("/")
        assert size >= 0 and len(digest) == 64 and "\\" not in name
        assert all(part not in ("", ".", "..") for part in parts)
