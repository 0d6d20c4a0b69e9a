"""Records: do a piece of work once, keep what it gave, never trust a damaged one.

One store serves all studies. A record is one small JSON file. Computed ones lie in `data/runs/<run id>/record.json` beside
what they made (weights); committed evidence lies in `data/records/<run id>.json`. Both carry their own checksum. A study is a
list of run ids, so settings that two studies share are computed once.
"""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import platform
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock

from yolop import files, idle
from yolop.files import DamagedRecord, StoreError, sha256, write_atomically
from yolop.specs import SCHEMA, Spec, SweepSpec, canonical, content_hash, identity, require, run_id

COMPUTE = {  # kind of spec -> the function (spec, parents, folder) -> metrics that does the work
    "data": "yolop.data.load:compute",
    "official": "yolop.network.weights:compute",
    "census": "yolop.network.yolov5:compute_census",
    "stem": "yolop.measure.stem:compute",
    "train": "yolop.train.trainer:compute",
    "evaluation": "yolop.measure.evaluation:compute",
    "tie-orders": "yolop.measure.evaluation:compute_tie_orders",
    "pictures": "yolop.measure.pictures:compute",
    "latency": "yolop.measure.latency:compute",
    "sweep": "yolop.measure.pruning:compute",
    "sensitivity": "yolop.measure.pruning:compute_sensitivity",
    "recipe": "yolop.paper.recipe:compute",
    "atlas": "yolop.speed.atlas:compute",
    "sparse-tensors": "yolop.speed.torch_sparse:compute",
    "narrowing-times": "yolop.speed.channels:compute",
    "export": "yolop.speed.configurations:compute_export",
    "configuration-scores": "yolop.speed.configurations:compute_scores",
    "configuration-times": "yolop.speed.configurations:compute_times",
}
MOST_BYTES = 100_000_000  # of a record; one of 34,000 sweep points has a tenth of that
UNFINISHED = ".unfinished"  # what long work keeps in its folder to go on from: no part of the record
VERSIONED = (
    *("torch", "torchvision", "ultralytics-opencv-headless", "numpy", "pillow", "scikit-learn", "scikit-image"),
    *("numba", "torch-pruning", "onnxruntime", "openvino", "nncf", "ncnn"),
)


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
    asked: Spec | None = None  # the spec that asked for it, with its fields outside the identity

    def path(self, name: str) -> Path:
        """Path of one of the record's files; StoreError if this record came without them."""
        if self.folder is None:
            raise StoreError(f'{self.run_id} is committed without {name}: compute it with records="fresh"')
        return self.folder / name

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over all that the record's file says."""
        return hashlib.sha256(canonical(self._body()).encode()).hexdigest()

    def to_json(self) -> str:
        """The record as text, one row a line, with a checksum over all of it."""
        return _one_row_a_line(self._body() | {"checksum": self.checksum}) + "\n"

    def _body(self) -> dict:
        written = (item.name for item in fields(self) if item.name not in ("folder", "asked"))
        return {name: getattr(self, name) for name in written} | {"schema": SCHEMA, "status": "complete"}

    @classmethod
    def read(cls, path: Path, folder: Path | None = None) -> Record:
        """The record in a file, as of `from_json`; DamagedRecord also for a file larger than any record."""
        if path.stat().st_size > MOST_BYTES:
            raise DamagedRecord(f"it has more than {MOST_BYTES:,} bytes")
        return cls.from_json(path.read_text(encoding="utf-8"), folder)

    @classmethod
    def from_json(cls, text: str, folder: Path | None = None) -> Record:
        """Read a record back; DamagedRecord if the text is not what `to_json` wrote, or its fields make no record.

        The checksum tells damage, not forgery: who edits a number by hand can compute it anew. `verify` names what such a
        number changes.
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


def _one_row_a_line(value, indent: str = "") -> str:
    """JSON in which a dict has a line for each key, and a list of dicts or lists one for each of them."""
    deeper = indent + " "
    if isinstance(value, dict) and value:
        lines = (f"{json.dumps(k, ensure_ascii=False)}: {_one_row_a_line(v, deeper)}" for k, v in sorted(value.items()))
    elif isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        lines = (json.dumps(row, sort_keys=True, allow_nan=False, ensure_ascii=False) for row in value)
    else:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{closing}"


@cache
def host() -> dict:
    """The machine in words that do not name it: processor, cores, memory, system, Python."""
    import psutil

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
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


@cache
def versions() -> dict:
    """Versions of the packages that can change a number."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def committed_path(root: Path, name: str) -> Path:
    """Where the committed record of a run id lies."""
    return root / "data" / "records" / f"{name}.json"


