"""Work whose length and faults are known, for engines: whoever unpickles one of its specs can do it."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from yolop import idle, store
from yolop.files import StoreError
from yolop.specs import Spec, run_id
from yolop.study.graph import Node

store.COMPUTE["toy"] = "toy_work:compute"


@dataclass(frozen=True)
class ToySpec(Spec):
    """Sleep, then leave a file made from the label and the parents' files."""

    kind, slug = "toy", "{label}"
    label: str
    parents: tuple[str, ...] = ()
    seconds: float = 0.0
    act: str = ""  # fail | die | die once | print
    size: int = 1000  # bytes of the file


def toy(label: str, *parents: Node, quiet: bool = False, **fields) -> Node:
    """A node of toy work."""
    spec = ToySpec(label, tuple(parent.id for parent in parents), **fields)
    return Node(spec, tuple((parent.id, parent) for parent in parents), quiet)


def compute(spec: ToySpec, parents: dict, folder: Path) -> dict:
    """What every kind's function does; begin and end of it go to the file that TOY_LOG names."""
    log(f"{spec.label} begin")
    time.sleep(spec.seconds)
    if spec.act == "fail":
        raise StoreError("no luck: try another")
    if spec.act == "die" or (spec.act == "die once" and first_time(run_id(spec))):
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.act == "print":
        print("a bar", end="\r")
        print("half a line", end=" ")
        print("and the rest", flush=True)
    digest = hashlib.sha256(spec.label.encode())
    for name in sorted(name for name, parent in parents.items() if "weights.bin" in parent.files):
        digest.update(parents[name].path("weights.bin").read_bytes())
    data = (digest.digest() * (spec.size // 32 + 1))[: spec.size]
    (folder / "weights.bin").write_bytes(data)
    log(f"{spec.label} end")
    return {"sum": digest.hexdigest(), "threads": os.environ.get("OMP_NUM_THREADS")}


def work_without_waiting(node: Node) -> float:
    """In a worker: as `processes._work`, on a machine that counts as idle."""
    idle.wait_until_idle = idle.busy_cores = lambda: 0.0
    sys.stdout.run_id = node.id
    store.Store("fresh").obtain(node)
    return 0.1


def first_time(name: str) -> bool:
    """Whether nobody has asked for this name before, of all processes that share TOY_LOG."""
    try:
        Path(os.environ["TOY_LOG"]).with_name(f"{name}.mark").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def log(text: str) -> None:
    """A line with the time of the machine's clock."""
    if path := os.environ.get("TOY_LOG"):
        with open(path, "a") as file:
            file.write(f"{time.monotonic()} {text}\n")


def events(path: Path) -> list[str]:
    """What was logged, in order, without the times."""
    return [
        line.split(" ", 1)[1] for line in sorted(path.read_text().splitlines(), key=lambda line: float(line.split()[0]))
    ]
