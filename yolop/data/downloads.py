"""Files whose content is known: a copy that lies here is used in place, anything else is downloaded, both are verified.

A manifest, `manifests/<name>.json`, lists every file of a source with its size and SHA-256. It decides, not the
archive: one that was packed anew with the same files passes, one changed file fails by name, nothing else is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from yolop import store
from yolop.store import sha256

MANIFESTS = Path(__file__).parent / "manifests"
WAITS_S = (1, 3, 9)  # before each further try
TIMEOUT_S = 30  # without one byte
SLACK = 64 * 2**20  # bytes that an archive may hold beside the files of its manifest, twice over
PROGRESS_S = 2  # between two lines of progress
CHUNK = 2**16  # bytes; as much may be lost when a connection breaks
LOCAL = ("127.0.0.1", "localhost", "::1")

Files = dict[str, tuple[int, str]]  # path inside the folder -> size in bytes, SHA-256


class DownloadError(ValueError):
    """Files that are not here, or not what they should be; the message names them and the way out."""


@dataclass(frozen=True)
class Source:
    """Where the files of the manifest `name` come from: zip archives, or for a manifest of one file, that file."""

    name: str
    urls: tuple[str, ...]
    beside: str  # folder below ../shared, seen from the project, where a copy may lie


def read_manifest(name: str) -> Files:
    """The files of a source, known before any of them is here."""
    listed = json.loads((MANIFESTS / f"{name}.json").read_text(encoding="utf-8"))["files"]
    return {path: (size, digest) for path, (size, digest) in listed.items()}


def manifest_text(folder: Path, paths: list[str]) -> str:
    """The text of a manifest: these paths below `folder` as they are now, sorted, one a line."""
    entries = {path: [(folder / path).stat().st_size, sha256(folder / path)] for path in sorted(paths)}
    lines = ",\n".join(f"  {json.dumps(path)}: {json.dumps(entry)}" for path, entry in entries.items())
    return f'{{"files": {{\n{lines}\n}}}}\n'


def wrong_files(folder: Path, files: Files) -> Files:
    """Those of `files` that are missing below `folder`, cannot be read, or have another content."""
    return {path: entry for path, entry in files.items() if not _holds(folder / path, *entry)}


def fetch(source: Source) -> Path:
    """A folder that holds every file of the source, verified by content at each call.

    A whole copy is used where it lies and never written to: `$YOLOP_DATA/<name>`, `../shared/...` beside the project,
    `data/downloads/<name>`. Else the files are downloaded to `$YOLOP_DATA/<name>`, or without that variable to
    `data/downloads/<name>`; of a copy there, only the files that are missing or changed are replaced. What was broken
    off goes on where it stopped, in a later process too.

    Raises:
        DownloadError: no network, a server that sends something else, no room; or, without `$YOLOP_DATA`, a copy
            beside the project with wrong files.
    """
    files, own = read_manifest(source.name), os.environ.get("YOLOP_DATA")
    downloads = store.ROOT / "data" / "downloads"
    target = Path(os.path.abspath(os.path.expanduser(own or downloads))) / source.name
    beside = store.ROOT.parent / "shared" / source.beside
    for folder in (target, beside, downloads / source.name):
        wrong = wrong_files(folder, files)
        if not wrong:
            return folder
        if folder == beside and not own and any((folder / path).exists() for path in files):
            raise DownloadError(
                f"{folder}: {_named(wrong, files)}; restore them, move that folder away, "
                "or set YOLOP_DATA to a folder of your own, and they are downloaded"
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{source.name}.lock")):  # another process may download while we wait
            if wrong := wrong_files(target, files):
                _download(source, wrong, target)
    except OSError as error:
        reason = error.strerror or error
        raise DownloadError(f"could not write {target}: {reason}; make room there, or set YOLOP_DATA") from error
    return target


def _holds(path: Path, size: int, digest: str) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size and sha256(path) == digest
    except OSError:
        return False


def _named(wrong: Files, files: Files) -> str:
    return f"{len(wrong)} of {len(files)} files are missing or changed; the first: {', '.join(list(wrong)[:3])}"


def _download(source: Source, files: Files, target: Path) -> None:
    """Put `files` into the folder `target`: none before all are verified."""
    limit = 2 * sum(size for size, _ in read_manifest(source.name).values()) + SLACK
    archives = {url: target.with_name(f"{source.name}-{Path(urlsplit(url).path).name}") for url in source.urls}
    for url, archive in archives.items():
        if not archive.exists():
            _save(url, archive, limit, target)
    unfinished = target.with_name(f".{source.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run
    try:
        for url, archive in archives.items():
            _unpack(url, archive, files, unfinished)
        if missing := wrong_files(unfinished, files):
            came = "; ".join(_came(url, archive) for url, archive in archives.items())
            raise DownloadError(f"{_named(missing, files)}, in what was downloaded; nothing was kept. {came}")
        if not target.exists():
            unfinished.rename(target)
        for path in wrong_files(target, files):  # of a copy that was there
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(unfinished / path, target / path)
    finally:
        for archive in archives.values():
            archive.unlink(missing_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)


def _came(url: str, archive: Path) -> str:
    with archive.open("rb") as file:
        return f"{url} sent {archive.stat().st_size} bytes that begin with {file.read(40)!r}"


def _unpack(url: str, archive: Path, files: Files, folder: Path) -> None:
    """Write those of `files` that the archive holds below `folder`, whatever folders the archive has them in.

    Only content that is known is written, under the manifest's own paths: what else an archive may hold (links, names
    that lead elsewhere, members larger than announced) has no way out of it.
    """
    if not urlsplit(url).path.endswith(".zip"):
        found = {path: archive.read_bytes() for path in files}
    else:
        try:
            with zipfile.ZipFile(archive) as opened:
                found = dict(filter(None, (_member(opened, member, files) for member in opened.infolist())))
        except Exception as error:  # the reader raises nearly anything on damaged archives
            raise DownloadError(f"{_came(url, archive)}, not a whole zip archive: {error}; nothing was kept") from error
    for path, data in found.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, files: Files) -> tuple[str, bytes] | None:
    """(path, content) of a member that is one of `files`, else None."""
    parts = member.filename.split("/")
    ends = ("/".join(parts[-n:]) for n in range(1 + max(path.count("/") for path in files), 0, -1))
    path = next((end for end in ends if end in files), None)
    regular = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)  # 0: packed where files have no modes
    slow = member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack without a limit
    if path is None or not regular or slow or ".." in parts or not parts[0]:
        return None
    with archive.open(member) as file:
        data = file.read(files[path][0] + 1)  # never more, whatever the archive announces
    return (path, data) if hashlib.sha256(data).hexdigest() == files[path][1] else None


def _save(url: str, to: Path, limit: int, target: Path) -> None:
    """All that `url` sends, in the file `to`; until then in `to`.part, from which another try goes on."""
    import requests

    part = to.with_name(f"{to.name}.part")
    for wait_s in (*WAITS_S, None):
        try:
            _receive(url, part, limit)
            part.replace(to)
            return
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else 0
            if wait_s is None or 400 <= status < 500 and status not in (408, 429):
                raise DownloadError(
                    f"could not download {url}: {str(error)[:300]}. What came is kept, and another start goes on from "
                    f"there. Without a network, put the files that {MANIFESTS / target.name}.json lists into {target}, "
                    f"or set YOLOP_DATA to the folder that holds {target.name}"
                ) from error
        time.sleep(wait_s)


def _receive(url: str, part: Path, limit: int) -> None:
    """One try: the rest of what `url` sends appended to `part`, or all of it anew where the server knows no ranges."""
    import requests

    _refuse_plain(url)
    done = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        for hop in (*response.history, response):
            _refuse_plain(hop.url)
        rest = response.status_code == 206
        if response.status_code == 416 or rest and f"bytes {done}-" not in response.headers.get("Content-Range", ""):
            part.unlink(missing_ok=True)
            raise requests.RequestException("the server has no such range; starting over")
        response.raise_for_status()
        done = before = done if rest else 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else 0  # 0: not announced
        began = shown = time.monotonic()
        try:
            with part.open("ab" if rest else "wb") as file:
                for chunk in response.iter_content(CHUNK):
                    done += len(chunk)
                    if max(done, total) > limit:
                        break
                    file.write(chunk)
                    if time.monotonic() - shown >= PROGRESS_S:
                        shown = time.monotonic()
                        left_s = (total - done) * (shown - began) / (done - before)
                        announced = f" of {total / 1e6:.1f} MB, {left_s:.0f} s left" if total else " MB"
                        _show(f"{part.stem}: {done / 1e6:.1f}{announced}")
        finally:
            _show(f"{part.stem}: {done / 1e6:.1f} MB received", "\n")
    if max(done, total) > limit:
        part.unlink()
        raise DownloadError(f"{url} sends more than {limit / 1e6:.1f} MB, so it is something else; nothing was kept")


def _show(text: str, end: str = "") -> None:
    print(f"\r{text:<78}", end=end, file=sys.stderr, flush=True)


def _refuse_plain(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise DownloadError(f"{url} is not an https address: nothing was downloaded from it")
