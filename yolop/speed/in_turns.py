"""Timing in two processes that take turns, block by block, while the other one waits.

Thread pools disturb each other inside one process: with four runtimes in one, PyTorch takes two to three times as long. So
each runtime runs alone, all of its networks one after the other in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from itertools import chain
from multiprocessing import get_context

import numpy as np

from yolop import parent
from yolop.measure import latency
from yolop.speed_specs import ConfigurationTimesSpec

PAUSE_S = 0.005  # after which the waiting threads of the other process have gone to sleep
WARMUP = 10  # calls
Job = tuple  # a function that makes a call without arguments, and its arguments; both must pickle
Named = tuple[str, Job]  # with what an error calls it

_calls: list[Callable[[], object]] = []  # of a worker process: the one call that it times


class Worker:
    """A process of its own that makes one call after another and times the last on demand.

    Processes are made one after the other: two that start together disturb each other's choices and warm-up.
    """

    def __init__(self, label: str, job: Job):
        self.label, self.pool = label, ProcessPoolExecutor(1, get_context("spawn"))
        self.make(label, job)  # what a process makes first is slower by 1 to 2 % than all that it makes later
        self.make(label, job)

    def make(self, label: str, job: Job) -> None:
        """Drop the call that there was, make another one and warm it up."""
        self.label = label
        self._result(_make, *job)  # no initializer: the pool would keep its error to itself

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def block(self, calls: int) -> list[float]:
        """Milliseconds of so many calls, after one that finds the caches cold."""
        time.sleep(PAUSE_S)
        return self._result(_block, calls + 1)[1:]

    def _result(self, work: Callable, *arguments):
        try:
            return self.pool.submit(work, *arguments).result()
        except BaseException as error:  # an interrupt leaves no process behind either
            self.__exit__()
            if not isinstance(error, Exception):
                raise
            reason = "its process ended" if isinstance(error, BrokenProcessPool) else f"{type(error).__name__}: {error}"
            raise RuntimeError(f"{self.label} could not be timed: {reason}") from None


def _make(make: Callable[..., Callable[[], object]], *arguments) -> None:
    """In a worker process: make the call and warm it up."""
    parent.follow()
    _calls.clear()
    _calls.append(make(*arguments))
    for _ in range(WARMUP):
        _calls[0]()


def _block(calls: int) -> list[float]:
    return latency.block(_calls[0], calls)


def paired(workers: dict[str, Worker], rounds: int, calls: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Milliseconds of every call, (rounds, calls) per label: a round asks each worker for a block, in an order drawn anew."""
    times_ms = {label: np.empty((rounds, calls)) for label in workers}
    for round_, label in latency.turns(workers, rounds, seed):
        times_ms[label][round_] = workers[label].block(calls)
    return times_ms


def apart(
    baseline: Named, groups: Iterable[Iterable[Named]], spec: ConfigurationTimesSpec, seed: int = 0, *more: Named
) -> Iterator[dict]:
    """Times of "baseline" and "other" as of `paired` for each job; each group's process takes turns with the baseline's.

    And with those of `more` baselines, whose times stand under their own labels.
    """
    with ExitStack() as whole:
        named = {"baseline": baseline} | {label: (label, job) for label, job in more}
        first = {name: whole.enter_context(Worker(*own)) for name, own in named.items()}
        for group in groups:
            with ExitStack() as stack:
                second = None
                for label, job in group:
                    if second:
                        second.make(label, job)
                    else:
                        second = stack.enter_context(Worker(label, job))
                    yield paired(first | {"other": second}, spec.rounds, spec.calls, seed)


def together(baseline: Named, groups: Iterable[Iterable[Named]], spec: ConfigurationTimesSpec, seed: int = 0) -> Iterator[dict]:
    """As `apart`, but all in this process and with one order of turns, for a quick look only."""
    _, (make, *arguments) = baseline
    with latency.threads(spec.threads):
        first = make(*arguments)
        for _, (make, *arguments) in chain.from_iterable(groups):
            yield latency.rounds_of({"baseline": first, "other": make(*arguments)}, spec.rounds, spec.calls)
