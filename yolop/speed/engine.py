"""Zeros into speed: run a pruned network by its non-zero weights, on an ordinary CPU, in float32 or in 8 bits.

`sparsify(model, imgsz)` traces a fused YOLOv5-style model, lays all its feature maps out in one array that is planned once,
and makes it a program of few operations (`kernels`). Concatenations cost nothing, as their parts are written side by side;
bias, SiLU and shortcuts are part of the convolution. Each convolution runs by its non-zero weights (in 8 bits by its blocks of
four weights that are not all zero) or, where that measures faster on the machine at hand, in groups of four filters that share
their inputs, which is how the engine runs dense ones.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import fx, nn

from yolop import idle
from yolop.measure import latency
from yolop.network.head import STRIDES
from yolop.network.yolov5 import require_unmasked
from yolop.specs import SpecError, require
from yolop.speed import kernels, quantised
from yolop.speed.program import Layout, words
from yolop.speed.tiles import GROUP, TILES
from yolop.speed.tracing import Map, Network, Op, traced

PRECISIONS = ("float32", "int8")
CORES = idle.usable_cores()
PATHS = {1: "non-zeros", GROUP: "groups of four"}  # filters that share their inputs -> how a convolution runs
REPEATS, ROUNDS = 10, 5  # of an operation, when both ways are timed


def sparsify(
    model: nn.Module, imgsz: int, threads: int | None = None, strict: bool = False, choose: bool = True,
    precision: str = "float32", calibration: Sequence | None = None,
) -> SparseNetwork:  # fmt: skip
    """A callable that computes what `model` does for one image of imgsz x imgsz, faster if its weights are mostly zero.

    Args:
        model: fused (no batch norm), float32, on the CPU, in evaluation mode, as of `yolov5.fused`. A YOLOv5-style model
            (its `model` a sequence of layers with `f`, what they read; a Detect of other code is run by PyTorch), or any module
            from map to map that torch.fx traces.
        imgsz: pixels, a multiple of 32.
        threads: of the engine itself, at most one per core; default: torch's current number. None of Numba's threading
            layers is needed.
        strict: refuse what the engine cannot run itself instead of handing it to PyTorch.
        choose: measure each convolution in both ways and keep the faster; False: all by their non-zero weights.
        precision: "float32" or "int8". In 8 bits a network without zeros is faster, too; where the processor or the engine
            cannot do that, the network runs in float32 and its notes say why.
        calibration: for int8, photographs of the train split that show which values occur: (3, imgsz, imgsz) uint8, about 128.

    Returns:
        SparseNetwork. Called with (1, 3, imgsz, imgsz) float32 it gives the model's outputs, in float32 equal to float32 noise
        (within 1e-4 of the largest value on YOLOv5n); its `layers` say how each convolution runs, and why.

    Raises:
        SpecError: a model, size or number that it cannot work with, before anything is compiled.
    """
    threads = _threads(threads)
    require(imgsz > 0 and imgsz % 32 == 0, "imgsz", imgsz, "a multiple of 32 pixels")
    require(precision in PRECISIONS, "precision", precision, "one of " + ", ".join(PRECISIONS))
    require_unmasked(model)
    way_out = "yolov5.fused(model), float32, on the CPU"
    require(not any(m.training for m in model.modules()), "training mode", True, "model.eval()")
    require(not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()), "batch norm", "unfused", way_out)
    for name, p in model.named_parameters():
        require(p.dtype == torch.float32 and p.device.type == "cpu", name, f"{p.dtype} on {p.device}", way_out)
        require(bool(p.isfinite().all()), name, "NaN or infinity", "a model with finite weights")
    shape = (1, 3, imgsz, imgsz)
    images = quantised.require_calibration(calibration, shape) if precision == "int8" else None
    network = traced(model, shape)
    if strict and network.notes:
        raise SpecError(f"the engine cannot run {'; '.join(network.notes)}: with strict=False PyTorch runs them")
    if precision == "int8":
        if why := quantised.obstacle(network):
            if strict:
                raise SpecError(f"the engine cannot run this in 8 bits: {why}; with strict=False it runs in float32")
            network.notes.append(f"float32 instead of 8 bits: {why}")
        else:
            quantised.quantise(network, images)
    return SparseNetwork(network, threads, choose)


def load(path: Path, threads: int | None = None, choose: bool = True) -> SparseNetwork:
    """A network in 8 bits that `SparseNetwork.save` wrote, without its model; SpecError for damaged files."""
    return SparseNetwork(quantised.load(path), _threads(threads), choose)


def _threads(asked: int | None) -> int:
    threads = min(torch.get_num_threads(), len(CORES)) if asked is None else asked
    require(1 <= threads <= len(CORES), "threads", threads, f"1 to {len(CORES)}, the cores of this machine")
    return threads


class SparseNetwork:
    """What `sparsify` returns. One call at a time: the maps are shared between calls.

    Attributes:
        network: its operations; in 8 bits with weights, scales and tables, as `save` keeps them.
        layers: a row per convolution: name, channels, kernel, stride, side in pixels, share of weights (in 8 bits of blocks of
            four) that are zero, path, and the times of both ways that the choice rests on (NaN where there was none).
        notes: what PyTorch runs instead, and why; in 8 bits maps with many values beyond their range. Empty if there is nothing.
        memory_mb: of maps and weights, in 10^6 bytes.
    """

    def __init__(self, network: Network, threads: int, choose: bool = True):
        self.network, self.notes, self.pack, outputs = network, network.notes, network.pack, network.outputs
        heads = zip(outputs, STRIDES, strict=True) if network.numbers else ()
        self.ops = [*network.ops, *(Op(kernels.DECODE, m, m, stride) for m, stride in heads)]
        self.layout = Layout(network, self.ops)
        self.maps, self.crew = self.layout.memory(), Threads(threads)
        boxes = 3 * sum(m.buffer.height * m.buffer.width for m in outputs) if network.numbers else 0
        self.boxes = np.zeros((boxes, network.numbers), np.float32)
        self._choose(choose)
        stops = [i for i, op in enumerate(self.ops) if op.kind == kernels.TORCH]
        self.segments = list(zip([0, *(i + 1 for i in stops)], [*stops, len(self.ops)], strict=True))

    def save(self, path: Path) -> None:
        """Write a network in 8 bits as `path`, safetensors, with a json file beside it; `load` reads them."""
        require(self.pack > 1, "precision", "float32", "int8: networks in float32 are saved as their model")
        quantised.save(self.network, path)

    def execute(self, program: np.ndarray, tables: tuple, image: np.ndarray) -> None:
        """Run a program over the maps, all threads side by side."""
        self.crew.run(self.maps, image, self.boxes, program, *tables)

    def _choose(self, choose: bool) -> None:
        """Of both ways to run a convolution keep the one that measures faster here."""
        image, sizes, self.layers = np.zeros(int(np.prod(self.network.shape)), np.float32), [op.size for op in self.ops], []
        able = [op.conv and len(words(op, self.pack)[0]) % GROUP == 0 for op in self.ops]
        given = {n: [n if a else s for a, s in zip(able, sizes, strict=True)] for n in TILES[self.pack]}
        ways = {n: self.layout.encode(asked, self.crew.count) for n, asked in given.items()}
        self.execute(ways[1][0][:0], ways[1][1], image)  # compiles the kernels, or reads them from the cache on disk
        for i, op in ((i, op) for i, op in enumerate(self.ops) if op.conv):
            times_ms = dict.fromkeys(ways, np.nan)
            if choose and able[i]:
                times_ms = {n: self._time_ms(np.repeat(p[i : i + 1], REPEATS), t, image) for n, (p, t) in ways.items()}
                sizes[i] = min(times_ms, key=times_ms.get)
            filters, channels, *kernel = op.conv.weight.shape
            own = words(op, self.pack)[0][:filters]
            blocks = filters * -(-channels // self.pack) * int(np.prod(kernel))
            share = 1 - np.count_nonzero(own) / min(own.size, blocks)  # splitting for a stride of 2 adds zeros
            row = {"name": op.name, "c1": channels, "c2": filters, "kernel": kernel[0], "stride": op.conv.stride[0]}
            row |= {"side": op.dst.buffer.width, "sparsity": float(share), "path": PATHS[sizes[i]]}
            self.layers.append(row | {"nonzeros_ms": times_ms[1], "groups_ms": times_ms[GROUP]})
        self.program, self.tables = self.layout.encode(sizes, self.crew.count)
        self.memory_mb = sum(a.nbytes for a in (self.maps, self.program, *self.tables)) / 1e6

    def _time_ms(self, program: np.ndarray, tables: tuple, image: np.ndarray) -> float:
        """The best of some runs of a program, in milliseconds per operation."""
        times_ms = latency.block(lambda: self.execute(program, tables, image), 1 + ROUNDS)
        return min(times_ms[1:]) / len(program)

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor):
        shape = self.network.shape
        right = isinstance(image, torch.Tensor) and tuple(image.shape) == shape and image.dtype == torch.float32
        got = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, torch.Tensor) else type(image).__name__
        require(right, "image", got, f"a float32 tensor of shape {shape}")
        pixels = image.contiguous().numpy().reshape(-1)
        for first, stop in self.segments:
            self.execute(self.program[first:stop], self.tables, pixels)
            if stop < len(self.ops):
                self._in_torch(self.ops[stop], image)
        if self.network.numbers:
            return torch.from_numpy(self.boxes.copy())[None]
        maps = [self._view(m).clone(memory_format=torch.contiguous_format) for m in self.network.outputs]
        return self.network.head(maps) if self.network.head else maps if self.network.many else maps[0]

    def _view(self, m: Map) -> torch.Tensor:
        """A float32 map as a tensor that shares its memory."""
        at, length, pitch = self.layout.where(m)
        shape = (1, m.channels, m.buffer.height, m.buffer.width)
        floats = torch.from_numpy(self.maps.view(np.float32))
        return floats.as_strided(shape, (m.channels * length, length, pitch, 1), at)

    def _in_torch(self, op: Op, image: torch.Tensor) -> None:
        """Run one node of the graph by PyTorch, and put its result where the engine reads it."""
        interpreter = fx.Interpreter(self.network.graph)
        inputs = (image if m is None else self._view(m).clone() for m in op.inputs)
        interpreter.env = dict(zip(op.node.all_input_nodes, inputs, strict=True))
        result = interpreter.run_node(op.node)
        at, length, pitch = self.layout.where(op.dst)
        first = at - self.layout.reach * pitch - self.layout.reach
        self.maps[first : first + op.dst.channels * length] = 0
        self._view(op.dst).copy_(result)


class Threads:
    """Threads that run a program together; the caller's own is the first of them.

    Each of the others keeps to a core of its own, another one than the caller's: on one core they would wait for each other,
    and Linux likes to wake a thread on the core of the one that woke it.
    """

    def __init__(self, count: int):
        self.count, self.here = count, threading.local()
        self.pool = ThreadPoolExecutor(count - 1) if count > 1 else None

    def run(self, maps: np.ndarray, image: np.ndarray, boxes: np.ndarray, program: np.ndarray, *tables) -> None:
        """The whole program, over what the kernel takes."""
        # new counters each time: a helper that comes too late finds nothing left to do
        raw = np.zeros(8 * len(program) + 8, np.int64)
        counters = raw[-raw.ctypes.data // 8 % 8 :]  # a cache line for each operation
        core = _core() if self.pool else 0
        arguments = counters, maps, image, boxes, program, *tables
        helpers = [self.pool.submit(self._help, core, i, arguments) for i in range(1, self.count)]
        kernels.execute(*arguments)
        for helper in helpers:
            helper.cancel()  # one that has begun ends by itself: waiting for it could take a time slice of a busy core

    def _help(self, core: int, turn: int, arguments: tuple) -> None:
        own = CORES[((CORES.index(core) if core in CORES else 0) + turn) % len(CORES)]
        if getattr(self.here, "core", None) != own and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {own})
            self.here.core = own
        kernels.execute(*arguments)


try:
    _core = ctypes.CDLL(None).sched_getcpu
except (AttributeError, OSError, TypeError):  # other systems do not say
    _core = int
