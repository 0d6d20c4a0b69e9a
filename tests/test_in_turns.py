"""Two processes take turns; what fails in one of them is told here, and none outlives its use."""

import functools
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

import psutil
import pytest
from support import STANDSTILL_S

from yolop.speed import in_turns
from yolop.speed_specs import ConfigurationTimesSpec


def counting(path):
    """A call that notes its process."""

    def call():
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")

    return call


def workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


def test_a_block_waits_and_its_first_call_does_not_count(monkeypatch):
    slept = []
    monkeypatch.setattr(in_turns, "_block", lambda calls: [float(number) for number in range(calls)])
    monkeypatch.setattr(in_turns, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(in_turns.parent, "follow", lambda: None)
    monkeypatch.setattr(in_turns.time, "sleep", slept.append)
    with in_turns.Worker("", (functools.partial, int)) as worker:
        assert worker.block(3) == [1.0, 2.0, 3.0] and slept == [in_turns.PAUSE_S]


def test_warm_processes_take_turns(tmp_path):
    job, spec = (counting, tmp_path / "calls"), ConfigurationTimesSpec("", (), 3, rounds=3, calls=3)
    times_ms, again = in_turns.apart(("A", job), [[("B", job), ("C", job)]], spec)
    assert again["other"].shape == (3, 3)
    assert {label: part.shape for label, part in times_ms.items()} == {"baseline": (3, 3), "other": (3, 3)}
    calls = (tmp_path / "calls").read_text().split()
    first, second = calls[0], calls[2 * in_turns.WARMUP]
    assert calls[:40] == [first] * 20 + [second] * 20 and set(calls) == {first, second} != {str(os.getpid())}
    assert calls[64:74] == [second] * 10  # warms up the second call of its group
    blocks = [calls[i : i + 4] for i in (*range(40, 64, 4), *range(74, 98, 4))]
    assert len(calls) == 98 and all(len(set(block)) == 1 for block in blocks)
    assert all({a[0], b[0]} == {first, second} for a, b in zip(blocks[::2], blocks[1::2], strict=True))
    assert not workers()


def test_further_baselines_take_their_turns_under_their_own_names(tmp_path):
    job, spec = (counting, tmp_path / "calls"), ConfigurationTimesSpec("", (), 3, rounds=2, calls=3)
    (times_ms,) = in_turns.apart(("A", job), [[("B", job)]], spec, 0, ("C", job))
    assert {label: part.shape for label, part in times_ms.items()} == dict.fromkeys(("baseline", "C", "other"), (2, 3))
    calls = (tmp_path / "calls").read_text().split()[3 * 20 :]
    assert len(set(calls)) == 3 and all(len(set(calls[i : i + 4])) == 1 for i in range(0, 24, 4))


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ((int, "no number"), "ValueError: invalid literal"),
        ((functools.partial, os._exit, 1), "its process ended"),
    ],
)
def test_what_fails_in_the_other_process_is_told_here(job, reason):
    with pytest.raises(RuntimeError, match=f"^n, ncnn could not be timed: {reason}"):
        in_turns.Worker("n, ncnn", job)
    assert not workers()


def test_an_interrupt_leaves_no_process_behind(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_turns.Worker("", (functools.partial, time.sleep, 0))
    assert not workers()


KILLED = """
import functools, time
from yolop.speed import in_turns
if __name__ == "__main__":
    worker = in_turns.Worker("", (functools.partial, time.sleep, 0))
    print("ready", flush=True)
    time.sleep(3600)
"""


def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    (tmp_path / "main.py").write_text(KILLED)
    with subprocess.Popen([sys.executable, tmp_path / "main.py"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        left = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(left) >= 1 and not psutil.wait_procs(left, timeout=STANDSTILL_S)[1]
