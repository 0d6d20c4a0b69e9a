"""Whole n and p with evenly spread zeros in the engine, each against its own dense self in PyTorch, over many starts.

    python benchmarks/sparse_networks.py [--starts 10] [--imgsz 320] [--pytorch-imgsz 320] [--rounds 10]

In every start both sides are processes of their own and take turns, block by block; PyTorch runs the fused float32 model in the
faster of its two memory layouts, two threads on either side, random weights, stem and Detect included. The interval is a
bootstrap over starts and rounds; "slowest" and "fastest" are single starts. "PyTorch again" is the A/A control. Nothing else
should be running.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
from tabulate import tabulate

from yolop.measure import latency
from yolop.specs import MODELS, PruneSpec
from yolop.speed import in_turns
from yolop.speed.configurations import running
from yolop.speed_specs import Configuration, ConfigurationTimesSpec
from yolop.store import host

SPARSITIES = (0.0, 0.7, 0.8, 0.9, 0.95)
TIMES = ConfigurationTimesSpec("whole networks", (), nc=3)


def asked(starts: int) -> tuple[ConfigurationTimesSpec, int, int]:
    """Starts and rounds, and the sizes of the images and of those that PyTorch gets, from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=starts, help="of all processes")
    parser.add_argument("--rounds", type=int, default=TIMES.rounds, help="blocks of calls in a start, at least 5")
    parser.add_argument("--imgsz", type=int, default=320, help="pixels")
    parser.add_argument("--pytorch-imgsz", type=int, help="pixels of the dense network in PyTorch; default: the same")
    given = parser.parse_args()
    times = replace(TIMES, starts=given.starts, rounds=given.rounds)
    return times, given.imgsz, given.pytorch_imgsz or given.imgsz


def compare(baselines: list[in_turns.Named], groups: list[list[in_turns.Named]], spec: ConfigurationTimesSpec) -> str:
    """A table with a line for each job of the groups: milliseconds and its speed-up over each of the baselines.

    The processes of all baselines stay through a start; each group has one more, in which its jobs follow one another. These
    processes take turns.
    """
    parts = {label: [] for group in groups for label, _ in group}
    for start in range(spec.starts):
        began = time.monotonic()
        timed = in_turns.apart(baselines[0], groups, spec, start, *baselines[1:])
        for label, times_ms in zip(parts, timed, strict=True):
            parts[label].append({baselines[0][0]: times_ms.pop("baseline")} | times_ms)
            print(".", end="", flush=True)
        print(f" start {start + 1} of {spec.starts}: {time.monotonic() - began:.0f} s", flush=True)
    rows = []
    for label, times in parts.items():
        rows.append([label, f"{np.median([part['other'] for part in times]):.2f}"])
        for baseline, _ in baselines:
            row = latency.pooled([{n: part[n] for n in (baseline, "other")} for part in times], baseline)[1]
            each = [np.median(np.median(part[baseline], axis=1) / np.median(part["other"], axis=1)) for part in times]
            interval = f"({1 / row['ratio_high']:.2f} to {1 / row['ratio_low']:.2f})"
            rows[-1] += [f"{1 / row['ratio']:.2f}x {interval}", f"{min(each):.2f} to {max(each):.2f}"]
    heads = ["", "ms", *(head for name, _ in baselines for head in (f"over {name}, 95 %", "slowest to fastest start"))]
    return tabulate(rows, heads, disable_numparse=True)


def job(model: str, imgsz: int, runtime: str, share: float = 0.0) -> in_turns.Job:
    """What a worker needs to run a network with so many zeros."""
    zeros = PruneSpec("random-unstructured", share, share, share, detect=share) if share else None
    configuration = Configuration(MODELS[model], "", zeros, runtime, imgsz)
    return running, configuration, TIMES.nc, None, None, TIMES.threads


def main() -> None:
    """Print a table for each model."""
    spec, imgsz, dense_imgsz = asked(starts=10)
    for model in ("n", "p"):
        dense = job(model, dense_imgsz, "pytorch")
        ours = [(f"{share:.0%} zeros", job(model, imgsz, "sparse", share)) for share in SPARSITIES]
        table = compare([("PyTorch", dense)], [[("PyTorch again", dense)], ours], spec)
        print(f"{model}, {imgsz} px, PyTorch {dense_imgsz} px, {spec.starts} starts, {spec.threads} threads on {host()['cpu']}")
        print(f"{table}\n", flush=True)


if __name__ == "__main__":
    main()
