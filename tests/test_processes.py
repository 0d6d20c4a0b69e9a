"""Nodes side by side in worker processes give the records that one after another gives, and leave no process behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from support import HERE, STANDSTILL_S
from toy_work import events, toy, work_without_waiting

from yolop import idle
from yolop.files import StoreError
from yolop.run import processes
from yolop.run.progress import Progress
from yolop.specs import SpecError
from yolop.store import Store
from yolop.study.plan import with_parents


@pytest.fixture
def log(project, monkeypatch):
    """Where toy work writes down when it begins and ends."""
    monkeypatch.setenv("TOY_LOG", str(project / "log.txt"))
    monkeypatch.setenv("PYTHONPATH", str(HERE / "tests"))
    monkeypatch.setattr(idle, "wait_until_idle", lambda: 0.0)
    return project / "log.txt"


def compute(*tops, jobs=2, seconds=1.0) -> str:
    """Compute nodes and all that they need; what was printed."""
    nodes, stream = with_parents(tops), io.StringIO()
    processes.compute(nodes, jobs, dict.fromkeys(nodes, seconds), Progress(stream))
    return stream.getvalue()


two = pytest.mark.skipif(len(idle.usable_cores()) < 2, reason="needs two cores")


@two
def test_side_by_side_gives_what_one_after_another_gives(log, tmp_path, monkeypatch):
    a = toy("a", seconds=0.3, act="print")
    tops = [toy("b", a), toy("c", a, seconds=0.5), toy("d", seconds=0.8), toy("e", toy("c", a, seconds=0.5))]
    printed = compute(*tops)
    for run_id, node in with_parents(tops).items():
        expected = Store("fresh", tmp_path / "alone").obtain(node)
        found = Store("computed").get(node.spec)
        assert (found.files, found.metrics["sum"]) == (expected.files, expected.metrics["sum"])
        assert found.metrics["threads"] == str(len(idle.usable_cores()) // 2)
        assert f"    {run_id}  " in printed
    assert "    toy-a: half a line and the rest\n" in printed and "(5 of 5)" in printed


@two
def test_timings_run_after_the_others_alone_with_all_cores(log, monkeypatch):
    slow, timing = toy("slow", seconds=0.5), toy("timing", quiet=True, seconds=0.2)
    other = toy("other", slow, quiet=True, seconds=0.2)
    monkeypatch.setattr(processes, "_work", work_without_waiting)
    compute(slow, toy("quick"), timing, other)
    done = events(log)
    assert set(done[:4]) == {"slow begin", "slow end", "quick begin", "quick end"}
    assert done[4::2] in (["timing begin", "other begin"], ["other begin", "timing begin"])
    assert [line.split()[0] for line in done[4::2]] == [line.split()[0] for line in done[5::2]]
    assert Store("computed").get(timing.spec).metrics["threads"] == str(len(idle.usable_cores()))


@two
def test_what_memory_cannot_hold_waits(log, monkeypatch):
    monkeypatch.setattr(processes, "free_gb", lambda: 1.5)
    compute(toy("a", seconds=0.3), toy("b", seconds=0.3))
    assert [line.split()[1] for line in events(log)] == ["begin", "end", "begin", "end"]


@two
def test_a_failed_node_stops_only_those_that_wait_for_it(log):
    bad = toy("bad", act="fail")
    child, other = toy("child", bad), toy("other", toy("first", seconds=0.5))
    with pytest.raises(StoreError, match=r"^toy-bad-\w+ failed: StoreError: no luck: try another$"):
        compute(child, other)
    assert Store("computed").get(other.spec) and not Store("computed").get(child.spec)


@two
def test_a_worker_that_dies_is_named_with_a_way_out(log):
    with pytest.raises(
        StoreError, match=r"died while it computed toy-\w+-\w+: out of memory.*fewer --jobs.*records are kept"
    ):
        compute(toy("dying", act="die"), toy("long", seconds=30))


def test_jobs_that_cannot_be_are_refused(monkeypatch):
    for jobs in ("0", "-1", "1.5", "many", "", str(len(idle.usable_cores()) + 1)):
        with pytest.raises(SpecError, match="--jobs"):
            processes.workers(jobs, {})
    assert processes.workers("1", {}) == 1
    monkeypatch.setattr(processes, "free_gb", lambda: 0.1)
    assert processes.workers("auto", {}) == 1
    monkeypatch.setattr(processes, "free_gb", lambda: 1000.0)
    assert processes.workers("auto", {}) == len(idle.usable_cores())


RUN = """
if __name__ == "__main__":  # and not in the workers
    from toy_work import toy
    from yolop.run import processes
    from yolop.run.notebooks import ending_kernels
    from yolop.run.progress import Progress
    nodes = {node.id: node for node in (toy("a", seconds=3600.0), toy("b", seconds=3600.0))}
    with ending_kernels():
        processes.compute(nodes, 2, dict.fromkeys(nodes, 1.0), Progress())
"""


@two
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_runner(log, project, number):
    script = project / "run.py"
    script.write_text(RUN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE / "tests")])}
    process = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not log.exists() or log.read_text().count("begin") < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    printed = process.communicate()[0]
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number and "start again" in printed and "Traceback" not in printed
    gone, left = psutil.wait_procs(children, timeout=STANDSTILL_S)
    assert not left
