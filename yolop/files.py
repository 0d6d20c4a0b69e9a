"""Files and folders that are either whole or absent, and what to do when one cannot be written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

Result = TypeVar("Result")
LFS_POINTER = b"version https://git-lfs"  # how a file begins that `git lfs pull` was not called for
MARKER = "made.json"  # in every folder that `made_once` made: one without it is somebody else's


def _folder(variable: str) -> Path | None:
    """The folder that an environment variable names, absolute: notebooks run in a folder of their own."""
    value = os.environ.get(variable)
    return Path(os.path.abspath(os.path.expanduser(value))) if value else None


ROOT = _folder("YOLOP_ROOT") or Path(__file__).resolve().parents[1]  # of the project: records, reports, downloads
DATA = _folder("YOLOP_DATA")  # where the user keeps public data sets; None: in the project


class StoreError(RuntimeError):
    """A record or file is absent, damaged or could not be written; the message says which and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message says all, a traceback would hide it."""
        return [f"{type(self).__name__}: {self}"]


# Errors whose message says what to do; a traceback would only hide it.
PLAIN = ("StoreError", "DamagedRecord", "SpecError", "DatasetError", "DownloadError", "TrainingError")


class NotebookError(RuntimeError):
    """A notebook did not run to its end; the message says which cell, why, and where it was kept."""


class DamagedRecord(StoreError):
    """A record or one of its files is not what was written."""


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write so that `path` is either the old whole file or the new one, whatever happens in between.

    Raises:
        StoreError: the file could not be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # a read-only disk refuses that too
            temporary.unlink(missing_ok=True)
        raise not_written(path, error) from error


def read_json(path: Path):
    """What a file that this project wrote holds; DamagedRecord if it is not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(f"{path} is damaged ({error}): delete it, or restore it, e.g. git checkout") from None


def made_once(target: Path, make: Callable[[Path], None], check: Callable[[Path], Result | None]) -> Result:
    """What `check` returns for the folder `target`, which `make` fills once, however many processes ask for it.

    `check` returns None for a folder that is absent, damaged or something else. Then `make` fills a sibling folder and
    leaves a MARKER in it; only when it is whole does that folder take the target's name. So what a killed run leaves is
    never taken for whole, and is made anew.

    Raises:
        StoreError: `target` holds files but no MARKER, so they are somebody else's; or it could not be written.
    """
    if (result := check(target)) is not None:
        return result
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if check(target) is None:  # another process may have made it while this one waited
                _make_anew(target, make)
    except OSError as error:
        raise not_written(target, error) from error
    if (result := check(target)) is None:
        raise DamagedRecord(f"{target} changed while it was made: start again")
    return result


def _make_anew(target: Path, make: Callable[[Path], None]) -> None:
    if target.exists() and not (target / MARKER).exists() and any(target.iterdir()):
        raise StoreError(f"{target} holds something that was not made here: name another folder, or empty this one")
    unfinished, old = leftovers = [target.with_name(f".{target.name}.{word}") for word in ("unfinished", "old")]
    try:
        for leftover in leftovers:  # of a killed run
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished.mkdir()
        make(unfinished)
        if target.exists():
            target.rename(old)
        unfinished.rename(target)
    finally:
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)


def not_written(path: Path, error: OSError) -> StoreError:
    """The error to raise where writing failed."""
    return StoreError(f"could not write {path}: {error.strerror or error}; {way_out(error.errno)}")


def way_out(number: int | None) -> str:
    """What to do about an error of the operating system, by its number."""
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "free some space and start again"
    elif number == errno.ENAMETOOLONG:
        hint = "move the project to a folder with a shorter path"
    elif number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        hint = "move away what lies where a folder or file is needed"
    else:
        hint = "check that folder and its permissions"
    return f"{hint}, finished records are kept"
