"""The nodes of trainings that the paper leaves out: other shapes than n and p, longer ones, and again after pruning."""

from __future__ import annotations

from dataclasses import replace

from yolop.specs import RETRAINED, ModelSpec, SparseTrainSpec
from yolop.study.graph import Graph, Node


def shape_of(text: str) -> ModelSpec:
    """Depth and width written as "0.33x0.1875"."""
    return ModelSpec(*map(float, text.split("x")))


def shaped(graph: Graph, shape: str, seed: int) -> Node:
    """A network of another depth and width, trained as p from scratch is."""
    node, model = graph.training("p", seed), shape_of(shape)
    return replace(node, spec=replace(node.spec, model=model, label=f"d{model.depth:g}-w{model.width:g}"))


def longer(graph: Graph, label: str) -> Node:
    """s, n or p from scratch for `study.longer` times the epochs, of the first training seed."""
    node = graph.training(label, graph.study.seeds[0])
    return replace(node, spec=replace(node.spec, epochs=node.spec.epochs * graph.study.longer))


def retrained(graph: Graph, way: str, ratio: float, seed: int) -> Node:
    """p (best) pruned once, in a way of RETRAINED, and trained as long again; what is zero stays zero."""
    parent = graph.training("p-best", seed)
    label, init = f"p-{way}-{ratio:g}", f"pruned-{way}-{ratio:g}:{parent.id}"
    spec = SparseTrainSpec(**vars(parent.spec) | {"label": label, "init": init, "distill": 0.0})
    return Node(spec, (("data", graph.data), ("weights", parent)))


def of_notebooks(graph: Graph) -> dict[str, list[Node]]:
    """Number of a notebook -> all of these that a study asks for; with pruned networks also their control, at ratio 0."""
    study = graph.study
    ratios = [ratio for ratio in study.retrained if ratio]
    again = [(way, ratio) for way in RETRAINED for ratio in ratios] + [(RETRAINED[0], 0.0)] * bool(ratios)
    shapes = [shaped(graph, shape, seed) for shape in study.shapes for seed in study.seeds]
    return {
        "02": shapes + [longer(graph, label) for label in study.models if study.longer],
        "04": [retrained(graph, *one, seed) for one in again for seed in study.seeds],
    }