def run_folder(root: Path, name: str) -> Path:
    """Where a run id is computed, and its record and files are kept."""
    return root / "data" / "runs" / name


def read_committed(root: Path, name: str) -> Record | None:
    """The committed record of a run id, or None; a damaged one raises, because nothing can compute it again."""
    path = committed_path(root, name)
    if not path.exists():
        return None
    try:
        return _of(name, Record.read(path))
    except (DamagedRecord, UnicodeDecodeError) as error:
        raise DamagedRecord(f"committed record {name} is damaged ({error}): restore it, e.g. git checkout") from None


def read_computed(root: Path, name: str) -> Record | None:
    """The computed record of a run id with whole files, or None; a damaged one raises DamagedRecord."""
    folder = run_folder(root, name)
    if not (folder / "record.json").exists():
        return None
    try:
        record = _of(name, Record.read(folder / "record.json", folder))
    except UnicodeDecodeError as error:
        raise DamagedRecord(str(error)) from None
    for file, digest in record.files.items():
        if not (folder / file).is_file() or sha256(folder / file) != digest:
            raise DamagedRecord(f"{file} is missing or has changed")
    return record


def _of(name: str, record: Record) -> Record:
    if record.run_id != name:
        raise DamagedRecord(f"it is the record of {record.run_id}")
    return record


def state(root: Path, name: str) -> str:
    """Of a run id: "computed", "committed", "damaged", "started" or "missing"."""
    folder = run_folder(root, name)
    try:
        if read_computed(root, name):
            return "computed"
    except DamagedRecord:
        return "damaged"
    if committed_path(root, name).exists():
        return "committed"
    damaged = (folder / "record.damaged").exists()
    return "damaged" if damaged else "started" if folder.exists() else "missing"


def _whole_or_set_aside(root: Path, name: str) -> Record | None:
    """As `read_computed`, but a damaged record is set aside with a warning, to be computed again."""
    try:
        return read_computed(root, name)
    except DamagedRecord as error:
        path = run_folder(root, name) / "record.json"
        path.replace(path.with_name("record.damaged"))
        warnings.warn(f"record {name} was damaged ({error}); set aside, computing it again", stacklevel=3)
        return None


def get_or_run(root: Path, spec: Spec, parents: dict[str, Record], quiet: bool = False) -> Record:
    """The record of a spec, by reading or by computing it once; a `quiet` one, a timing, waits for an idle machine.

    The function that COMPUTE names leaves the files that belong to the record in the folder that it is given. Two processes
    that ask for the same spec do the work once: the second waits. An error in the work leaves no record.
    """
    name = run_id(spec)
    folder = run_folder(root, name)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{name}.lock")):
        record = _whole_or_set_aside(root, name)  # another process may have finished while this one waited
        return replace(record or _run(spec, name, folder, parents, quiet), asked=spec)


