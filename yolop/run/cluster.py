"""`run --cluster ADDRESS`: the nodes of a study on the workers of a Dask scheduler, which share no disk with this machine.

Every node is a task whose key is its run id. Records and files travel as bytes; the store here verifies and keeps each, and the
first whole one of an id wins, so a task that runs twice does no harm and a run that is started again goes on.
"""

from __future__ import annotations

import ipaddress
import logging
import queue
import warnings
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from yolop import files, idle, store
from yolop.files import DamagedRecord, StoreError
from yolop.run import worker
from yolop.run.parcels import Parcel, accept, folder_files, pack
from yolop.run.processes import reason
from yolop.run.progress import Board, Progress
from yolop.run.schedule import longest_paths
from yolop.specs import FolderSpec, require
from yolop.store import Store
from yolop.study.graph import Node

TRIES = 3  # of a node whose record arrives damaged
GRACE_S = 60.0  # without any worker, after which a run stops
POLL_S = 2.0
GONE = "the scheduler is gone: start it and its workers, then start again, finished records are kept"


def require_safe(address: str) -> None:
    """SpecError unless an address is "local", of this machine, or encrypted: what travels to a worker is run there.

    StoreError where `distributed` is not installed.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    host = parts.hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    good = address == "local" or parts.scheme == "tls" or (loopback and parts.scheme in ("", "tcp"))
    require(good, "--cluster", address, '"local", tls://host:port, or tcp://127.0.0.1:port')
    if find_spec("distributed") is None:
        raise StoreError("--cluster needs one package more: pip install -e '.[cluster]'")


@contextmanager
def connected(address: str) -> Iterator:
    """A client of the scheduler at an address; "local" starts one, with a worker on each core.

    Raises:
        SpecError: an address that is neither safe nor answered.
    """
    require_safe(address)
    import dask
    import distributed

    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are reported here, by name
    warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
    # workers must be able to start processes, which children of a daemon may not
    with dask.config.set({"distributed.worker.daemon": False}):
        if address == "local":
            how = {"threads_per_worker": 1, "resources": {"train": 1}, "dashboard_address": "127.0.0.1:0"}
            how["env"] = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            with distributed.LocalCluster(n_workers=len(idle.usable_cores()), **how) as local, distributed.Client(local) as client:
                yield client
            return
        try:
            client = distributed.Client(address, timeout=10)
        except (OSError, TimeoutError) as error:
            require(False, "--cluster", address, f"a scheduler that answers ({type(error).__name__}: {error})")
        with client:
            yield client


def compute(client, nodes: dict[str, Node], seconds: dict[str, float], progress: Progress) -> dict[str, Node]:
    """Compute nodes on the workers of a client; where none is kept for quiet ones, they are returned.

    Raises:
        StoreError: no fit worker, the scheduler or all workers are gone, or some nodes failed, each with its reason.
    """
    workers = _checked(client)
    quiet = sorted(address for address, able in workers.items() if "quiet" in able)[:1]
    here = {run_id: node for run_id, node in nodes.items() if node.quiet and not quiet}
    there = {run_id: node for run_id, node in nodes.items() if run_id not in here}
    for node in there.values():
        need = _resource(node)
        if not any(need in able for able in workers.values()):
            raise StoreError(f"no worker can do {node.id}: start one with --resources {need}=1")
    board = Board({run_id: seconds[run_id] for run_id in there}, len(workers), progress)
    _Run(client, there, longest_paths(there, seconds), quiet, board).to_the_end()
    board.conclude()
    return here


def _resource(node: Node) -> str:
    """What a worker must have declared to be able to do a node."""
    trains_on_gpu = node.spec.kind == "train" and node.spec.device != "cpu"
    return "quiet" if node.quiet else "gpu" if trains_on_gpu else "train"


def _checked(client) -> dict[str, dict]:
    """Address -> resources of all workers, whose packages are those of this machine."""
    try:
        client.wait_for_workers(1, timeout=GRACE_S)
        client.get_versions(check=True)
        found = client.run(store.versions)
    except (OSError, TimeoutError, ImportError, ValueError) as error:
        raise StoreError(f"the cluster cannot be used: {reason(error)}") from None
    for address, versions in sorted(found.items()):
        if wrong := worker.differences(store.versions(), versions):
            raise StoreError(f"worker {address} would compute other numbers: {wrong}: install the same packages there")
    return {address: about["resources"] for address, about in client.scheduler_info(n_workers=-1)["workers"].items()}


class _Run:
    """Nodes on their way through a cluster: submitted all at once, each after its parents, the longest path first."""

    def __init__(self, client, nodes: dict[str, Node], paths: dict[str, float], quiet: list[str], board: Board):
        self.client, self.nodes, self.paths, self.quiet, self.board = client, nodes, paths, quiet, board
        self.futures, self.given, self.tries, self.unfit = {}, {}, defaultdict(int), defaultdict(set)
        self.events: queue.SimpleQueue = queue.SimpleQueue()
        for run_id in nodes:
            self._submit(run_id)

    def to_the_end(self) -> None:
        """Keep each record that arrives, until all have arrived or can arrive no more."""
        alone_s = 0.0
        while self.futures:
            try:
                run_id, future = self.events.get(timeout=POLL_S)
            except queue.Empty:
                alone_s = 0.0 if self._workers() else alone_s + POLL_S
                if alone_s >= GRACE_S:
                    message = f"no worker for {GRACE_S:.0f} s: start some, then start again, finished records are kept"
                    raise StoreError(message) from None
                continue
            if self.futures.get(run_id) is future:  # not one that was given up
                self._take(run_id, future)

    def _take(self, run_id: str, future) -> None:
        if future.status == "finished":
            try:
                record = accept(files.ROOT, run_id, future.result())
            except DamagedRecord as error:
                return self._again(run_id, str(error))
            except (CancelledError, OSError):  # while the bytes were on their way
                raise StoreError(GONE) from None
            del self.futures[run_id]
            return self.board.finished(run_id, record.seconds)
        if future.status != "error":
            raise StoreError(GONE)
        for _, parent in self.nodes[run_id].parents:
            if parent.id in self.futures and self.futures[parent.id].status == "error":
                return None  # its error is the parent's, whose turn comes
        error = future.exception()
        if isinstance(error, worker.Unfit):
            address, why = error.args
            self.unfit[run_id].add(address)
            self.board.line(run_id, f"not on {address}: {why}")
            if not self._fit(run_id):
                return self._failed(run_id, f"no worker can do it: {error}")
            return self._again(run_id, "")
        if isinstance(error, DamagedRecord):
            return self._again(run_id, str(error))
        return self._failed(run_id, reason(error))

    def _again(self, run_id: str, why: str) -> None:
        """Submit a node once more, and all that wait for it."""
        self.tries[run_id] += 1
        if why:
            if self.tries[run_id] >= TRIES:
                return self._failed(run_id, f"{TRIES} times damaged: {why}")
            self.board.line(run_id, f"{why}; computed again")
        for name in self._with_children(run_id):
            self._submit(name)
        return None

    def _failed(self, run_id: str, why: str) -> None:
        for name in self._with_children(run_id):
            self.futures.pop(name, None)
        self.board.failed(run_id, why)

    def _with_children(self, run_id: str) -> list[str]:
        found = {run_id}
        for name in self.nodes:  # parents before children
            if any(parent.id in found for _, parent in self.nodes[name].parents):
                found.add(name)
        return [name for name in self.nodes if name in found and name in self.futures]

    def _submit(self, run_id: str) -> None:
        node = self.nodes[run_id]
        data = {
            role: Store("computed").get(one.spec).metrics["digest"]
            for role, one in node.parents
            if one.spec.kind == "data"
        }
        own = [one.spec for _, one in node.parents if isinstance(one.spec, FolderSpec) and one.spec.path]
        inputs = [self._folder(spec) for spec in own]
        inputs += [self._parent(one) for role, one in node.parents if role not in data]
        specs = {role: one.spec for role, one in node.parents}
        task = worker.Task(node.spec, node.quiet, specs, data, store.versions(), bool(own))
        tries = f"-{self.tries[run_id]}" if self.tries[run_id] else ""
        future = self.client.submit(
            worker.work, task, *inputs, key=f"yolop-{run_id}{tries}", resources={_resource(node): 1},
            workers=self._fit(run_id) if node.quiet or self.unfit[run_id] else None, priority=self.paths[run_id],
        )  # fmt: skip
        self.futures[run_id] = future
        future.add_done_callback(lambda done: self.events.put((run_id, done)))

    def _parent(self, node: Node):
        """A parent as the cluster holds it: under way, or given to it from the store here."""
        if node.id in self.futures:
            return self.futures[node.id]
        if node.id not in self.given:
            parcel = pack(Store("computed").get(node.spec))
            self.given[node.id] = self.client.submit(_given, parcel, key=f"yolop-given-{node.id}-{id(self)}")
        return self.given[node.id]

    def _folder(self, spec: FolderSpec):
        """A user's data set, sent once to each worker that needs it."""
        if spec.digest not in self.given:
            key = f"yolop-folder-{spec.digest}-{id(self)}"
            self.given[spec.digest] = self.client.submit(_given, folder_files(Path(spec.path)), key=key)
        return self.given[spec.digest]

    def _workers(self) -> dict[str, dict]:
        try:
            return self.client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, ValueError, TimeoutError):
            return {}

    def _fit(self, run_id: str) -> list[str]:
        """Addresses of the workers that may do a node."""
        node = self.nodes[run_id]
        able = [address for address, about in self._workers().items() if _resource(node) in about["resources"]]
        return sorted(set(self.quiet if node.quiet else able) - self.unfit[run_id])


def _given(content: Parcel | dict[str, bytes]) -> Parcel | dict[str, bytes]:
    return content
