"""A cluster whose parts die, differ or lie: every record is that of an undisturbed run, and none is lost."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support import HERE, tiny_spec
from toy_work import events, toy

from yolop import files
from yolop.data.load import dataset_of
from yolop.files import StoreError
from yolop.measure import latency
from yolop.run import cluster
from yolop.run.progress import Progress
from yolop.specs import DigitsSpec
from yolop.store import Store
from yolop.study.graph import Node
from yolop.study.plan import with_parents

DIGITS = Node(DigitsSpec(train=20, val=6, test=6, imgsz=96))
OTHER_PACKAGES = """
from yolop import store
real = store.versions()
store.versions = lambda: real | {"numpy": "0.1"}
"""
DAMAGED_ONCE = """
from yolop.run import worker
real = worker.real = getattr(worker, 'real', worker.pack)  # it may be loaded twice
def pack(record):
    parcel = real(record)
    if left:
        name = left.pop()
        data = bytearray(parcel.files[name])
        data[3] ^= 1
        parcel.files[name] = bytes(data)
    return parcel
left = ["weights.bin"]
worker.pack = pack
"""
NO_DATA = """
from yolop.files import StoreError
from yolop.run import worker
real = worker.real = getattr(worker, 'real', worker.get_or_run)
def get_or_run(root, spec, parents, quiet=False):
    if spec.kind == "data":
        raise StoreError("the server does not answer")
    return real(root, spec, parents, quiet)
worker.get_or_run = get_or_run
"""


class Machines:
    """A scheduler and workers, each a process of its own with a folder of its own."""

    def __init__(self, folder: Path):
        self.folder, self.workers, self.started = folder, [], 0
        paths = [str(HERE), str(HERE / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self.scheduler = self.start_scheduler()

    def start_scheduler(self) -> subprocess.Popen:
        self.file = self.folder / f"scheduler-{time.monotonic_ns()}.json"
        process = self.start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", self.file
        )
        while not self.file.exists():
            assert process.poll() is None, "no scheduler"
            time.sleep(0.05)
        return process

    def start(self, kind: str, *options) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, options)]
        with (self.folder / "machines.log").open("ab") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def add(self, preload: str = "", resources: str = "train=1") -> subprocess.Popen:
        self.started += 1
        place = self.folder / f"worker-{self.started}"
        place.mkdir()
        options = [
            "--scheduler-file",
            self.file,
            "--no-nanny",
            "--nthreads",
            1,
            "--resources",
            resources,
            "--no-dashboard",
        ]
        if preload:
            (place / "preload.py").write_text(preload)
            options += ["--preload", place / "preload.py"]
        self.workers.append(self.start("worker", *options, "--local-directory", place))
        return self.workers[-1]

    def kill(self, *processes: subprocess.Popen) -> None:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def client(self):
        import distributed

        client = distributed.Client(scheduler_file=str(self.file), timeout=10)
        client.wait_for_workers(sum(worker.poll() is None for worker in self.workers), timeout=240)
        return client


@pytest.fixture
def machines(tmp_path, project, monkeypatch):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log.txt"))
    monkeypatch.setattr(cluster, "POLL_S", 0.5)
    (tmp_path / "log.txt").touch()
    made = Machines(tmp_path)
    yield made
    made.kill(made.scheduler, *made.workers)


def compute(machines: Machines, *tops: Node) -> str:
    """Compute on the cluster what is missing here; what was printed."""
    for _, data in (pair for top in tops for pair in top.parents):
        if data.spec.kind == "data":
            Store("fresh").obtain(data)
    here = Store("computed")
    nodes = {run_id: node for run_id, node in with_parents(tops).items() if here.get(node.spec) is None}
    stream = io.StringIO()
    with machines.client() as client:
        assert cluster.compute(client, nodes, dict.fromkeys(nodes, 1.0), Progress(stream)) == {}
    return stream.getvalue()


def lost(*tops: Node, root: Path) -> int:
    """How many records differ from those of an undisturbed run here, one after another, without a cluster."""
    undisturbed = Store("fresh", root)
    differ = 0
    for node in with_parents(tops).values():
        expected, found = undisturbed.obtain(node), Store("computed").get(node.spec)
        differ += found is None or (expected.files, expected.spec) != (found.files, found.spec)
    return differ


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def begun(tmp_path: Path, label: str) -> bool:
    return f"{label} begin" in events(tmp_path / "log.txt")


def in_background(machines: Machines, *tops: Node):
    """`compute` in a thread, and where its result or error will be."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    future = pool.submit(compute, machines, *tops)
    pool.shutdown(wait=False)
    return future


def test_a_worker_killed_in_a_training(machines, tmp_path, seen):
    data = dataset_of(Store("fresh").obtain(DIGITS))
    nodes = [Node(tiny_spec(data, seed=seed, epochs=8), (("data", DIGITS),)) for seed in (0, 1)]
    machines.add(), machines.add()
    result = in_background(machines, *nodes)
    at_work = {}

    def trains() -> bool:
        for number, process in enumerate(machines.workers, 1):
            if list((tmp_path / f"worker-{number}").rglob("runs/train-*")):
                at_work[number] = process
        return bool(at_work)

    wait_for(trains, 300)
    time.sleep(1)
    machines.kill(*list(at_work.values())[:1])
    result.result(timeout=300)
    with latency.threads(1):  # as on the workers
        missing = lost(*nodes, root=tmp_path / "undisturbed")
    assert missing == 0
    seen("a worker of a cluster killed in a training", 1, "another one does it; weights equal to the bit", missing)


def study() -> list[Node]:
    """A data-free toy graph: a chain of three, four beside it, one that waits for all."""
    a = toy("a", seconds=0.2)
    b = toy("b", a, seconds=0.2)
    rest = [toy(label, seconds=1.0) for label in "cdef"]
    return [toy("last", toy("g", b, seconds=0.2), *rest)]


