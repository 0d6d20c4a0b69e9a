"""get_or_run(spec): do a piece of work once, keep its record, never trust a damaged one.

A record is one small JSON file. Freshly computed ones lie in `data/runs/<study>/<run id>/record.json` beside what they
made (weights); committed evidence lies in `data/records/<study>/<run id>.json`. Both carry their own checksum.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock

from yolop.specs import SCHEMA, STUDIES, canonical, content_hash, run_id

MOST_BYTES = 100_000_000  # of a record; one of 34,000 sweep points has a tenth of that
UNFINISHED = ".unfinished"  # what long work keeps in its folder to go on from: no part of the record
ROOT = Path(os.environ.get("YOLOP_ROOT") or Path(__file__).resolve().parents[1])
VERSIONED = (
    *("torch", "torchvision", "ultralytics-opencv-headless", "numpy", "pillow", "scikit-learn", "scikit-image"),
    *("numba", "torch-pruning", "onnxruntime", "openvino", "nncf", "ncnn"),
)


class StoreError(RuntimeError):
    """A record is absent, damaged or could not be written; the message says which and what to do."""


class DamagedRecord(StoreError):
    """A record or one of its files is not what was written."""


@dataclass(frozen=True)
class Record:
    """What doing a spec once gave: metrics, the files it made (name -> SHA-256), and where and with what it ran."""

    run_id: str
    spec: dict
    metrics: dict
    files: dict
    seconds: float
    host: dict
    versions: dict
    folder: Path | None = None  # where the files are; None for committed evidence

    def path(self, name: str) -> Path:
        """Path of one of the record's files; StoreError if this record came without them."""
        if self.folder is None:
            raise StoreError(f'{self.run_id} is committed without {name}: compute it with records="fresh"')
        return self.folder / name

    def to_json(self) -> str:
        """The record as text, with a checksum over all of it and a newline at the end."""
        body = {k: v for k, v in asdict(self).items() if k != "folder"} | {"schema": SCHEMA, "status": "complete"}
        body["checksum"] = hashlib.sha256(canonical(body).encode()).hexdigest()
        return json.dumps(body, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path, folder: Path | None = None) -> Record:
        """The record in a file, as of `from_json`; DamagedRecord also for a file larger than any record."""
        if path.stat().st_size > MOST_BYTES:
            raise DamagedRecord(f"it has more than {MOST_BYTES:,} bytes")
        return cls.from_json(path.read_text(encoding="utf-8"), folder)

    @classmethod
    def from_json(cls, text: str, folder: Path | None = None) -> Record:
        """Read a record back; DamagedRecord if the text is not what `to_json` wrote, or its fields make no record.

        The checksum tells damage, not forgery: who edits a number by hand can compute it anew. What such a number changes
        is named by `runner.verify`.
        """
        try:
            body = json.loads(text)
            checksum = body.pop("checksum")
            whole = checksum == hashlib.sha256(canonical(body).encode()).hexdigest()
            if not whole or body.pop("status") != "complete" or body.pop("schema") != SCHEMA:
                raise ValueError("checksum, status or schema differ")
            json.dumps(body, ensure_ascii=False).encode()  # halves of characters, which no file can hold, raise
            record = cls(**body, folder=folder)
            record._check()
            return record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedRecord(f"not a whole record: {error}") from None

    def _check(self) -> None:
        """ValueError for fields of other types, files that may lie elsewhere, or a spec that is not the run id's."""
        dicts = (self.spec, self.metrics, self.files, self.host, self.versions)
        if not all(isinstance(value, dict) for value in dicts) or type(self.seconds) not in (int, float):
            raise ValueError("a field is of another type")
        for name, digest in self.files.items():
            if not (re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII) and re.fullmatch(r"[0-9a-f]{64}", digest)):
                raise ValueError("a file's name or digest is none")
        kind, content = self.spec["kind"], {key: value for key, value in self.spec.items() if key != "kind"}
        if not re.fullmatch(rf"{re.escape(kind)}-.*{content_hash(kind, content)}", self.run_id):
            raise ValueError("its spec is not the one of its run id")


