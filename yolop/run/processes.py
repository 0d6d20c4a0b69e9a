"""`run --jobs N`: the nodes of a study side by side in worker processes, each with its share of the threads.

A training rounds differently with other numbers of threads, so its record names the number (`threads`). With one worker a
core, the default, it is 1 on every machine. `benchmarks/engine_scale.py trainings` measures what that gains.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import psutil

from yolop import files, idle, parent
from yolop.files import PLAIN, StoreError
from yolop.run.doctor import THREADS
from yolop.run.estimate import memory_gb
from yolop.run.progress import Board, Progress
from yolop.run.schedule import Queue
from yolop.specs import require
from yolop.store import Store
from yolop.study.graph import Node

SPAWN = get_context("spawn")


def free_gb() -> float:
    """Memory that workers may take together: nine tenths of what is free now."""
    return 0.9 * psutil.virtual_memory().available / 1e9


def workers(jobs: str, nodes: dict[str, Node]) -> int:
    """How many worker processes `--jobs` means; "auto": one a core, as far as memory holds the largest node in each.

    Raises:
        SpecError: neither "auto" nor a number from 1 to that of the cores.
    """
    cores = len(idle.usable_cores())
    good = jobs == "auto" or (jobs.isdecimal() and 1 <= int(jobs) <= cores)
    require(good, "--jobs", jobs, f'"auto", or 1 to {cores}, the cores that this process may use')
    if jobs != "auto":
        return int(jobs)
    largest = max((memory_gb(node.spec) for node in nodes.values()), default=1.0)
    return max(min(cores, int(free_gb() / largest)), 1)


def compute(nodes: dict[str, Node], jobs: int, seconds: dict[str, float], progress: Progress) -> None:
    """Compute nodes, parents before children, in `jobs` processes; timings after the others, alone, with all cores.

    A node that fails stops those that wait for it and no others.

    Raises:
        StoreError: some nodes failed, each with its reason; or a worker process died.
    """
    queue, board, room = Queue(nodes, seconds), Board(seconds, jobs, progress), free_gb()
    running: dict[Future, str] = {}
    cores = len(idle.usable_cores())

    def fits(node: Node) -> bool:
        return sum(memory_gb(one.spec) for one in (node, *(nodes[run_id] for run_id in running.values()))) <= room

    with _Pool(jobs, max(cores // jobs, 1), board) as side, _Pool(1, cores, board) as alone:
        while True:
            while len(running) < jobs and (run_id := queue.take(fits)):
                node = nodes[run_id]
                if node.quiet:
                    side.close()  # its idle processes hold memory
                running[(alone if node.quiet else side).submit(node)] = run_id
            if not running:
                return board.conclude()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run_id, error = running.pop(future), future.exception()
                if error is None:
                    queue.done(run_id)
                    board.finished(run_id, future.result())
                elif isinstance(error, BrokenProcessPool):
                    raise StoreError(
                        f"a worker process died while it computed {run_id}: out of memory, or killed from outside. Start again, "
                        "with fewer --jobs if memory is short: finished records are kept"
                    )
                else:
                    queue.failed(run_id)
                    board.failed(run_id, reason(error))


def reason(error: BaseException) -> str:
    """Why work failed: only the message where that says what to do, else the last lines of the traceback too."""
    text = f"{type(error).__name__}: {error}"
    if type(error).__name__ in PLAIN or isinstance(error, OSError):
        return text
    return "\n  ".join("".join(traceback.format_exception(error)).strip().splitlines()[-8:])


class _Pool:
    """Some worker processes with as many threads each; they start when there is work, and print through the board."""

    def __init__(self, count: int, threads: int, board: Board):
        self.count, self.threads, self.board, self.executor = count, threads, board, None

    def __enter__(self) -> _Pool:
        return self

    def submit(self, node: Node) -> Future:
        """Start work on a node."""
        if self.executor is None:
            self.lines = SPAWN.SimpleQueue()
            begin = (self.threads, self.lines, files.ROOT, files.DATA)
            self.executor = ProcessPoolExecutor(self.count, SPAWN, _begin, begin)
            self.printer = threading.Thread(target=self._print, daemon=True)
            self.printer.start()
        return self.executor.submit(_work, node)

    def _print(self) -> None:
        while (item := self.lines.get()) is not None:
            self.board.line(*item)

    def close(self) -> None:
        """End the processes once their work is done."""
        if self.executor is not None:
            self.executor.shutdown(cancel_futures=True)
            self.lines.put(None)
            self.printer.join()
            self.executor = None

    def __exit__(self, *_) -> None:
        self.close()


class Lines(io.TextIOBase):
    """Standard output of a worker: `put((run_id, line))` gets whole lines, and of a bar that is drawn anew only the last state."""

    def __init__(self, put: Callable[[tuple[str, str]], None], run_id: str = ""):
        self.put, self.pending, self.run_id = put, "", run_id

    def write(self, text: str) -> int:
        """Keep what ends no line yet."""
        *whole, self.pending = (self.pending + text).split("\n")
        for line in (line.rpartition("\r")[-1].strip() for line in whole):
            self.put((self.run_id, line)) if line else None
        return len(text)


def _begin(threads: int, lines, root: Path, data: Path | None) -> None:
    """In a worker process: limit the threads of all libraries, print through the runner, and end when the runner does."""
    files.ROOT, files.DATA = root, data
    places = {"YOLOP_ROOT": str(root)} | ({"YOLOP_DATA": str(data)} if data else {})  # for processes that this one starts
    os.environ |= places | dict.fromkeys(THREADS, str(threads))  # PyTorch is not imported yet
    parent.follow()
    sys.stdout = Lines(lines.put)


def _work(node: Node) -> float:
    """Compute a node whose parents are computed; how many seconds it took."""
    sys.stdout.run_id, began = node.id, time.monotonic()
    Store("fresh").obtain(node)
    return time.monotonic() - began
