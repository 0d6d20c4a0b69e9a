"""Zeros into speed: run a pruned network by its non-zero weights, on an ordinary CPU.

`sparsify(model, imgsz)` traces a fused YOLOv5-style model, lays all its feature maps out in one array that is planned once,
and makes it a program of few operations (`kernels`). Concatenations cost nothing, as their parts are written side by side;
bias, SiLU and shortcuts are part of the convolution. Each convolution runs by its non-zero weights or, where that measures
faster on the machine at hand, in groups of four filters that share their inputs, which is how the engine runs dense ones.
"""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from yolop.network.head import decode_arrays
from yolop.network.yolov5 import Wired
from yolop.specs import SpecError, require
from yolop.speed import kernels as k

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
PARTS = ("at", "plane", "pitch")  # of where a map lies: its first pixel, the lengths of a plane and of a row
PATHS = {1: "non-zeros", k.GROUP: "groups of four"}  # filters in a group -> how a convolution runs
REPEATS, ROUNDS = 10, 5  # of an operation, when both ways are timed


def sparsify(model: nn.Module, imgsz: int, threads: int | None = None, strict: bool = False, choose: bool = True):
    """A callable that computes what `model` does for one image of imgsz x imgsz, faster if its weights are mostly zero.

    Args:
        model: fused (no batch norm), float32, on the CPU, in evaluation mode, as of `models.fused`. A YOLOv5-style model
            (its `model` a sequence of layers with `f`, what they read), or any module from map to map that torch.fx traces.
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
    way_out = "models.fused(model), float32, on the CPU"
    require(not any(m.training for m in model.modules()), "training mode", True, "model.eval()")
    require(not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()), "batch norm", "unfused", way_out)
    for name, p in model.named_parameters():
        require(p.dtype == torch.float32 and p.device.type == "cpu", name, f"{p.dtype} on {p.device}", way_out)
        require(bool(p.isfinite().all()), name, "NaN or infinity", "a model with finite weights")
    return SparseNetwork(model, (1, 3, imgsz, imgsz), threads, strict, choose)


@dataclass(eq=False)
class _Buffer:
    """Feature maps side by side; `born` and `dies` are the first and the last operation that touch them."""

    channels: int
    height: int
    width: int
    born: int = -1
    dies: int = -1
    start: int = 0


@dataclass
class _Map:
    """A feature map: channels of a buffer, from `channel` on."""

    buffer: _Buffer
    channel: int
    channels: int


@dataclass
class _Op:
    """One operation before it has numbers; `src` None is the image."""

    kind: int
    src: _Map | None
    dst: _Map
    size: int = 1
    conv: nn.Conv2d | None = None
    name: str = ""
    silu: bool = False
    add: _Map | None = None
    node: fx.Node | None = None  # what PyTorch runs
    inputs: list = field(default_factory=list)

    @property
    def maps(self) -> list[_Map]:
        return [m for m in (self.src, self.dst, self.add, *self.inputs) if m]


class SparseNetwork:
    """What `sparsify` returns. One call at a time: the maps are shared between calls.

    Attributes:
        layers: a row per convolution: name, channels, kernel, stride, side in pixels, sparsity, path, and the times of both
            ways that the choice rests on (NaN where there was none).
        notes: what PyTorch runs instead, and why; empty if the engine runs all.
        memory_mb: of maps and weights, in 10^6 bytes.
        first_call_s: seconds of the first run, in which the kernels are compiled or read from the cache on disk.
    """

    def __init__(self, model: nn.Module, shape: tuple, threads: int, strict: bool, choose: bool):
        self.shape, self.threads, self.notes = shape, threads, []
        self.counter = np.zeros(8, np.int64)
        self.pool = ThreadPoolExecutor(threads, initializer=_pin, initargs=(count(),))
        wired = Wired(model) if all(hasattr(layer, "f") for layer in getattr(model, "model", [None])) else model
        last = wired.layers[-1] if isinstance(wired, Wired) else None
        self.detect = last if hasattr(last, "decode") else None
        try:
            self.traced = fx.GraphModule(wired, fx.Tracer().trace(wired))
            with torch.no_grad():
                ShapeProp(self.traced).propagate(torch.zeros(self.shape))
        except Exception as error:  # models can fail to trace in any way
            raise SpecError(f"this model cannot be traced by torch.fx for {shape}: {error}") from error
        self.ops, self.outputs, self.many = _Reader(self.traced, self.notes).read()
        require(not (strict and self.notes), "strict", strict, "False: the engine cannot run " + "; ".join(self.notes))
        self._place_maps()
        self._choose(choose)

    # --- places and numbers -------------------------------------------------------------------------------------------

    def _place_maps(self) -> None:
        """One array for all maps, where no buffer lies on another that is alive at the same time."""
        reaches = [1]  # the zeros around every plane are as wide as any kernel needs
        for conv in (op.conv for op in self.ops if op.conv):
            for size, padding in zip(conv.kernel_size, conv.padding, strict=True):
                reaches += [-(-padding // conv.stride[0]), (size - 1 - padding) // conv.stride[0]]
        self.q = max(reaches)
        for i, op in enumerate(self.ops):
            for m in op.maps:
                m.buffer.born, m.buffer.dies = i if m.buffer.born < 0 else m.buffer.born, i
        for m in self.outputs:
            m.buffer.dies = len(self.ops)
        buffers, placed, total = {m.buffer for op in self.ops for m in op.maps}, [], 16
        for b in sorted(buffers, key=lambda b: (-b.channels * self._plane(b)[1], b.born)):
            length, b.start = b.channels * self._plane(b)[1] + 16, 16
            for other in sorted(placed, key=lambda other: other.start):
                if other.born <= b.dies and b.born <= other.dies:
                    if b.start + length <= other.start:
                        break
                    b.start = max(b.start, other.start + other.channels * self._plane(other)[1] + 16)
            placed.append(b)
            total = max(total, b.start + length)
        self.maps = np.zeros(total + 256, np.float32)

    def _plane(self, buffer: _Buffer) -> tuple[int, int]:
        """Length of a row and of a plane of a buffer."""
        pitch = buffer.width + self.q
        return pitch, -(-((buffer.height + 2 * self.q) * pitch + self.q + k.LANES) // 16) * 16

    def _where(self, m: _Map) -> tuple[int, int, int]:
        """First pixel, length of a plane, length of a row."""
        pitch, length = self._plane(m.buffer)
        return m.buffer.start + m.channel * length + self.q * pitch + self.q, length, pitch

    def _encode(self, sizes: list[int]) -> tuple[np.ndarray, tuple]:
        """The program and its tables, with so many filters in a group of each operation's."""
        program, work, filters, biases = np.zeros(len(sizes), k.OPERATION), [], [], []
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

    def _fields(self, op: _Op, size: int) -> dict[str, int]:
        """The numbers of an operation that do not depend on its weights."""
        height, width = (op.src.buffer.height, op.src.buffer.width) if op.src else self.shape[2:]
        places = {"src": self._where(op.src) if op.src else (0, height * width, width), "dst": self._where(op.dst)}
        places["add"] = self._where(op.add) if op.add else (-1, 0, 0)
        found = {f"{name}_{part}": n for name, at in places.items() for part, n in zip(PARTS, at, strict=True)}
        found |= {"kind": op.kind, "size": size, "silu": op.silu, "outside": op.src is None, "src_height": height}
        found |= {"src_width": width, "height": op.dst.buffer.height, "width": op.dst.buffer.width}
        return found | {
            "channels": op.dst.channels if op.kind != k.MOVE else op.src.channels if op.src else self.shape[1]
        }

    def _groups(self, op: _Op, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, list[float]]]:
        """Offsets into the source, values and biases of each group of filters."""
        weight, (_, length, pitch) = op.conv.weight.detach().numpy(), self._where(op.src)
        biases = [0.0] * len(weight) if op.conv.bias is None else op.conv.bias.tolist()
        for first in range(0, len(weight), size):
            group = weight[first : first + size]
            c, y, x = np.nonzero((group != 0).any(axis=0))
            plane, dy, dx = c, y - op.conv.padding[0], x - op.conv.padding[1]
            if op.conv.stride[0] == 2:
                plane, dy, dx = (dy % 2 * 2 + dx % 2) * weight.shape[1] + c, dy // 2, dx // 2
            yield plane * length + dy * pitch + dx, group[:, c, y, x].T.ravel(), biases[first : first + size]

    # --- running ------------------------------------------------------------------------------------------------------

    def execute(self, program: np.ndarray, tables: tuple, image: np.ndarray) -> None:
        arguments = (self.threads, self.maps, image, program, *tables, self.counter, int(self.counter[0]))
        # the caller's thread sleeps: it would sit on one of the cores
        list(self.pool.map(lambda t: k.execute(t, *arguments), range(self.threads)))

    def _choose(self, choose: bool) -> None:
        """Of both ways to run a convolution keep the one that measures faster here; segments between PyTorch's nodes."""
        image, began = np.zeros(int(np.prod(self.shape)), np.float32), time.perf_counter()
        plain = [op.size for op in self.ops]
        grouped = [k.GROUP if op.conv and len(op.conv.weight) % k.GROUP == 0 else op.size for op in self.ops]
        ways = [self._encode(sizes) for sizes in (plain, grouped)]
        self.execute(ways[0][0][:0], ways[0][1], image)
        self.first_call_s = time.perf_counter() - began
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
        times_s = []
        for _ in range(1 + ROUNDS):
            start = time.perf_counter()
            self.execute(program, tables, image)
            times_s.append(time.perf_counter() - start)
        return min(times_s[1:]) * 1000 / len(program)

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
        return results if self.many else results[0]

    def _view(self, m: _Map) -> torch.Tensor:
        """A map as a tensor that shares its memory."""
        at, length, pitch = self._where(m)
        shape = (1, m.channels, m.buffer.height, m.buffer.width)
        return torch.from_numpy(self.maps).as_strided(shape, (m.channels * length, length, pitch, 1), at)

    def _in_torch(self, op: _Op, image: torch.Tensor) -> None:
        """Run one node of the graph by PyTorch, and put its result where the engine reads it."""
        interpreter = fx.Interpreter(self.traced)
        found = (image if m is None else self._view(m).clone() for m in op.inputs)
        interpreter.env = dict(zip(op.node.all_input_nodes, found, strict=True))
        result = interpreter.run_node(op.node)
        at, length, pitch = self._where(op.dst)
        first = at - self.q * pitch - self.q
        self.maps[first : first + op.dst.channels * length] = 0
        self._view(op.dst).copy_(result)