def published() -> list[str]:
    """Names of the studies whose records are committed, in the order of STUDIES."""
    return [name for name in STUDIES if list((ROOT / "data" / "records" / name).glob("*.json"))]


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write so that `path` is either the old whole file or the new one, whatever happens in between."""
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
        raise StoreError(f"could not write {path}: {error.strerror}; {way_out(error.errno)}") from error


def read_json(path: Path):
    """What a file that this project wrote holds; StoreError if it is not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(f"{path} is damaged ({error}): delete it, or restore it, e.g. git checkout") from None


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


def host() -> dict:
    """The machine in words that do not name it: processor, cores, memory, system, Python."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def versions() -> dict:
    """Versions of the packages that can change a number."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


class Store:
    """The records of one study. `compute=False` reads committed evidence only and needs neither data nor weights;
    `finished=True` reads what this machine has computed, and computes nothing more."""

    def __init__(self, study: str, compute: bool, root: Path | None = None, finished: bool = False):
        root = root or ROOT
        self.study, self.compute, self.finished = study, compute, finished
        self.runs, self.committed = root / "data" / "runs" / study, root / "data" / "records" / study
        self.used: dict[str, Record] = {}  # every record handed out, for provenance

    def get(self, spec) -> Record | None:
        """The whole record of a spec, or None. Damaged fresh records are set aside with a warning; damaged committed
        ones raise, because there is nothing to recompute them from."""
        name = run_id(spec)
        if name in self.used:
            return self.used[name]
        record = self._read_fresh(name) if self.compute else self._read_committed(name)
        if record is not None:
            self.used[name] = record
        return record

    def get_or_run(self, spec, work: Callable[[Path], dict]) -> Record:
        """The record of `spec`, by reading or by calling `work(folder) -> metrics` once.

        `work` leaves the files that belong to the record in `folder`. Two processes that ask for the same spec do the
        work once: the second waits. Errors in `work` leave no record.

        Raises:
            StoreError: the record is not committed and this store may not compute.
        """
        record = self.get(spec)
        if record is not None:
            return record
        name = run_id(spec)
        if not self.compute:
            raise StoreError(
                f"no committed record {name} in {self.committed.name}: these settings were never published. "
                'Compute them with records="fresh", or go back to the published settings'
            )
        if self.finished:
            raise StoreError(f"{name} was not computed on this machine yet: python -m yolop run {self.study}")
        folder = self.runs / name
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.runs / f".{name}.lock"):
            record = self.get(spec)  # another process may have finished while we waited
            if record is None:
                record = self._run(spec, name, folder, work)
                self.used[name] = record
        return record

    def _run(self, spec, name: str, folder: Path, work: Callable[[Path], dict]) -> Record:
        for leftover in folder.iterdir():  # of a killed run
            if leftover.is_file() and leftover.name != UNFINISHED:
                leftover.unlink()
        began = time.perf_counter()
        metrics = json.loads(canonical(work(folder)))  # what is handed out is what a reader of the file gets
        files = {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")}
        seconds = round(time.perf_counter() - began, 2)
        spec_dict = json.loads(canonical({"kind": spec.kind} | asdict(spec)))
        record = Record(name, spec_dict, metrics, files, seconds, host(), versions(), folder)
        write_atomically(folder / "record.json", record.to_json())
        (folder / UNFINISHED).unlink(missing_ok=True)
        return record

    def _read(self, path: Path, name: str, folder: Path | None = None) -> Record:
        record = Record.read(path, folder)
        if record.run_id != name:
            raise DamagedRecord(f"it is the record of {record.run_id}")
        return record

    def _read_committed(self, name: str) -> Record | None:
        path = self.committed / f"{name}.json"
        if not path.exists():
            return None
        try:
            return self._read(path, name)
        except (DamagedRecord, UnicodeDecodeError) as error:
            raise DamagedRecord(
                f"committed record {name} is damaged ({error}): restore it, e.g. git checkout"
            ) from None

    def _read_fresh(self, name: str) -> Record | None:
        folder = self.runs / name
        path = folder / "record.json"
        if not path.exists():
            return None
        try:
            record = self._read(path, name, folder)
            for file, digest in record.files.items():
                if not (folder / file).is_file() or sha256(folder / file) != digest:
                    raise DamagedRecord(f"{file} is missing or has changed")
            return record
        except (DamagedRecord, UnicodeDecodeError) as error:
            path.replace(path.with_name("record.damaged"))
            warnings.warn(f"record {name} was damaged ({error}); set aside, computing it again", stacklevel=2)
            return None
