"""How far a run of notebooks is, and how long the rest will take."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from yolop.files import StoreError

try:
    import resource
except ImportError:  # Windows has none
    resource = None


class Progress:
    """One bar over all notebooks, weighted by the seconds expected of each; above it what the kernel prints, indented.

    Without a terminal there is no bar, but a line where a notebook begins and one where it ends.
    """

    def __init__(self, stream=None):
        layout = "{desc} {percentage:3.0f} %|{bar:30}| {elapsed}, about {remaining} left"
        self.stream = stream or sys.stdout
        self.bar = tqdm(total=1, disable=None, file=self.stream, bar_format=layout, smoothing=0, leave=False)
        self.began, self.expected, self.pending = time.monotonic(), 0.0, ""  # expected: of the notebooks that are done

    @contextmanager
    def of(self, name: str, left: dict[str, float]) -> Iterator[None]:
        """Show a notebook while it runs; `left` has the seconds expected of it and of those after it, by name."""
        began, ended = time.monotonic(), threading.Event()

        def tick():
            while not ended.wait(1):
                self.bar.n = self.expected + min(time.monotonic() - began, left[name])
                self.bar.refresh()

        clock = threading.Thread(target=tick, daemon=True)
        if self.bar.disable:
            self.line(f"{name} ...")
        else:
            self.bar.total = self.expected + sum(left.values())
            self.bar.set_description_str(name)
            clock.start()
        try:
            yield
        except BaseException:
            self.bar.close()
            raise
        finally:
            ended.set()
            if clock.is_alive():
                clock.join()
            self.write("\n" if self.pending else "")
        self.expected += left[name]
        rest = sum(left.values()) - left[name]  # now: a first run knows what there is to do after its first notebook only
        slower = (time.monotonic() - self.began) / self.expected  # than where the records were made
        after = f", about {clock_time(rest * slower)} left" if rest else ""
        self.line(f"{name}  {clock_time(time.monotonic() - began)}{after}")

    def write(self, text: str) -> None:
        """What the kernel prints; whole lines only (papermill calls this)."""
        *lines, self.pending = (self.pending + text).split("\n")
        for line in lines:
            self.line(f"    {line}")

    def flush(self) -> None:
        """Nothing: every line is flushed."""

    def line(self, text: str) -> None:
        """One line above the bar."""
        self.bar.write(text, file=self.stream)
        self.stream.flush()

    def conclude(self) -> None:
        """The last line: time in all, and memory of the largest kernel."""
        self.bar.close()
        if resource is None:
            return self.line(f"{clock_time(time.monotonic() - self.began)} in all")
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9
        self.line(f"{clock_time(time.monotonic() - self.began)} in all, at most {peak_gb:.1f} GB of memory")


class Board:
    """What is said of nodes that are computed side by side: a line where one is done or has failed, and how long the rest takes."""

    def __init__(self, seconds: dict[str, float], workers: int, progress: Progress):
        self.expected, self.workers, self.progress = seconds, workers, progress
        self.done, self.took_s, self.expected_s, self.all_s = 0, 0.0, 0.0, sum(seconds.values())
        self.failures: dict[str, str] = {}

    def line(self, run_id: str, text: str) -> None:
        """What the work on a node prints, under its name without the hash."""
        self.progress.line(f"    {run_id.rsplit('-', 1)[0]}: {text}")

    def finished(self, run_id: str, seconds: float) -> None:
        """A node is computed and took so many seconds."""
        self.done, self.took_s = self.done + 1, self.took_s + seconds
        self.expected_s += self.expected[run_id]
        left = (self.all_s - self.expected_s) / self.workers * self.took_s / max(self.expected_s, 0.001)
        after = f", about {clock_time(left)} left" if self.done < len(self.expected) else ""
        self.progress.line(f"    {run_id}  {clock_time(seconds)}  ({self.done} of {len(self.expected)}{after})")

    def failed(self, run_id: str, reason: str) -> None:
        """A node has failed; others go on."""
        self.failures[run_id] = reason
        self.line(run_id, f"failed: {reason}")

    def conclude(self) -> None:
        """StoreError with all failures, if there are some."""
        if self.failures:
            raise StoreError("\n".join(f"{run_id} failed: {reason}" for run_id, reason in self.failures.items()))


def clock_time(seconds: float) -> str:
    """A duration as 0:08, 2:05 or 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