def _pin(turn: count) -> None:
    """Keep this thread on a core of its own, where the system has a call for that: two that wait for each other on one core
    take many times as long, and Linux likes to wake a thread on the core of the one that woke it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {CORES[next(turn) % len(CORES)]})


def _keeps_size(pool: nn.MaxPool2d) -> bool:
    size, rest = pool.kernel_size, (pool.stride, pool.dilation, pool.ceil_mode)
    return isinstance(size, int) and size == 2 * pool.padding + 1 and rest == (1, 1, False)


class _Reader:
    """From a traced graph to operations: what is fused, what lies side by side, what PyTorch has to run."""

    def __init__(self, traced: fx.GraphModule, notes: list[str]):
        self.traced, self.notes, self.nodes = traced, notes, list(traced.graph.nodes)
        self.maps: dict[fx.Node, _Map] = {}
        self.homes: dict[fx.Node, tuple[fx.Node, int]] = {}  # a part of a concatenation -> which, from what channel on
        self.ops: list[_Op] = []
        images = [node for node in self.nodes if node.op == "placeholder"]
        require(len(images) == 1, "inputs", len(images), "a model that reads one image")
        self.image = images[0]

    def read(self) -> tuple[list[_Op], list[_Map], bool]:
        """Operations, the maps that are the outputs, and whether the model returns several."""
        outputs, absorbed = self.image, set()
        for node in filter(self._concatenates, self.nodes):
            channel = 0
            for part in node.args[0]:
                self.homes.setdefault(part, (node, channel))
                channel += self._shape(part)[1]
        for node in self.nodes:
            module = self._module(node)
            if node in absorbed or node.op in ("placeholder", "get_attr"):
                continue
            elif node.op == "output":
                outputs = node.args[0]
            elif isinstance(module, nn.Conv2d) and not self._obstacle(node, module):
                absorbed |= self._convolution(node, module)
            elif isinstance(module, nn.Upsample) and (module.scale_factor, module.mode) == (2, "nearest"):
                self.ops.append(_Op(k.MOVE, self.maps.get(node.args[0]), self._place(node), 2))
            elif isinstance(module, nn.MaxPool2d) and _keeps_size(module):
                self.ops.append(_Op(k.MAXPOOL, self._inside(node), self._place(node), module.kernel_size))
            elif self._concatenates(node):
                self._concatenation(node)
            else:
                self._by_torch(node, module)
        found = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        require(all(node in self.maps for node in found), "outputs", str(outputs), "one or a list of feature maps")
        return self.ops, [self.maps[node] for node in found], isinstance(outputs, (list, tuple))

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.traced.get_submodule(node.target) if node.op == "call_module" else None

    def _shape(self, node: fx.Node) -> tuple:
        return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))

    def _inside(self, node: fx.Node, stride: int = 1) -> _Map:
        """What a node reads, as it lies among the maps: copied there if it is the image, split for a stride of 2."""
        source, (_, channels, height, width) = self.maps.get(node.args[0]), self._shape(node.args[0])
        if source is None or stride == 2:
            parts = _Buffer(channels * stride**2, -(-height // stride), -(-width // stride))
            source, before = _Map(parts, 0, parts.channels), source
            self.ops.append(_Op(k.MOVE, before, source, -2 if stride == 2 else 1))
        return source

    def _concatenates(self, node: fx.Node) -> bool:
        if node.target is not torch.cat or (*node.args[1:], *node.kwargs.values()) != (1,):
            return False
        return self.image not in node.args[0] and all(len(self._shape(part)) == 4 for part in node.args[0])

    def _obstacle(self, node: fx.Node, conv: nn.Conv2d) -> str:
        """Why the engine cannot run a convolution; empty if it can."""
        (_, _, height, width), rows = self._shape(node.args[0]), self._shape(node)[2:]
        stride, padded = conv.stride[0], conv.padding_mode != "zeros" or isinstance(conv.padding, str)
        reasons = {
            f"{conv.groups} groups": conv.groups != 1,
            f"dilation {conv.dilation}": conv.dilation != (1, 1),
            f"padding {conv.padding} with {conv.padding_mode}": padded,
            f"stride {conv.stride}": conv.stride not in ((1, 1), (2, 2)),
            f"{height}x{width} px to {rows[0]}x{rows[1]}": rows != (-(-height // stride), -(-width // stride)),
            f"kernel {conv.kernel_size}": max(conv.kernel_size) > 7,
        }
        return next((why for why, wrong in reasons.items() if wrong), "")

    def _place(self, node: fx.Node) -> _Map:
        if node not in self.maps:
            _, channels, height, width = self._shape(node)
            if node in self.homes:
                whole, channel = self.homes[node]
                around = self._place(whole)
                self.maps[node] = _Map(around.buffer, around.channel + channel, channels)
            else:
                self.maps[node] = _Map(_Buffer(channels, height, width), 0, channels)
        return self.maps[node]

    def _convolution(self, node: fx.Node, conv: nn.Conv2d) -> set[fx.Node]:
        """A convolution with the activation and the shortcut that follow it; returns the nodes that are in it."""
        last, silu, add, inside = node, False, None, set()
        after = list(last.users)
        if len(after) == 1 and isinstance(self._module(after[0]), nn.SiLU):
            last, silu = after[0], True
            inside.add(last)
        after = list(last.users)
        if len(after) == 1 and after[0].target in (operator.add, torch.add) and len(after[0].args) == 2:
            others = [a for a in after[0].args if a is not last]
            if len(others) == 1 and others[0] in self.maps and self._shape(others[0]) == self._shape(last):
                last, add = after[0], self.maps[others[0]]
                inside.add(last)
        source = self._inside(node, conv.stride[0])
        self.ops.append(_Op(k.CONV, source, self._place(last), 1, conv, str(node.target), silu, add))
        return inside

    def _concatenation(self, node: fx.Node) -> None:
        """Nothing to do for parts that were written in their place; the others are copied there."""
        whole, channel = self._place(node), 0
        for part in node.args[0]:
            place = _Map(whole.buffer, whole.channel + channel, self._shape(part)[1])
            if (self.maps[part].buffer, self.maps[part].channel) != (place.buffer, place.channel):
                self.ops.append(_Op(k.MOVE, self.maps[part], place))
            channel += place.channels

    def _by_torch(self, node: fx.Node, module: nn.Module | None) -> None:
        what = f"{node.name}: {type(module).__name__ if module is not None else node.target}"
        why = self._obstacle(node, module) if isinstance(module, nn.Conv2d) else ""
        good = len(self._shape(node)) == 4 and self._shape(node)[0] == 1
        inputs = [None if i is self.image else self.maps.get(i, i) for i in node.all_input_nodes]
        good = good and all(i is None or isinstance(i, _Map) for i in inputs)
        require(good, "layer", what, "layers from feature maps to a feature map")
        self.notes.append(f"{what} ({why})" if why else what)
        self.ops.append(_Op(-1, None, self._place(node), node=node, inputs=inputs))
