"""Does the engine keep its speed from start to start, and beside a busy process?

    python benchmarks/sparse_starts.py [starts] [busy] [threads]

n at 320 px with 90 % zeros, float32, in a new process each time; `busy` other processes (0 or 1) compute meanwhile without end.
Prints each start's median and 90th percentile of 300 calls, the median with one thread, and at the end the slowest start's median
over the fastest one's. Where two threads take no less than one, both virtual processors of the machine lie on one core.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from yolop.measure import latency
from yolop.specs import MODELS, PruneSpec
from yolop.speed.configurations import running
from yolop.speed_specs import Configuration

NETWORK = Configuration(MODELS["n"], "", PruneSpec("random-unstructured", 0.9, 0.9, 0.9, detect=0.9), "sparse", 320)


def times_ms(threads: int, calls: int = 300) -> np.ndarray:
    """Milliseconds of so many calls after 30 others."""
    return np.array(latency.block(running(NETWORK, 3, None, None, threads), 30 + calls)[30:])


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
        with ProcessPoolExecutor(1, context) as pool:
            found, alone = (pool.submit(times_ms, *asked).result() for asked in ((threads,), (1, 60)))
        medians.append(np.median(found))
        said = f"median {medians[-1]:.2f} ms, 90 % below {np.quantile(found, 0.9):.2f} ms; one thread {np.median(alone):.2f} ms"
        print(f"start {start + 1:>2}: {said}", flush=True)
    low, high = min(medians), max(medians)
    print(f"{starts} starts, {busy} busy: {low:.2f} to {high:.2f} ms, slowest over fastest {high / low:.2f}")


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:] + ["30", "0", "2"][len(sys.argv) - 1 :])))
