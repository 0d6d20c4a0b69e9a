"""Zeros into speed: run a pruned network by its non-zero weights, on an ordinary CPU.

`sparsify(model, imgsz)` traces a fused YOLOv5-style model, lays all its feature maps out in one array that is planned once,
and makes it a program of few operations (`kernels`). Concatenations cost nothing, as their parts are written side by side;
bias, SiLU and shortcuts are part of the convolution. Each convolution runs by its non-zero weights or, where that measures
faster on the machine at hand, in groups of four filters that share their inputs, which is how the engine runs dense ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from yolop import idle
from yolop.measure import latency
from yolop.network.head import decode_arrays
from yolop.network.yolov5 import Wired, require_unmasked
from yolop.specs import SpecError, require
from yolop.speed import kernels
from yolop.speed.tracing import Layout, Map, Op, Reader

CORES = idle.usable_cores()
PARTS = ("at", "plane", "pitch")  # of where a map lies: its first pixel, the lengths of a plane and of a row
PATHS = {1: "non-zeros", kernels.GROUP: "groups of four"}  # filters in a group -> how a convolution runs
REPEATS, ROUNDS = 10, 5  # of an operation, when both ways are timed


def sparsify(model: nn.Module, imgsz: int, threads: int | None = None, strict: bool = False, choose: bool = True):
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

    Returns:
        SparseNetwork. Called with (1, 3, imgsz, imgsz) float32 it gives the model's outputs, equal to float32 noise (within
        1e-4 of the largest value on YOLOv5n); its `layers` say how each convolution runs, and why.

    Raises:
        SpecError: a model, size or number that it cannot work with, before anything is compiled.
    """
    threads = min(torch.get_num_threads(), len(CORES)) if threads is None else threads
    require(1 <= threads <= len(CORES), "threads", threads, f"1 to {len(CORES)}, the cores of this machine")
    require(imgsz > 0 and imgsz % 32 == 0, "imgsz", imgsz, "a multiple of 32 pixels")
    require_unmasked(model)
    way_out = "yolov5.fused(model), float32, on the CPU"
    require(not any(m.training for m in model.modules()), "training mode", True, "model.eval()")
    require(not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()), "batch norm", "unfused", way_out)
    for name, p in model.named_parameters():
        require(p.dtype == torch.float32 and p.device.type == "cpu", name, f"{p.dtype} on {p.device}", way_out)
        require(bool(p.isfinite().all()), name, "NaN or infinity", "a model with finite weights")
    return SparseNetwork(model, (1, 3, imgsz, imgsz), threads, strict, choose)


