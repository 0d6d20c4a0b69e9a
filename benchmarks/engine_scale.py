"""What engines cost and how far they scale.

    python benchmarks/engine_scale.py [overhead] [efficiency] [many] [simulation] [trainings]

overhead: milliseconds that a node without work takes, with two local processes and with two workers of a cluster.
efficiency: a graph like bccd's whose nodes sleep, on four workers, against the bound of list scheduling.
many: 10,000 nodes without work through a cluster of four workers: seconds, and memory of the client.
simulation: list scheduling of recorded seconds, to 100 workers and 100 seeds.
trainings: the same trainings one after another with all threads, and side by side with one thread each. Nothing else may run.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(HERE), str(HERE / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
)

import psutil  # noqa: E402
from toy_work import toy  # noqa: E402

from yolop import files, idle  # noqa: E402
from yolop.report.opened import OpenStudy  # noqa: E402
from yolop.run import cluster, estimate, processes  # noqa: E402
from yolop.run.progress import Progress  # noqa: E402
from yolop.run.schedule import longest_paths, makespan  # noqa: E402
from yolop.settings import STUDIES  # noqa: E402
from yolop.specs import MODELS, DigitsSpec, TrainSpec  # noqa: E402
from yolop.store import Store  # noqa: E402
from yolop.study.graph import Node  # noqa: E402
from yolop.study.plan import all_nodes, with_parents  # noqa: E402


def recorded(study: str = "bccd", seeds: int | None = None) -> tuple[dict, dict]:
    """Nodes of a study, with more seeds if asked, and the seconds that records say."""
    settings = STUDIES[study] if seeds is None else replace(STUDIES[study], seeds=tuple(range(seeds)))
    nodes = with_parents(all_nodes(OpenStudy(settings, Store("committed")).graph))
    return nodes, estimate.seconds(nodes)


def like(nodes: dict, seconds: dict, scale: float) -> dict:
    """Toy nodes with the shape of a graph, which sleep a share of its seconds; its timings are left out."""
    made: dict[str, Node] = {}
    for run_id, node in nodes.items():
        if not node.quiet:
            parents = [made[parent.id] for _, parent in node.parents if parent.id in made]
            made[run_id] = toy(run_id, *parents, seconds=round(seconds[run_id] * scale, 3))
    return {node.id: node for node in made.values()}


def took(nodes: dict, engine: str, workers: int) -> float:
    """Seconds from the first node to the last, with all workers started and warm, in a new project."""
    expected = {run_id: node.spec.seconds + 0.001 for run_id, node in nodes.items()}
    with tempfile.TemporaryDirectory() as place:
        files.ROOT = Path(place)
        if engine == "processes":
            began = time.perf_counter()
            processes.compute(nodes, workers, expected, Progress(io.StringIO()))
            return time.perf_counter() - began
        import dask
        import distributed

        with (
            dask.config.set({"distributed.worker.daemon": False}),
            distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, resources={"train": 1}, dashboard_address="127.0.0.1:0"
            ) as local,
            distributed.Client(local) as client,
        ):
            warm = {node.id: node for node in (toy(f"warm {i}") for i in range(2 * workers))}
            cluster.compute(client, warm, dict.fromkeys(warm, 1.0), Progress(io.StringIO()))
            began = time.perf_counter()
            cluster.compute(client, nodes, expected, Progress(io.StringIO()))
            return time.perf_counter() - began


def overhead() -> None:
    """Both engines with 200 instant nodes; processes once more with 2, whose time is that of starting them."""

    def some(count):
        return {node.id: node for node in (toy(str(i)) for i in range(count))}

    start, whole = (took(some(count), "processes", 2) for count in (2, 202))
    print(f"processes: {start:.1f} s to start two, then {(whole - start) / 200 * 1000:.1f} ms a node", flush=True)
    print(f"cluster: {took(some(200), 'cluster', 2) / 200 * 1000:.1f} ms a node", flush=True)


def efficiency() -> None:
    """bccd's graph, 1/400 as long, on four workers."""
    nodes = like(*recorded(), scale=1 / 400)
    seconds = {run_id: node.spec.seconds for run_id, node in nodes.items()}
    bound = makespan(nodes, seconds, 4)
    print(f"{len(nodes)} nodes, {sum(seconds.values()):.1f} s of work; list scheduling with four workers {bound:.1f} s")
    for engine in ("processes", "cluster"):
        wall = took(nodes, engine, 4)
        print(f"{engine}: {wall:.1f} s, {bound / wall:.0%} of the bound", flush=True)


def many(count: int = 10_000) -> None:
    """Instant nodes in chains of five."""
    nodes: dict[str, Node] = {}
    last = None
    for i in range(count):
        last = toy(str(i), *([last] if i % 5 else []), size=100)
        nodes[last.id] = last
    before = psutil.Process().memory_info().rss
    wall = took(nodes, "cluster", 4)
    after = psutil.Process().memory_info().rss
    print(
        f"{count:,} nodes: {wall:.0f} s, {count / wall:.0f} nodes a second, client {after / 1e6:.0f} MB ({before / 1e6:.0f} before)"
    )


def simulation() -> None:
    """bccd with more seeds and workers; what runs alone on one machine is apart."""
    for seeds in (3, 10, 100):
        nodes, seconds = recorded(seeds=seeds)
        timing = sum(seconds[run_id] for run_id, node in nodes.items() if node.quiet)
        rest = {run_id: node for run_id, node in nodes.items() if not node.quiet}
        alone, path = sum(seconds[run_id] for run_id in rest), max(longest_paths(rest, seconds).values())
        spans = {workers: makespan(rest, seconds, workers) for workers in (1, 2, 4, 8, 16, 32, 64, 100)}
        print(
            f"{seeds:,} seeds: {len(nodes):,} nodes, {alone / 3600:.1f} h, longest path {path / 3600:.2f} h, "
            f"alone {timing / 3600:.2f} h; "
            + ", ".join(f"{workers}: {alone / span:.1f}x" for workers, span in spans.items()),
            flush=True,
        )


def trainings() -> None:
    """Four trainings of n at 128 px: one after another with all threads; two at a time, and four, with one thread each."""
    data = DigitsSpec(train=320, val=32, test=16, imgsz=128)
    cores = len(idle.usable_cores())
    for name, jobs in (
        (f"one after another, {cores} threads", 1),
        ("two at a time, one thread each", 2),
        ("four at a time", 4),
    ):
        with tempfile.TemporaryDirectory() as place:
            files.ROOT = Path(place)
            digest = Store("fresh").obtain(Node(data)).metrics["digest"]
            specs = (TrainSpec(MODELS["n"], "n", digest, 3, 128, 3, seed=seed, val_every=3) for seed in range(4))
            nodes = {node.id: node for node in (Node(spec, (("data", Node(data)),)) for spec in specs)}
            began = time.perf_counter()
            processes.compute(nodes, jobs, dict.fromkeys(nodes, 1.0), Progress(io.StringIO()))
            records = [Store("computed").get(node.spec) for node in nodes.values()]
            each = ", ".join(f"{record.seconds:.1f}" for record in records)
            print(f"{name}: {time.perf_counter() - began:.1f} s with the start of processes; each {each}", flush=True)


if __name__ == "__main__":
    for part in sys.argv[1:] or ("overhead", "efficiency", "many", "simulation"):
        globals()[part]()
