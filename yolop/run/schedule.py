"""In which order nodes are computed side by side, and how long that takes at least: list scheduling, longest path first."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable

from yolop.study.graph import Node


def longest_paths(nodes: dict[str, Node], seconds: dict[str, float]) -> dict[str, float]:
    """Run id -> seconds from the start of a node to the end of the last one that waits for it, by the longest way.

    `nodes` has parents before children; parents that are not in it are computed already.
    """
    paths: dict[str, float] = {}
    for run_id, node in reversed(nodes.items()):
        paths[run_id] = paths.get(run_id, 0.0) + seconds[run_id]
        for _, parent in node.parents:
            paths[parent.id] = max(paths.get(parent.id, 0.0), paths[run_id])
    return {run_id: paths[run_id] for run_id in nodes}


class Queue:
    """Nodes that wait for their turn: none before its parents, the longest path first, quiet ones alone and after the others."""

    def __init__(self, nodes: dict[str, Node], seconds: dict[str, float]):
        self.nodes, self.paths = nodes, longest_paths(nodes, seconds)
        self.waiting, self.children = {}, defaultdict(list)
        self.ready: list[tuple[float, int, str]] = []  # a heap
        self.quiet: list[tuple[float, int, str]] = []  # the same of timings
        self.running, self.places = set(), {run_id: i for i, run_id in enumerate(nodes)}  # which make the order certain
        for run_id, node in nodes.items():
            parents = {parent.id for _, parent in node.parents} & set(nodes)
            self.waiting[run_id] = len(parents)
            for parent in parents:
                self.children[parent].append(run_id)
            if not parents:
                self._push(run_id)

    def _push(self, run_id: str) -> None:
        heap = self.quiet if self.nodes[run_id].quiet else self.ready
        heapq.heappush(heap, (-self.paths[run_id], self.places[run_id], run_id))

    def take(self, fits: Callable[[Node], bool] = lambda node: True) -> str | None:
        """The run id of the next node that `fits`, or None; where nothing runs the first is taken, whatever it needs.

        A quiet one is given where nothing else runs or is ready, and nothing is given while it runs.
        """
        if any(self.nodes[run_id].quiet for run_id in self.running):
            return None
        skipped, found = [], None
        while self.ready and found is None:
            item = heapq.heappop(self.ready)
            if not self.running or fits(self.nodes[item[-1]]):
                found = item[-1]
            else:
                skipped.append(item)
        for item in skipped:
            heapq.heappush(self.ready, item)
        if found is None and not (self.running or self.ready) and self.quiet:
            found = heapq.heappop(self.quiet)[-1]
        if found:
            self.running.add(found)
        return found

    def done(self, run_id: str) -> None:
        """A node that was taken is computed; its children may be."""
        self.running.remove(run_id)
        for child in self.children[run_id]:
            self.waiting[child] -= 1
            if not self.waiting[child]:
                self._push(child)

    def failed(self, run_id: str) -> None:
        """A node that was taken has failed; its children are never given."""
        self.running.remove(run_id)


def makespan(nodes: dict[str, Node], seconds: dict[str, float], workers: int) -> float:
    """Seconds until all nodes are computed by so many equal workers, by list scheduling; quiet ones one by one at the end."""
    queue, running, now = Queue(nodes, seconds), [], 0.0
    while True:
        while len(running) < workers and (run_id := queue.take()):
            heapq.heappush(running, (now + seconds[run_id], run_id))
        if not running:
            return now
        now, run_id = heapq.heappop(running)
        queue.done(run_id)
