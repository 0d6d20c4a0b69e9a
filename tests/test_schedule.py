"""The order of nodes side by side: parents first, the longest path first, timings alone and last."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolop.run.schedule import Queue, longest_paths, makespan


@dataclass(frozen=True)
class Toy:
    """Stands for a node."""

    id: str
    parents: tuple = ()
    quiet: bool = False
    spec = SimpleNamespace(kind="toy")


def graph(**parents: str) -> dict[str, Toy]:
    """Nodes by name, each with the names of its parents; those that begin with q are timings."""
    made: dict[str, Toy] = {}
    for name, names in parents.items():
        made[name] = Toy(name, tuple((role, made[role]) for role in names.split()), name.startswith("q"))
    return made


@st.composite
def graphs(draw):
    nodes: dict[str, Toy] = {}
    for i in range(draw(st.integers(1, 12))):
        parents = draw(st.lists(st.sampled_from([*nodes]), max_size=3, unique=True)) if nodes else []
        quiet = bool(draw(st.booleans()))
        parents = [name for name in parents if quiet or not nodes[name].quiet]  # nothing waits for a timing
        nodes[str(i)] = Toy(str(i), tuple((name, nodes[name]) for name in parents), quiet)
    return nodes, {name: draw(st.integers(1, 9)) for name in nodes}


def test_longest_paths():
    nodes = graph(a="", b="a", c="a", d="b c", e="")
    assert longest_paths(nodes, dict(a=1, b=5, c=2, d=3, e=4)) == dict(a=9, b=8, c=5, d=3, e=4)


def test_the_longest_path_comes_first_and_timings_last_and_alone():
    queue = Queue(graph(a="", long="a", e="", q1="a", q2="a long"), dict(a=1, long=9, e=5, q1=50, q2=60))
    assert [queue.take(), queue.take(), queue.take()] == ["a", "e", None]
    queue.done("a")
    assert [queue.take(), queue.take()] == ["long", None]
    queue.done("e"), queue.done("long")
    assert [queue.take(), queue.take()] == ["q2", None]
    queue.done("q2")
    assert queue.take() == "q1"


def test_what_does_not_fit_waits_but_never_for_ever():
    queue = Queue(graph(large="", small=""), dict(large=9, small=1))
    assert queue.take(lambda node: False) == "large"  # nothing runs: it must
    assert queue.take(lambda node: False) is None
    assert queue.take(lambda node: node.id == "small") == "small"


def test_a_failed_node_stops_those_that_wait_for_it():
    queue = Queue(graph(a="", b="a", c=""), dict(a=2, b=1, c=1))
    assert queue.take() == "a"
    queue.failed("a")
    assert [queue.take(), queue.take()] == ["c", None]


@given(graphs(), st.integers(1, 4))
def test_list_scheduling_keeps_its_bounds(made, workers):
    """Graham: never better than the work shared or the longest path, and never worse than both together."""
    nodes, seconds = made
    loud = {name: seconds[name] * (not node.quiet) for name, node in nodes.items()}
    quiet = sum(seconds.values()) - sum(loud.values())
    path = max(longest_paths(nodes, loud).values())
    least = max(sum(loud.values()) / workers, path)
    assert least + quiet - 1e-9 <= makespan(nodes, seconds, workers) <= sum(loud.values()) / workers + path + quiet
    assert makespan(nodes, seconds, 1) == pytest.approx(sum(seconds.values()))
