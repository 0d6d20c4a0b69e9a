"""What a worker of a cluster does: it takes a spec and its parents as bytes, computes, and gives the record back as bytes.

Each worker has a store of its own in its local folder. Generated and public data sets are made or fetched there and compared
with the client's by content; the folder of a user's data set comes as bytes, once.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from yolop import parent, store
from yolop.files import StoreError
from yolop.run.parcels import Parcel, accept, pack
from yolop.run.processes import SPAWN, Lines, reason
from yolop.specs import FolderSpec, Spec, run_id
from yolop.store import Record, get_or_run


class Unfit(Exception):
    """This worker cannot do it, another may: its address and why."""

    def __str__(self) -> str:
        return ": ".join(self.args)


@dataclass(frozen=True)
class Task:
    """A node as it travels: what to do, its parents by role, and what has to be equal on both sides.

    `parents` has the spec of each; those in `data` (role -> digest) are data sets, which are not sent as records. `sent` says
    that a user's data set comes along as bytes.
    """

    spec: Spec
    quiet: bool
    parents: dict[str, Spec]
    data: dict[str, str]
    versions: dict[str, str]
    sent: bool = False


def work(task: Task, *given) -> Parcel:
    """Do a task; `given` are the parcels of its parents that are no data sets, in order, before them a data set if it is sent.

    Raises:
        Unfit: other packages than the client's, or no data set with the content that the client has.
        DamagedRecord: a parent arrived damaged.
    """
    here, root = _address(), _root()
    if wrong := differences(task.versions, store.versions()):
        raise Unfit(here, wrong)
    parcels = list(given)
    folder = parcels.pop(0) if task.sent else None
    parents = {}
    for role, spec in task.parents.items():
        if role in task.data:
            parents[role] = _data(root, spec, task.data[role], folder, here)
        else:
            parents[role] = replace(accept(root, run_id(spec), parcels.pop(0)), asked=spec)
    try:
        return pack(_process().submit(_compute, root, task.spec, parents, task.quiet).result())
    except BrokenProcessPool:
        _process.cache_clear()
        raise StoreError("the process that computed it died: out of memory, or killed from outside") from None


@cache
def _process() -> ProcessPoolExecutor:
    """Where this worker computes: Dask's threads draw from Python's random numbers, and a training needs all of its own."""
    return ProcessPoolExecutor(1, SPAWN, parent.follow)


def _compute(root: Path, spec: Spec, parents: dict[str, Record], quiet: bool) -> Record:
    """In that process: a record; what it prints comes in whole lines, because workers of one machine share its console."""
    name = run_id(spec)
    say = partial(print, f"    {name.rpartition('-')[0]}:", file=sys.stdout, flush=True)
    with redirect_stdout(Lines(lambda item: say(item[1]), name)):
        return get_or_run(root, spec, parents, quiet)


def differences(client: dict[str, str], worker: dict[str, str]) -> str:
    """How the packages of a worker differ from the client's; empty if they do not."""
    names = sorted(name for name in client if worker.get(name) != client[name])
    return "; ".join(f"{name} {worker.get(name, 'absent')} instead of {client[name]}" for name in names)


def _data(root: Path, spec: Spec, digest: str, folder: dict[str, bytes] | None, here: str) -> Record:
    """The record of a data set, made here, with the content that the client has."""
    try:
        if folder is not None and isinstance(spec, FolderSpec) and spec.path:
            spec = replace(spec, path=str(_unpacked(root, digest, folder)))
        record = get_or_run(root, spec, {})
        if record.metrics["digest"] != digest:
            raise StoreError(f"data set {record.metrics['name']} is another here: {record.metrics['digest'][:8]}")
        return record
    except Exception as error:  # whatever it is, another worker may have the data
        raise Unfit(here, f"no data set: {reason(error)}") from None


def _unpacked(root: Path, digest: str, files: dict[str, bytes]) -> Path:
    """The data.yaml of a data set that came as bytes; `folder.read` checks its content."""
    place = root / "data" / "sent" / digest[:16]
    for name, content in files.items():
        path = place / name
        if not path.resolve().is_relative_to(place.resolve()):
            raise StoreError(f"{name} leads out of the data set")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return place / "data.yaml"


def _address() -> str:
    from distributed import get_worker

    return get_worker().address


def _root() -> Path:
    from distributed import get_worker

    return Path(get_worker().local_directory).absolute() / "yolop"