def test_all_workers_killed(machines, tmp_path, monkeypatch, seen):
    machines.add(), machines.add()
    monkeypatch.setattr(cluster, "GRACE_S", 6.0)
    result = in_background(machines, *study())
    wait_for(lambda: "d end" in events(tmp_path / "log.txt"))
    machines.kill(*machines.workers)
    with pytest.raises(StoreError, match="no worker for 6 s: start some, then start again"):
        result.result(timeout=120)
    machines.workers.clear()
    machines.add(), machines.add()
    before = len([line for line in events(tmp_path / "log.txt") if line.endswith("end")])
    compute(machines, *study())
    missing = lost(*study(), root=tmp_path / "undisturbed")
    assert missing == 0 and before >= 2
    seen("all workers of a cluster killed", 1, "the run stops by name; started again, it goes on", missing)


def test_the_scheduler_killed(machines, tmp_path, seen):
    machines.add()
    result = in_background(machines, *study())
    wait_for(lambda: "d end" in events(tmp_path / "log.txt"))
    machines.kill(machines.scheduler)
    with pytest.raises(StoreError, match="the scheduler is gone: start it"):
        result.result(timeout=120)
    machines.kill(*machines.workers)
    machines.workers.clear()
    machines.scheduler = machines.start_scheduler()
    machines.add()
    compute(machines, *study())
    missing = lost(*study(), root=tmp_path / "undisturbed")
    assert missing == 0
    seen("the scheduler of a cluster killed", 1, "the run stops by name; started again, it goes on", missing)


def test_a_worker_with_other_packages(machines, tmp_path, seen):
    machines.add(), machines.add(OTHER_PACKAGES)
    with pytest.raises(StoreError, match=r"worker tcp://127\S+ would compute other numbers: numpy 0\.1 instead of"):
        compute(machines, *study())
    assert not events(tmp_path / "log.txt")
    seen("a worker whose packages differ", 1, "refused by name before anything starts", 0)


def test_damaged_bytes(machines, tmp_path, seen):
    machines.add(DAMAGED_ONCE)
    printed = compute(machines, *study())
    missing = lost(*study(), root=tmp_path / "undisturbed")
    assert "weights.bin arrived damaged; computed again" in printed and missing == 0
    seen(
        "a worker that returns damaged bytes",
        1,
        "found by checksum, computed again with all that waits for it",
        missing,
    )


CLIENT = """
import sys
import distributed
from toy_work import toy
from yolop.run import cluster
from yolop.run.progress import Progress
from yolop.study.plan import with_parents
if __name__ == "__main__":
    a = toy("a", seconds=1.0)
    nodes = with_parents([toy(label, a, seconds=1.0) for label in "bcde"])
    with distributed.Client(scheduler_file=sys.argv[1]) as client:
        cluster.compute(client, nodes, dict.fromkeys(nodes, 1.0), Progress())
"""


def test_two_clients_at_once(machines, tmp_path, monkeypatch, seen):
    machines.add(), machines.add()
    (tmp_path / "client.py").write_text(CLIENT)
    both = []
    for name in ("one", "two"):
        environment = machines.environment | {"YOLOP_ROOT": str(tmp_path / name)}
        both.append(subprocess.Popen([sys.executable, tmp_path / "client.py", machines.file], env=environment))
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    a = toy("a", seconds=1.0)
    tops, missing = [toy(label, a, seconds=1.0) for label in "bcde"], 0
    for name in ("one", "two"):
        monkeypatch.setattr(files, "ROOT", tmp_path / name)
        missing += lost(*tops, root=tmp_path / "undisturbed")
    ran = [line for line in events(tmp_path / "log.txt") if line.endswith("end")]
    assert missing == 0 and len(ran) <= 15  # five each of `lost`'s own, and of each client at most
    seen("two clients of a cluster at once", 2, "both get every record", missing)


def test_a_result_larger_than_a_message(machines, tmp_path, seen):
    machines.add(), machines.add()
    large = toy("large", size=200_000_000)
    tops = [toy("child", large), toy("other", large)]
    compute(machines, *tops)
    missing = lost(*tops, root=tmp_path / "undisturbed")
    assert missing == 0
    seen("a result larger than a message of a cluster (200 MB)", 1, "arrives whole, here and on other workers", missing)


def test_a_worker_without_the_data_set(machines, tmp_path, seen):
    machines.add(NO_DATA)
    tops = [Node(toy(label).spec, (("data", DIGITS),)) for label in "abc"]
    with pytest.raises(StoreError, match="no worker can do it.*no data set: StoreError: the server does not answer"):
        compute(machines, *tops)
    machines.add()
    printed = compute(machines, *tops)
    assert "the server does not answer" in printed
    missing = sum(Store("computed").get(node.spec) is None for node in tops)
    assert missing == 0
    seen("a worker that cannot reach the data set", 3, "says so, and another takes it", missing)


def test_an_address_that_is_neither_loopback_nor_encrypted(seen):
    tries = (
        "tcp://192.0.2.1:8786",
        "192.0.2.1:8786",
        "ucx://127.0.0.1:1",
        "http://127.0.0.1",
        "tcp://localhost.example:1",
        "",
    )
    for address in tries:
        with pytest.raises(ValueError, match="--cluster"), suppress(StoreError):
            cluster.require_safe(address)
    for address in ("local", "tls://192.0.2.1:8786", "tcp://127.0.0.1:8786", "localhost:8786", "tcp://[::1]:8786"):
        cluster.require_safe(address)
    seen("an address that is neither of this machine nor encrypted", len(tries), "refused before anything connects", 0)
