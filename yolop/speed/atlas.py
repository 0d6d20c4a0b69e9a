"""Break-even atlas: which convolution gains from zeros, at which share of them; and what that predicts for a network.

Each different convolution of some models, with SiLU as it occurs in them, runs dense in PyTorch (the faster of its two memory
layouts) and in the engine (`engine`, the faster of its two ways), in turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from yolop.measure import latency
from yolop.progress import progress
from yolop.shapes import convolutions_of
from yolop.speed.engine import SparseNetwork, traced
from yolop.speed_specs import AtlasSpec
from yolop.store import Record

PAUSE_S = 0.003  # after which PyTorch's waiting threads have gone to sleep


def compute(spec: AtlasSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Rows of `measure_shape` for every different convolution of the models, small kernels and large maps first."""
    occurs: dict[tuple, dict[str, int]] = {}
    for label, model in spec.models:
        for conv in convolutions_of(model, spec.nc):
            counts = occurs.setdefault((conv.c1, conv.c2, conv.kernel, conv.stride, spec.imgsz // conv.scale), {})
            counts[label] = counts.get(label, 0) + 1
    shapes = sorted(occurs, key=lambda s: (s[2], s[3], -s[4], s[0], s[1]))
    with latency.threads(spec.threads):
        rows = [measure_shape(spec, shape, occurs[shape]) for shape in progress(shapes, "atlas, layer shapes")]
    return {"rows": [row for part in rows for row in part]}


def measure_shape(spec: AtlasSpec, shape: tuple, counts: dict[str, int]) -> list[dict]:
    """One row per sparsity for a shape, (c1, c2, kernel, stride, side): how often which model has it, dense_ms, sparse_ms, path,
    and the ratio of the two times with its interval (below 1: the engine is faster). The A/A control has no sparsity."""
    c1, c2, kernel, stride, side = shape
    stream = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(c1, c2, kernel, stride, 2 if kernel == 6 else kernel // 2)
    weight, order = (torch.randn(conv.weight.shape, generator=stream), torch.rand(conv.weight.shape, generator=stream))
    image, networks = torch.rand(1, c1, side, side, generator=stream), {}
    layer = nn.Sequential(conv, *([nn.SiLU()] if spec.silu else [])).eval()
    for sparsity in spec.sparsities:
        with torch.no_grad():
            conv.weight.copy_(weight * (order >= sparsity))
        networks[sparsity] = SparseNetwork(traced(layer, image.shape), spec.threads)
    dense = _faster_layout(conv, image, spec)
    calls = {"dense": dense, "dense again": dense} | {s: _repeated(n, image, spec) for s, n in networks.items()}
    times_ms = _turns(calls, spec.rounds, spec.calls)
    base = {"c1": c1, "c2": c2, "kernel": kernel, "stride": stride, "side": side, "counts": counts}
    base["dense_ms"] = float(np.median(times_ms["dense"]))
    rows = []
    for label in list(calls)[1:]:
        row = base | {"sparsity": None, "path": "dense again", "sparse_ms": float(np.median(times_ms[label]))}
        if label in networks:
            row |= {"sparsity": label, "path": networks[label].layers[0]["path"]}
        rows.append(row | latency.ratio_of(times_ms[label] / times_ms["dense"]))
    return rows


def _turns(calls: dict, rounds: int, per_call: int) -> dict:
    """Milliseconds of one layer, (rounds,) per label; each call runs the layer `per_call` times."""
    times_ms = {label: np.empty(rounds) for label in calls}
    for round_, label in latency.turns(calls, rounds):
        time.sleep(PAUSE_S)
        calls[label]()  # brings weights and maps into the caches, for both alike
        times_ms[label][round_] = latency.block(calls[label], 1)[0] / per_call
    return times_ms


def _repeated(network: SparseNetwork, image: torch.Tensor, spec: AtlasSpec) -> Callable[[], None]:
    """The convolution so often in one run of the engine; a stride of 2 with the splitting of its input."""
    program = network.program if network.program[0]["size"] == -2 else network.program[1:]
    program, pixels = np.tile(program, spec.calls), image.numpy().reshape(-1)
    network.execute(network.program, network.tables, pixels)
    return lambda: network.execute(program, network.tables, pixels)


def _faster_layout(conv: nn.Conv2d, image: torch.Tensor, spec: AtlasSpec) -> Callable[[], None]:
    """The dense convolution so often, in the memory layout in which it is faster."""
    timed = []
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.inference_mode():
            weight, x = conv.weight.to(memory_format=layout), image.to(memory_format=layout)

        @torch.inference_mode()
        def call(weight=weight, x=x):
            for _ in range(spec.calls):
                y = nn.functional.conv2d(x, weight, conv.bias, conv.stride, conv.padding)
                if spec.silu:
                    nn.functional.silu(y, inplace=True)

        times_ms = _turns({"": call}, 7, spec.calls)[""]
        timed.append((float(np.median(times_ms)), len(timed), call))
    return min(timed)[2]