def _run(spec: Spec, name: str, folder: Path, parents: dict[str, Record], quiet: bool) -> Record:
    for leftover in folder.iterdir():  # of a killed run
        if leftover.is_file() and leftover.name != UNFINISHED:
            leftover.unlink()
    load = {"busy_cores_before": idle.wait_until_idle()} if quiet else {}
    began = time.perf_counter()
    metrics = pkgutil.resolve_name(COMPUTE[spec.kind])(spec, parents, folder)
    metrics = json.loads(canonical(metrics))  # what is handed out is what a reader of the file gets
    made = {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")}
    seconds = round(time.perf_counter() - began, 2)
    load |= {"busy_cores_after": idle.busy_cores()} if quiet else {}
    asked = json.loads(canonical({"kind": spec.kind} | identity(spec)))
    record = Record(name, asked, metrics, made, seconds, host() | load, versions(), folder)
    write_atomically(folder / "record.json", record.to_json())
    (folder / UNFINISHED).unlink(missing_ok=True)
    return record


class Store:
    """All records of one project folder, read in one of three ways.

    "committed" reads the evidence that the repository holds, and needs neither data nor weights; "fresh" reads what this
    machine has computed and computes what is missing; "computed" reads that and computes nothing.
    """

    def __init__(self, records: str = "committed", root: Path | None = None):
        require(records in ("committed", "fresh", "computed"), "records", records, '"committed" or "fresh"')
        self.records, self.root = records, root or files.ROOT
        self.used: dict[str, Record] = {}  # every record handed out, for the manifest of a study
        self._sweeps: dict[str, Record | None] = {}

    def get(self, spec: Spec) -> Record | None:
        """The whole record of a spec, or None. Damaged computed records are set aside with a warning."""
        name = run_id(spec)
        if name not in self.used:
            read = read_committed if self.records == "committed" else _whole_or_set_aside
            record = read(self.root, name)
            if record is None:
                return None
            self.used[name] = replace(record, asked=spec)
        return self.used[name]

    def obtain(self, node) -> Record:
        """The record of a node (`study.graph.Node`), computed with its parents if this store computes; else StoreError."""
        record = self.get(node.spec)
        if record is None:
            self._require_computing(run_id(node.spec))
            parents = {role: self.obtain(parent) for role, parent in node.parents}
            record = self.used[run_id(node.spec)] = get_or_run(self.root, node.spec, parents, node.quiet)
        return record

    def rows(self, node) -> list[dict]:
        """The rows of a sweep's node in the order of its points, each taken from whichever record has it.

        Only points that no record of the same network, data and split holds are computed, all in one new record.
        """
        known = self._rows_of(node)
        rest = self._without(node, known)
        if rest.spec.points:
            record = self.obtain(rest)
            self._sweeps[record.run_id] = record
            known |= {canonical(identity(p)): row for p, row in zip(rest.spec.points, record.metrics["rows"], strict=True)}
        return [known[canonical(identity(point))] for point in node.spec.points]

    def missing(self, node):
        """The node that is left to compute: the node itself, of a sweep the points that no record holds, or None."""
        if isinstance(node.spec, SweepSpec):
            rest = self._without(node, self._rows_of(node))
            return rest if rest.spec.points else None
        return None if self.get(node.spec) else node

    def _rows_of(self, node) -> dict[str, dict]:
        record = self.get(node.spec)
        points = (canonical(identity(point)) for point in node.spec.points)
        return dict(zip(points, record.metrics["rows"], strict=True)) if record else self._known_rows(node.spec)

    @staticmethod
    def _without(node, known: dict[str, dict]):
        points = tuple(point for point in node.spec.points if canonical(identity(point)) not in known)
        return replace(node, spec=replace(node.spec, points=points))

    def _known_rows(self, spec: SweepSpec) -> dict[str, dict]:
        """Rows of all sweeps of a spec's network, by point; for "figures" only those that are scored on resampled images."""
        known, asked = {}, identity(replace(spec, points=()))
        for record in self._all_sweeps():
            if all(record.spec[name] == asked[name] for name in ("parent", "data", "split")):
                rows = [*record.metrics["rows"], *filter(None, [record.metrics.get("control")])]
                fitting = {_point(row): row for row in rows if spec.label != "figures" or "mAP50_resampled" in row}
                known |= fitting
                self.used |= {record.run_id: record} if fitting else {}
        return known

    def _all_sweeps(self) -> Iterator[Record]:
        folder = self.root / "data" / ("records" if self.records == "committed" else "runs")
        read = read_committed if self.records == "committed" else _whole_or_set_aside
        for path in sorted(folder.glob("sweep-*")):
            name = path.name.removesuffix(".json")
            if name not in self._sweeps:
                self._sweeps[name] = read(self.root, name)
            if self._sweeps[name]:
                yield self._sweeps[name]

    def _require_computing(self, name: str) -> None:
        if self.records == "committed":
            raise StoreError(
                f"no committed record {name}: these settings were never published. "
                'Compute them with records="fresh", or go back to the published settings'
            )
        if self.records == "computed":
            raise StoreError(f"{name} was not computed on this machine yet: python -m yolop run")


def _point(row: dict) -> str:
    """The point of a sweep that a row belongs to, as `canonical` gives it."""
    return canonical({name: row[name] for name in ("method", "conv", "c3", "sppf", "reading", "detect", "seed")})
