"""Archives that would write elsewhere: nothing but the known files leaves them."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from strangers import shown
from support import manifest_text

from yolop import files
from yolop.data import downloads
from yolop.data.downloads import DownloadError, Source, fetch

CONTENT = b"the known content " * 100


def zipped(*members: tuple[str, bytes, int]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data, mode in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16  # the constructor tidies names
            archive.writestr(info, data)
    return buffer.getvalue()


def tarred(form: str, name: str, kind: bytes, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w{form}") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, len(CONTENT) if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(CONTENT))
    return buffer.getvalue()


def hostile_archives(canary: Path) -> dict[str, bytes]:
    """None holds the one known file, `images/a.bin`, in an honest place; each tries to write the canary."""
    link, evil = stat.S_IFLNK | 0o777, (str(canary), b"evil", 0)
    upwards = "../" * 20 + str(canary).lstrip("/")
    names = ("../images/a.bin", "x/../images/a.bin", "/images/a.bin", "//x/images/a.bin", "..\\images\\a.bin")
    names += (
        "C:\\images\\a.bin", "images/a.bin/", "images/./a.bin", "IMAGES/A.BIN", "images/a.bin ", "images/../a.bin"
    )  # fmt: skip
    found = {f"a member called {name!r}": zipped((name, CONTENT, 0), evil) for name in names}
    found |= {
        "a path in full": zipped(evil),
        "a path upwards": zipped((upwards, b"evil", 0)),
        "a link in its place": zipped(("images/a.bin", str(canary).encode(), link)),
        "a link to the content": zipped(("images/a.bin", CONTENT, link)),
        "a link, then a file through it": zipped(("images", str(canary.parent).encode(), link), ("images/canary", b"evil", 0)),
        "a device": zipped(("images/a.bin", CONTENT, stat.S_IFCHR | 0o777)),
        "a pipe": zipped(("images/a.bin", CONTENT, stat.S_IFIFO | 0o777)),
        "another content": zipped(("images/a.bin", CONTENT[::-1], 0)),
        "a longer content": zipped(("images/a.bin", CONTENT + b"x", 0)),
        "an archive in an archive": zipped(("inner.zip", zipped(("images/a.bin", CONTENT, 0)), 0)),
        "a program in front": f"#!/bin/sh\ntouch '{canary}'\nexit\n".encode() + zipped(evil),
        "Python to start": zipped(("__main__.py", f"open({str(canary)!r}, 'w')".encode(), 0)),
        "30,000 members": zipped(*[(f"{i}/b.bin", b"", 0) for i in range(30_000)]),
        "no members": zipped(),
        "cut": zipped(("images/a.bin", CONTENT, 0))[:-30],
    }  # fmt: skip
    for form in ("", ":gz", ":bz2", ":xz"):
        kinds = {
            "link": (tarfile.SYMTYPE, str(canary)),
            "hard link": (tarfile.LNKTYPE, str(canary)),
            "file": (tarfile.REGTYPE, ""),
        }
        found |= {f"a tar{form}: {kind}": tarred(form, "images/a.bin", *how) for kind, how in kinds.items()}
        found[f"a tar{form}: a path in full"] = tarred(form, str(canary), tarfile.REGTYPE)
    encrypted = bytearray(zipped(("images/a.bin", CONTENT, 0)))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[encrypted.index(mark) + at] |= 1
    return found | {"an encrypted member": bytes(encrypted)}


def test_archives_that_write_elsewhere(project, tmp_path, canary, monkeypatch, seen):
    (tmp_path / "whole/images").mkdir(parents=True)
    (tmp_path / "whole/images/a.bin").write_bytes(CONTENT)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/tiny.json").write_text(manifest_text(tmp_path / "whole", ["images/a.bin"]))
    monkeypatch.setattr(downloads, "MANIFESTS", tmp_path / "manifests")
    monkeypatch.setattr(files, "DATA", None)
    source, sent = Source("tiny", ("https://example.org/set.zip",), "data/tiny"), {}
    monkeypatch.setattr(downloads, "_receive", lambda url, to, _, limit: Path(to).write_bytes(sent["data"]))
    archives = hostile_archives(canary)
    before = {path for path in tmp_path.rglob("*")} | {project / "data", project / "data/downloads"}
    for name, sent["data"] in archives.items():
        with pytest.raises(DownloadError) as caught:
            fetch(source)
        shown(caught.value)
        assert {path for path in tmp_path.rglob("*") if path.name != ".tiny.lock"} == before, name
    sent["data"] = zipped(("set-1/images/a.bin", CONTENT, 0), (str(canary), b"evil", 0))
    assert (fetch(source) / "images/a.bin").read_bytes() == CONTENT and not canary.exists()
    seen("archives with ../, full paths, links, devices, and tars", len(archives), "refused, nothing written anywhere")
