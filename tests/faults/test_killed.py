"""Killed anywhere: nothing half-written passes for whole, starting again finishes, and the end is that of a quiet run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from support import toy

from yolop.files import sha256
from yolop.store import Record

TRIES = 20
WORK = """
import time
from pathlib import Path
from yolop import store
from yolop.files import ROOT
from yolop.specs import CensusSpec, ModelSpec

def compute(spec, parents, folder):
    with open(folder / "weights.bin", "wb") as file:
        for part in range(8):
            file.write(bytes([part]) * 50_000)
            file.flush()
            time.sleep(0.01)
    Path("works.log").open("a").write(spec.label + " ")
    return {{"letters": [ord(letter) for letter in spec.label]}}

store.COMPUTE["census"] = "__main__:compute"
for label in {labels}:
    print(store.get_or_run(ROOT, CensusSpec(label, (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64), {{}}).metrics)
"""


def a_project(root: Path) -> Path:
    """Two notebooks of six records each, and one that is never run, so that no report is asked for."""
    for name, labels in {"01_one": "abcdef", "02_two": "ghijkl", "03_never": ""}.items():
        toy(root, name, *(WORK.format(labels=repr(part)) for part in (labels[:3], labels[3:])))
    return root


def start(root: Path) -> subprocess.Popen:
    """`yolop run` on a project."""
    return subprocess.Popen(
        [sys.executable, "-m", "yolop", "run", "smoke", "--jobs", "1", "--only", "01,02"],
        env=os.environ | {"YOLOP_ROOT": str(root)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # under nohup it is ignored, here and in children
    )  # fmt: skip


def finish(root: Path) -> str:
    """Run a project to its end and return what it printed."""
    process = start(root)
    printed = process.communicate(timeout=100)[0]
    assert process.returncode == 0, printed
    return printed


def content(root: Path) -> dict:
    """All that a run leaves at its final places, but for times: notebooks byte for byte, records field by field."""
    report, runs = root / "reports" / "smoke" / "notebooks", root / "data" / "runs"
    found = {path.name: path.read_bytes() for path in report.glob("[!.]*")}
    for path in runs.glob("*/record.json"):
        body = json.loads(path.read_text())
        found[path.parent.name] = body["spec"], body["metrics"], body["files"]
        assert {p.name for p in path.parent.iterdir()} == {"record.json", *body["files"]}
    return found


def whole(root: Path) -> None:
    """Whatever lies at a final place is whole: records have their checksum and files, notebooks are notebooks."""
    for path in root.glob("data/runs/*/record.json"):
        record = Record.from_json(path.read_text(), path.parent)
        assert all(sha256(path.parent / name) == digest for name, digest in record.files.items())
    for path in root.glob("reports/smoke/notebooks/[0-9]*.ipynb"):
        nbformat.validate(nbformat.read(path, as_version=4))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """What an undisturbed run leaves, and how many seconds it takes."""
    root = a_project(tmp_path_factory.mktemp("quiet") / "project")
    began = time.monotonic()
    finish(root)
    return content(root), time.monotonic() - began


def kernels(process: subprocess.Popen) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [child for child in psutil.Process(process.pid).children() if "ipykernel_launcher" in child.cmdline()]
    return []


@pytest.mark.parametrize("victim", ["runner", "kernel"])
def test_killed_at_random_moments(tmp_path, quiet, victim, seen):
    expected, seconds = quiet
    root, draw, kills = a_project(tmp_path / "project"), random.Random(victim), 0
    while kills < TRIES:
        process = start(root)
        time.sleep(draw.uniform(0.3, 1.0) * seconds)
        if victim == "runner" and process.poll() is None:
            left = kernels(process)
            process.kill()
            kills += 1
            assert not psutil.wait_procs(left, timeout=10)[1]  # a kernel ends by itself when its runner is gone
        for kernel in kernels(process) if victim == "kernel" else []:
            kernel.kill()
            kills += 1
        printed = process.communicate(timeout=60)[0]
        whole(root)
        if victim == "kernel" and process.returncode:
            assert process.returncode == 1 and "the kernel died" in printed and "Traceback" not in printed
            assert list(root.glob("reports/smoke/notebooks/*.failed.ipynb"))
        if process.returncode == 0:  # all done: begin anew
            assert content(root) == expected
            for path in root.glob("data/runs/*/record.json"):
                path.unlink()
    finish(root)
    assert not list(root.glob("reports/smoke/notebooks/.*"))
    lost = sum(content(root).get(name) != value for name, value in expected.items())
    assert content(root) == expected and lost == 0
    seen(f"SIGKILL of the {victim} at random moments", kills, "started again, it ends as an undisturbed run", lost)


def test_two_runs_at_once_do_the_work_once(tmp_path, quiet, seen):
    root = a_project(tmp_path / "project")
    both = [start(root), start(root)]
    printed = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert sorted((root / "notebooks" / "works.log").read_text().split()) == list("abcdefghijkl")
    assert content(root) == quiet[0]
    seen("two runs at once on one store", 2, "each record computed once, the other waits", 0)


def test_a_killed_run_leaves_its_work_to_the_one_that_waits(tmp_path, quiet, seen):
    draw, tries = random.Random(3), 4
    for number in range(tries):
        root = a_project(tmp_path / str(number))
        first, second = start(root), start(root)
        time.sleep(draw.uniform(0.5, 1.0) * quiet[1])
        first.kill()
        first.communicate(timeout=60)
        printed = second.communicate(timeout=100)[0]
        assert second.returncode == 0, printed
        assert content(root) == quiet[0]
    seen("one of two runs killed", tries, "the other takes over", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_all_children_within_ten_seconds(tmp_path, quiet, number, seen):
    root, draw, tries, slowest = a_project(tmp_path / "project"), random.Random(number), 0, 0.0
    while tries < 5:
        process = start(root)
        process.stdout.readline()  # the first notebook begins
        time.sleep(draw.uniform(0, 0.4) * quiet[1])
        children = psutil.Process(process.pid).children(recursive=True)
        began = time.monotonic()
        process.send_signal(number)
        printed = process.communicate(timeout=30)[0]
        if " in all, at most " in printed:  # it had ended before: begin anew
            for path in root.glob("data/runs/*/record.json"):
                path.unlink()
            continue
        tries, slowest = tries + 1, max(slowest, time.monotonic() - began)
        assert process.returncode == 128 + number and "start again" in printed and "Traceback" not in printed
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        whole(root)
    finish(root)
    assert content(root) == quiet[0] and slowest < 10
    seen(f"{signal.Signals(number).name} to the runner", tries, f"no child left after {slowest:.1f} s", 0)


TRAINING = """
import os, sys
from pathlib import Path
from yolop import store
from yolop.specs import MODELS, DigitsSpec, SparseTrainSpec, TrainSpec
from yolop.train import resume, trainer
resume.EVERY_S = 0.0
root, digits = Path(sys.argv[1]), DigitsSpec(train=20, val=6, test=6, imgsz=96)
for line in sys.stdin:
    place, seed = line.split()
    pid = os.fork()  # of a process that has only imported: a training starts in milliseconds
    if not pid:
        data = store.get_or_run(root / "digits", digits, {})
        kind, more = (TrainSpec, {}) if int(seed) % 2 else (SparseTrainSpec, {"sparsity": 0.8})
        digest, nc = data.metrics["digest"], len(data.metrics["names"])
        spec = kind(MODELS["p"], "p", digest, nc, 64, 8, 8, int(seed), mosaic=1.0, val_every=2, **more)
        store.get_or_run(root / place, spec, {"data": data})
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


def test_a_killed_training_ends_with_the_same_weights(tmp_path, seen):
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def numbers():
        """What the parent of the trainings says: numbers alone on their lines."""
        return next(int(line) for line in process.stdout if line.strip().isdigit())

    def train(place: str, seed: int, seconds: float | None = None) -> bool:
        """Run to the end, or for so long; whether it came to its end."""
        print(place, seed, file=process.stdin, flush=True)
        pid = numbers()
        if seconds is not None:
            time.sleep(seconds)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return numbers() == 0

    def record(place: str) -> dict:
        (path,) = (tmp_path / place / "data" / "runs").glob("*/record.json")
        return json.loads(path.read_text())["metrics"]

    draw, kills, goings_on, seed, lost = random.Random(7), 0, 0, 0, 0
    while kills < TRIES:
        began = time.monotonic()
        assert train(f"whole-{seed}", seed)
        seconds = time.monotonic() - began
        while not train(f"killed-{seed}", seed, draw.uniform(0.2, 0.9) * seconds):
            kills += 1
        expected, found = record(f"whole-{seed}"), record(f"killed-{seed}")
        goings_on += len(found.pop("resumed", []))
        lost += found != expected
        seed += 1
    process.communicate(timeout=60)
    assert lost == 0 and goings_on >= TRIES // 4
    seen(
        "SIGKILL of a training", kills, f"went on {goings_on} times in {seed} trainings; weights equal to the bit", lost
    )
