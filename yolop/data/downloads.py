"""Files whose content is known: a copy that lies here is used in place, anything else is downloaded, both are verified.

A manifest, `manifests/<name>.json`, lists every file of a source with its size and SHA-256. It decides, not the
archive: one that was packed anew with the same files passes, one changed file fails by name, nothing else is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from filelock import FileLock

from yolop import files
from yolop.files import StoreError, not_written, sha256, write_atomically

MANIFESTS = Path(__file__).parent / "manifests"
RETRIES = 3  # after 1, 2 and 3 seconds
TIMEOUT_S = 30  # without one byte
CHUNK = 2**16  # bytes
SLACK = 64 * 2**20  # bytes that an archive may hold beside the files of its manifest, twice over
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the other compressions unpack without a limit
LOCAL = ("127.0.0.1", "localhost", "::1")

Manifest = dict[str, tuple[int, str]]  # path inside the folder -> size in bytes, SHA-256


class DownloadError(StoreError):
    """Files that are not here, or not what they should be; the message names them and the way out."""


@dataclass(frozen=True)
class Source:
    """Where the files of the manifest `name` come from: zip archives, or for a manifest of one file, that file."""

    name: str
    urls: tuple[str, ...]
    beside: str  # folder below ../shared, seen from the project, where a copy may lie


def read_manifest(name: str) -> Manifest:
    """The files of a source, known before any of them is here."""
    listed = json.loads((MANIFESTS / f"{name}.json").read_text(encoding="utf-8"))["files"]
    return {path: (size, digest) for path, (size, digest) in listed.items()}


def wrong_files(folder: Path, known: Manifest) -> Manifest:
    """Those of `known` that are missing below `folder`, cannot be read, or have another content."""
    return {path: entry for path, entry in known.items() if not _holds(folder / path, *entry)}


def fetch(source: Source) -> Path:
    """A folder that holds every file of the source, verified by content at each call.

    A whole copy is used where it lies and never written to, without any connection: `$YOLOP_DATA/<name>`, `../shared/...`
    beside the project, `data/downloads/<name>`. Else pooch downloads the archives, and the files that are missing or
    changed are put into `$YOLOP_DATA/<name>`, or without that variable into `data/downloads/<name>`.

    Raises:
        DownloadError: no network, a server that sends something else, no room; or, without `$YOLOP_DATA`, a copy
            beside the project with wrong files.
    """
    known, downloads = read_manifest(source.name), files.ROOT / "data" / "downloads"
    target, beside = (files.DATA or downloads) / source.name, files.ROOT.parent / "shared" / source.beside
    for folder in (target, beside, downloads / source.name):
        wrong = wrong_files(folder, known)
        if not wrong:
            return folder
        if folder == beside and not files.DATA and any((folder / path).exists() for path in known):
            raise DownloadError(
                f"{folder}: {_named(wrong, known)}; restore them, move that folder away, "
                "or set YOLOP_DATA to a folder of your own, and they are downloaded"
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{source.name}.lock")):  # another process may download while this one waits
            if wrong := wrong_files(target, known):
                _download(source, wrong, target)
    except OSError as error:
        raise not_written(target, error) from error
    return target


def _holds(path: Path, size: int, digest: str) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size and sha256(path) == digest
    except OSError:
        return False


def _named(wrong: Manifest, known: Manifest) -> str:
    return f"{len(wrong)} of {len(known)} files are missing or changed; the first: {', '.join(list(wrong)[:3])}"


def _download(source: Source, wanted: Manifest, target: Path) -> None:
    """Put the files that are wanted into the folder `target`: none before all are verified."""
    import pooch
    import requests

    limit = 2 * sum(size for size, _ in read_manifest(source.name).values()) + SLACK
    names = {Path(urlsplit(url).path).name: url for url in source.urls}
    cache, found, came = target.with_name(f".{source.name}.unfinished"), {}, []
    registry = pooch.create(cache, "", registry=dict.fromkeys(names), urls=names, retry_if_failed=RETRIES)
    try:
        for name, url in names.items():
            data = Path(registry.fetch(name, downloader=partial(_receive, limit=limit))).read_bytes()
            came.append(f"{url} sent {len(data)} bytes that begin with {data[:40]!r}")
            found |= _unpacked(data, wanted) if name.endswith(".zip") else _known(data, wanted)
        if missing := {path: entry for path, entry in wanted.items() if path not in found}:
            raise DownloadError(f"{_named(missing, wanted)}, in what came; nothing was kept. {'; '.join(came)}")
        for path, data in found.items():
            write_atomically(target / path, data)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{came[-1]}, not a whole zip archive: {error}; nothing was kept") from error
    except (requests.RequestException, ValueError, FileNotFoundError) as error:
        raise DownloadError(
            f"could not download {url}: {str(error)[:300]}. Try again later; without a network put the files that "
            f"{MANIFESTS / source.name}.json lists into {target}, or set YOLOP_DATA to the folder that holds {source.name}"
        ) from error
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _receive(url: str, to: str, _, limit: int) -> None:
    """Download for pooch: by https alone, at most `limit` bytes, and what is not there is asked for once."""
    import requests
    from tqdm import tqdm

    opened = ExitStack()

    def accept(response, **_) -> None:
        opened.callback(response.close)
        if response.is_redirect:
            _refuse_plain(urljoin(response.url, response.headers["Location"]))
        elif 400 <= response.status_code < 500 and response.status_code not in (408, 429):
            raise FileNotFoundError(f"the server answers {response.status_code} {response.reason}")

    _refuse_plain(url)
    options = {"timeout": TIMEOUT_S, "headers": {"Accept-Encoding": "identity"}, "hooks": {"response": accept}}
    with opened, open(to, "wb") as file:
        response = requests.get(url, stream=True, **options)
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0)) or None
        for chunk in tqdm(response.iter_content(CHUNK), total=total and -(-total // CHUNK), unit="B", unit_scale=CHUNK):
            if file.tell() + len(chunk) > limit:
                raise DownloadError(f"{url} sends more than {limit / 1e6:.1f} MB, so it is something else: refused")
            file.write(chunk)


def _refuse_plain(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise DownloadError(f"{url} is not an https address: nothing was downloaded from it")


def _known(data: bytes, wanted: Manifest) -> dict[str, bytes]:
    """The data under its path in the manifest; empty if it has none."""
    digest = hashlib.sha256(data).hexdigest()
    return {path: data for path, entry in wanted.items() if digest == entry[1]}


def _unpacked(archive: bytes, wanted: Manifest) -> dict[str, bytes]:
    """Those of the wanted files that a zip archive holds, whatever folders it has them in; BadZipFile if it is damaged.

    Only content that is known comes out, under the manifest's own paths: what else an archive may hold (links, names that
    lead elsewhere, members larger than announced) has no way out of it.
    """
    found, depth = {}, 1 + max(path.count("/") for path in wanted)
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            for member in opened.infolist():
                parts = member.filename.split("/")
                ends = ("/".join(parts[-n:]) for n in range(depth, 0, -1))
                path = next((end for end in ends if end in wanted), None)
                regular = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)  # 0: packed without modes
                bounded = member.compress_type in BOUNDED
                if path and regular and bounded and ".." not in parts and parts[0]:
                    with opened.open(member) as file:  # never more is read, whatever the archive announces
                        found |= _known(file.read(wanted[path][0] + 1), {path: wanted[path]})
    except Exception as error:  # the reader raises nearly anything on damaged archives
        raise zipfile.BadZipFile(str(error)) from error
    return found
