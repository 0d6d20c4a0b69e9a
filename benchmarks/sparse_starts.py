"""Does the engine keep its speed from start to start, and beside a busy process?

    python benchmarks/sparse_starts.py [starts] [busy] [threads]

n at 320 px with 90 % zeros, float32, in a new process each time; `busy` other processes (0 or 1) compute meanwhile without end.
Prints each start's median and 90th percentile of 300 calls, then the slowest start's median over the fastest one's.
"""

import multiprocessing
import sys

import numpy as np

from yolop.measure import latency
from yolop.specs import MODELS, PruneSpec
from yolop.speed.configurations import running
from yolop.speed_specs import Configuration

NETWORK = Configuration(MODELS["n"], "", PruneSpec("random-unstructured", 0.9, 0.9, 0.9, detect=0.9), "sparse", 320)


def times_ms(threads: int) -> np.ndarray:
    """Milliseconds of 300 calls after 30 others."""
    return np.array(latency.block(running(NETWORK, 3, None, None, threads), 330)[30:])


def spin() -> None:
    """Compute without end."""
    while True:
        pass


def main(starts: int, busy: int, threads: int) -> None:
    """Print a line per start and the ratio of the extremes."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=spin, daemon=True) for _ in range(busy)]
    for other in others:
        other.start()
    medians = []
    for start in range(starts):
        with context.Pool(1) as pool:
            found = pool.apply(times_ms, (threads,))
        medians.append(np.median(found))
        print(
            f"start {start + 1:>2}: median {medians[-1]:.2f} ms, 90 % below {np.quantile(found, 0.9):.2f} ms",
            flush=True,
        )
    low, high = min(medians), max(medians)
    print(f"{starts} starts, {busy} busy: {low:.2f} to {high:.2f} ms, slowest over fastest {high / low:.2f}")


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:] + ["30", "0", "2"][len(sys.argv) - 1 :])))
