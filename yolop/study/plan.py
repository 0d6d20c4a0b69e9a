"""All nodes of a study, by the notebook that first needs them: for engines, `status`, the estimate of time, and `publish`."""

from __future__ import annotations

from collections.abc import Iterable

from yolop.specs import METHODS
from yolop.study import beyond, further
from yolop.study.graph import Graph, Node, labelled


def by_notebook(graph: Graph) -> dict[str, list[Node]]:
    """Number of a notebook -> the nodes that it is the first to need, parents before children, each once.

    Files for other runtimes are left out: they serve scores and times, which have records of their own.
    """
    study = graph.study
    trained = {label: [graph.training(label, seed) for seed in study.seeds] for label in graph.trainings}
    scratch = [node for label in study.models for node in trained[label]]
    plan = {
        "01": [graph.data, graph.census("own"), graph.census("sizes"), graph.stem()],
        "02": [labelled(graph), graph.census("grid"), graph.latency("grid"), graph.recipe(), *scratch, graph.latency("models")],
        "03": [node for nodes in trained.values() for node in nodes],
        "04": [graph.sweep(label, seed) for label in ("figures", *METHODS) for seed in study.seeds]
        + [graph.sensitivity(seed) for seed in study.seeds],
        "05": [graph.latency("pruned"), beyond.sparse_tensors(graph), *(_zeros(graph) if study.sparsities else [])],
        "06": [graph.pictures()],
    }
    if study.dataset == "coco128":
        plan["06"] += [graph.official_score("val"), graph.tie_orders("val")]
    for number, nodes in further.of_notebooks(graph).items():
        plan[number] += nodes
    seen, chosen = set(), {}
    for number, nodes in plan.items():
        found = with_parents(nodes)
        chosen[number] = [node for run_id, node in found.items() if node.spec.kind != "export" and run_id not in seen]
        seen |= set(found)
    return chosen


def all_nodes(graph: Graph, numbers: Iterable[str] | None = None) -> list[Node]:
    """Every node that the notebooks of a study ask for, or those with some numbers, each once."""
    plan = by_notebook(graph)
    return [node for number in numbers or plan for node in plan.get(number, ())]


def with_parents(nodes: Iterable[Node]) -> dict[str, Node]:
    """Run id -> node of some nodes and all that they need, each after its parents."""
    found: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if (run_id := node.id) not in found:
            for _, parent in node.parents:
                visit(parent)
            found[run_id] = node

    for node in nodes:
        visit(node)
    return found


def _zeros(graph: Graph) -> list[Node]:
    """What is trained, timed and scored with zeros or with channels removed; scores need the trainings that they score."""
    study, found = graph.study, []
    for seed in study.seeds:
        found += [graph.fine_tuned(seed, share) for share in sorted({0.0, *study.sparsities})]
        found += [graph.fine_tuned(seed, study.control_sparsity, allocation) for allocation in study.allocations]
        found += [beyond.scores(graph, beyond.options(graph, seed)), beyond.scores(graph, beyond.on_val(graph, seed), "val")]
    found += [beyond.channel_times(graph)] if study.channels_removed else []
    found += [beyond.uniform_times(graph, imgsz) for imgsz in beyond.uniform_sizes(study)]
    return [*found, beyond.atlas(graph), beyond.times(graph)]

