"""How long nodes will take and how much memory they need, by the committed records of work like theirs."""

from __future__ import annotations

import statistics
from contextlib import suppress
from functools import cache
from os.path import commonprefix

import pandas as pd

from yolop import files, store
from yolop.files import DamagedRecord
from yolop.run.schedule import longest_paths, makespan
from yolop.specs import Spec
from yolop.store import Record
from yolop.study.graph import Node

UNKNOWN_S = 4.0  # of a kind of which there is no record; and of a notebook, to start a kernel, read records and draw
# Memory of a process with PyTorch and its images, and what a training adds for each image of a batch at 640 px and n's width.
# Measured peaks of a training step, without images (bfloat16): n 128 px batch 16 0.85 GB, 320 px batch 8 1.00 and 16 1.22,
# 640 px batch 16 2.44; s 320 px batch 8 1.28. The estimates are 0.1 to 0.5 GB above them.
PROCESS_GB, IMAGE_GB = 0.9, 0.125
WORKERS = (1, 2, 4, 8, 16, 32)
LAYOUT = {"index": False, "floatfmt": ".2f"}


def seconds(nodes: dict[str, Node]) -> dict[str, float]:
    """Run id -> seconds that each node will take: as the committed record of its id says, or those of its kind most like it."""
    known = committed(files.ROOT)
    return {run_id: _seconds(node, known) for run_id, node in nodes.items()}


@cache
def committed(root) -> dict[str, Record]:
    """The whole committed records of a project, by run id; read once."""
    found = {}
    for path in sorted((root / "data" / "records").glob("*.json")):
        with suppress(DamagedRecord):
            found[path.stem] = store.read_committed(root, path.stem)
    return found


def _seconds(node: Node, known: dict[str, Record]) -> float:
    run_id = node.id
    if run_id in known:
        return known[run_id].seconds
    alike = [(len(commonprefix([name, run_id])), r) for name, r in known.items() if r.spec["kind"] == node.spec.kind]
    closest = max((length for length, _ in alike), default=0)
    weights = dict(node.parents).get("weights")
    size = _size(vars(node.spec), getattr(weights.spec, "imgsz", None) if weights else None)
    found = [r.seconds / _size(r.spec, _parents_imgsz(r, known)) * size for length, r in alike if length == closest]
    return statistics.mean(found) if found else UNKNOWN_S


def _parents_imgsz(record: Record, known: dict[str, Record]) -> int | None:
    parent = known.get(record.spec.get("parent", ""))
    return parent.spec.get("imgsz") if parent else None


def _size(spec: dict, parents_imgsz: int | None) -> float:
    """How long work is against other work of its kind: epochs, rounds or points, times pixels of an image."""
    times = spec.get("epochs") or spec.get("rounds") or len(spec.get("points", ())) or 1
    return times * (spec.get("imgsz") or parents_imgsz or 320) ** 2


def memory_gb(spec: Spec) -> float:
    """Memory of a process that computes a spec, GB; of all but trainings that of a batch of images going forward."""
    if spec.kind != "train":
        return PROCESS_GB + 0.4
    width = spec.model.width / 0.25
    return PROCESS_GB + IMAGE_GB * spec.batch * (spec.imgsz / 640) ** 2 * width


def plan(nodes: dict[str, Node], computed: set[str]) -> None:
    """Print what a study consists of: nodes, hours and memory by kind, its longest path, and hours with more workers."""
    took = seconds(nodes)
    rows = pd.DataFrame({"kind": [node.spec.kind for node in nodes.values()], "nodes": 1})
    rows["computed"] = [int(run_id in computed) for run_id in nodes]
    rows["hours"] = [took[run_id] / 3600 for run_id in nodes]
    rows["GB"] = [memory_gb(node.spec) for node in nodes.values()]
    parts = {"nodes": "sum", "computed": "sum", "hours": "sum", "GB": "max"}
    by_kind = rows.groupby("kind").agg(parts).sort_values("hours", ascending=False).reset_index()
    print(pd.concat([by_kind, rows.assign(kind="all").groupby("kind").agg(parts).reset_index()]).to_markdown(**LAYOUT))
    alone = sum(took.values())
    timing = sum(took[run_id] for run_id, node in nodes.items() if node.quiet)
    spans = {workers: makespan(nodes, took, workers) for workers in WORKERS}
    table = pd.DataFrame({"workers": spans.keys(), "hours": [span / 3600 for span in spans.values()]})
    print("\n" + table.assign(**{"times as fast": alone / 3600 / table["hours"]}).to_markdown(**LAYOUT))
    print(
        f"\nLongest path {max(longest_paths(nodes, took).values(), default=0) / 3600:.2f} h. Timings, "
        f"{timing / 3600:.2f} h, run alone on one machine after the rest. Hours are those of the committed records of the same "
        "kind, by their processors."
    )
