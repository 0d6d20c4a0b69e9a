"""Whole n and p with evenly spread zeros in the engine, each against its own dense self in PyTorch, over many starts.

    python benchmarks/sparse_networks.py [starts] [imgsz]

In every start both sides are processes of their own and take turns, block by block; PyTorch runs the fused float32 model in the
faster of its two memory layouts, two threads on either side, random weights, stem and Detect included. The interval is a
bootstrap over starts and rounds; "slowest" and "fastest" are single starts. "PyTorch again" is the A/A control. Nothing else
should be running.
"""

import sys

import numpy as np

from yolop.measure import latency
from yolop.specs import MODELS, PruneSpec
from yolop.speed import in_turns
from yolop.speed.configurations import running
from yolop.speed_specs import Configuration, ConfigurationTimesSpec

SPARSITIES = (0.0, 0.7, 0.8, 0.9, 0.95)
TIMES = ConfigurationTimesSpec("whole networks", (), nc=3)


def job(model: str, imgsz: int, runtime: str, share: float = 0.0) -> in_turns.Job:
    """What a worker needs to run it."""
    zeros = PruneSpec("random-unstructured", share, share, share, detect=share) if share else None
    configuration = Configuration(MODELS[model], "", zeros, runtime, imgsz)
    return running, configuration, TIMES.nc, None, None, TIMES.threads


def main(starts: int, imgsz: int) -> None:
    """Print a line for every model and sparsity: speed-up, 95 % interval, slowest and fastest start, milliseconds."""
    for model in ("n", "p"):
        jobs = {"PyTorch again": job(model, imgsz, "pytorch")}
        jobs |= {f"{share:.0%} zeros": job(model, imgsz, "sparse", share) for share in SPARSITIES}
        parts = {label: [] for label in jobs}
        for start in range(starts):
            baseline = ("PyTorch", jobs["PyTorch again"])
            for label, times_ms in zip(jobs, in_turns.apart(baseline, ([job] for job in jobs.items()), TIMES, start), strict=True):
                parts[label].append(times_ms)
        print(f"{model}, {imgsz} px, {starts} starts")
        for label, times in parts.items():
            row = latency.pooled(times, "baseline")[1]
            each = [np.median(np.median(t["baseline"], axis=1) / np.median(t["other"], axis=1)) for t in times]
            interval = f"({1 / row['ratio_high']:.2f} to {1 / row['ratio_low']:.2f})"
            extremes = f"slowest {min(each):.2f}, fastest {max(each):.2f}"
            line = f"  {label:<14} {1 / row['ratio']:5.2f}x {interval}   {extremes}   {row['latency_ms']:.2f} ms"
            print(line, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, int(sys.argv[2]) if len(sys.argv) > 2 else 320)