class SparseNetwork:
    """What `sparsify` returns. One call at a time: the maps are shared between calls.

    Attributes:
        layers: a row per convolution: name, channels, kernel, stride, side in pixels, sparsity, path, and the times of both
            ways that the choice rests on (NaN where there was none).
        notes: what PyTorch runs instead, and why; empty if the engine runs all.
        memory_mb: of maps and weights, in 10^6 bytes.
    """

    def __init__(self, model: nn.Module, shape: tuple, threads: int, strict: bool, choose: bool):
        self.shape, self.threads, self.notes = shape, threads, []
        self.counter = np.zeros(8, np.int64)
        self.pool = ThreadPoolExecutor(threads, initializer=_pin, initargs=(count(),))
        wired = Wired(model) if all(hasattr(layer, "f") for layer in getattr(model, "model", [None])) else model
        self.detect, self.head = (wired.detect, wired.head) if isinstance(wired, Wired) else (None, None)
        self.notes += [f"the head, {type(self.head).__module__}.Detect, by PyTorch"] if self.head is not None else []
        try:
            self.traced = fx.GraphModule(wired, fx.Tracer().trace(wired))
            with torch.no_grad():
                ShapeProp(self.traced).propagate(torch.zeros(self.shape))
        except Exception as error:  # models can fail to trace in any way
            raise SpecError(f"this model cannot be traced by torch.fx for {shape}: {error}") from error
        self.ops, self.outputs, self.many = Reader(self.traced, self.notes).read()
        if strict and self.notes:
            raise SpecError(f"the engine cannot run {'; '.join(self.notes)}: with strict=False PyTorch runs them")
        self.layout = Layout(self.ops, self.outputs)
        self.maps = np.zeros(self.layout.floats, np.float32)
        self._choose(choose)

    def _encode(self, sizes: list[int]) -> tuple[np.ndarray, tuple]:
        """The program and its tables, with so many filters in a group of each operation's."""
        program, work, filters, biases = np.zeros(len(sizes), kernels.OPERATION), [], [], []
        offsets, values, begin, start = [np.zeros(0)], [np.zeros(0)], 0, 0
        for op, size, row in zip(self.ops, sizes, program, strict=True):
            for name, value in self._fields(op, size).items():
                row[name] = value
            row["filter"], row["work"], costs = len(filters), len(work), []
            for o, v, bias in self._groups(op, size) if op.conv else ():
                filters.append((begin, begin + len(o), start, len(biases)))
                begin, start = begin + len(o), start + len(v)
                biases += bias
                offsets.append(o)
                values.append(v)
                costs.append(len(o) + 8)  # 8: about what a filter costs that has no weights at all
            limits = np.cumsum([0, *(costs or [1] * op.dst.channels)])
            work += np.searchsorted(limits, limits[-1] * np.arange(self.threads) / self.threads).tolist()
            work.append(len(limits) - 1)
        kinds = ((work, np.int64), (filters, np.int64), (np.concatenate(offsets), np.int32))
        kinds += ((np.concatenate(values), np.float32), (biases, np.float32))
        tables = [np.array(table, kind) for table, kind in kinds]
        tables[1] = tables[1].reshape(-1, 4)
        return program, tuple(tables)

    def _fields(self, op: Op, size: int) -> dict[str, int]:
        """The numbers of an operation that do not depend on its weights."""
        height, width = (op.src.buffer.height, op.src.buffer.width) if op.src else self.shape[2:]
        places = {
            "src": self.layout.where(op.src) if op.src else (0, height * width, width),
            "dst": self.layout.where(op.dst),
        }
        places["add"] = self.layout.where(op.add) if op.add else (-1, 0, 0)
        numbers = {f"{name}_{part}": n for name, at in places.items() for part, n in zip(PARTS, at, strict=True)}
        numbers |= {"kind": op.kind, "size": size, "silu": op.silu, "outside": op.src is None, "src_height": height}
        numbers |= {"src_width": width, "height": op.dst.buffer.height, "width": op.dst.buffer.width}
        moved = op.src.channels if op.src else self.shape[1]
        return numbers | {"channels": moved if op.kind == kernels.MOVE else op.dst.channels}

    def _groups(self, op: Op, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, list[float]]]:
        """Offsets into the source, values and biases of each group of filters."""
        weight, (_, length, pitch) = op.conv.weight.detach().numpy(), self.layout.where(op.src)
        biases = [0.0] * len(weight) if op.conv.bias is None else op.conv.bias.tolist()
        for first in range(0, len(weight), size):
            group = weight[first : first + size]
            c, y, x = np.nonzero((group != 0).any(axis=0))
            plane, dy, dx = c, y - op.conv.padding[0], x - op.conv.padding[1]
            if op.conv.stride[0] == 2:
                plane, dy, dx = (dy % 2 * 2 + dx % 2) * weight.shape[1] + c, dy // 2, dx // 2
            yield plane * length + dy * pitch + dx, group[:, c, y, x].T.ravel(), biases[first : first + size]

    def execute(self, program: np.ndarray, tables: tuple, image: np.ndarray) -> None:
        """Run a program over the maps, all threads side by side."""
        arguments = (self.threads, self.maps, image, program, *tables, self.counter, int(self.counter[0]))
        # the caller's thread sleeps: it would sit on one of the cores
        list(self.pool.map(lambda t: kernels.execute(t, *arguments), range(self.threads)))

    def _choose(self, choose: bool) -> None:
        """Of both ways to run a convolution keep the one that measures faster here; segments between PyTorch's nodes."""
        image = np.zeros(int(np.prod(self.shape)), np.float32)
        plain = [op.size for op in self.ops]
        grouped = [
            kernels.GROUP if op.conv and len(op.conv.weight) % kernels.GROUP == 0 else op.size for op in self.ops
        ]
        ways = [self._encode(sizes) for sizes in (plain, grouped)]
        self.execute(ways[0][0][:0], ways[0][1], image)  # compiles the kernels, or reads them from the cache on disk
        sizes, self.layers = plain.copy(), []
        for i, op in enumerate(self.ops):
            times_ms = [np.nan, np.nan]
            if choose and grouped[i] != plain[i]:
                times_ms = [self._time_ms(np.repeat(p[i : i + 1], REPEATS), tables, image) for p, tables in ways]
                sizes[i] = grouped[i] if times_ms[1] < times_ms[0] else plain[i]
            if op.conv:
                (c2, c1, kernel, _), sparsity = op.conv.weight.shape, float((op.conv.weight == 0).float().mean())
                row = {"name": op.name, "c1": c1, "c2": c2, "kernel": kernel, "stride": op.conv.stride[0]}
                row |= {"side": op.dst.buffer.width, "sparsity": sparsity, "path": PATHS[sizes[i]]}
                self.layers.append(row | {"nonzeros_ms": times_ms[0], "groups_ms": times_ms[1]})
        self.program, self.tables = program, _ = self._encode(sizes)
        self.memory_mb = sum(a.nbytes for a in (self.maps, program, *self.tables)) / 1e6
        stops = [i for i, op in enumerate(self.ops) if op.node]
        edges = zip([0, *(i + 1 for i in stops)], [*stops, len(self.ops)], strict=True)
        self.segments = [(program[a:b], self.ops[b] if b < len(self.ops) else None) for a, b in edges]

    def _time_ms(self, program: np.ndarray, tables: tuple, image: np.ndarray) -> float:
        """The best of some runs of a program, in milliseconds per operation."""
        times_ms = latency.block(lambda: self.execute(program, tables, image), 1 + ROUNDS)
        return min(times_ms[1:]) / len(program)

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor):
        right = isinstance(image, torch.Tensor) and tuple(image.shape) == self.shape and image.dtype == torch.float32
        got = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, torch.Tensor) else type(image).__name__
        require(right, "image", got, f"a float32 tensor of shape {self.shape}")
        pixels = image.contiguous().numpy().reshape(-1)
        for program, op in self.segments:
            self.execute(program, self.tables, pixels)
            if op:
                self._in_torch(op, image)
        results = [self._view(m) for m in self.outputs]
        if self.detect is not None:
            return torch.from_numpy(decode_arrays(self.detect, [x[0].numpy() for x in results]))
        results = [x.clone(memory_format=torch.contiguous_format) for x in results]
        return self.head(results) if self.head is not None else results if self.many else results[0]

    def _view(self, m: Map) -> torch.Tensor:
        """A map as a tensor that shares its memory."""
        at, length, pitch = self.layout.where(m)
        shape = (1, m.channels, m.buffer.height, m.buffer.width)
        return torch.from_numpy(self.maps).as_strided(shape, (m.channels * length, length, pitch, 1), at)

    def _in_torch(self, op: Op, image: torch.Tensor) -> None:
        """Run one node of the graph by PyTorch, and put its result where the engine reads it."""
        interpreter = fx.Interpreter(self.traced)
        inputs = (image if m is None else self._view(m).clone() for m in op.inputs)
        interpreter.env = dict(zip(op.node.all_input_nodes, inputs, strict=True))
        result = interpreter.run_node(op.node)
        at, length, pitch = self.layout.where(op.dst)
        first = at - self.layout.reach * pitch - self.layout.reach
        self.maps[first : first + op.dst.channels * length] = 0
        self._view(op.dst).copy_(result)


def _pin(turn: count) -> None:
    """Keep this thread on a core of its own, where the system has a call for that: two that wait for each other on one core
    take many times as long, and Linux likes to wake a thread on the core of the one that woke it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {CORES[next(turn) % len(CORES)]})
