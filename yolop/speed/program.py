"""Programs of the sparse engine: its operations, where their maps lie in one array, and the threads that run them.

`Layout` lets no map lie on another that is needed at the same time.
"""

from __future__ import annotations

import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from yolop import idle
from yolop.measure import latency
from yolop.network.head import STRIDES
from yolop.specs import require
from yolop.speed import kernels

CORES = idle.usable_cores()
REPEATS, ROUNDS = 10, 5  # of an operation, when both ways are timed
ALIGNED = 16  # words of 32 bits in 64 bytes
SLACK = 512  # words behind the maps: whole registers are read and written


@dataclass(eq=False)
class Buffer:
    """Feature maps side by side; `born` and `dies` are the first and the last operation that touch them.

    In 8 bits `zeros` are the zero points of its channels.
    """

    channels: int
    height: int
    width: int
    born: int = -1
    dies: int = -1
    start: int = 0
    zeros: np.ndarray | None = None


@dataclass
class Map:
    """A feature map: channels of a buffer, from `channel` on."""

    buffer: Buffer
    channel: int
    channels: int


@dataclass
class Op:
    """One operation before it has numbers; `src` None is the image."""

    kind: int
    src: Map | None
    dst: Map
    size: int = 1
    conv: object | None = None  # an nn.Conv2d, or a `quantised.Conv8`
    name: str = ""
    act: int = 0  # that follows a convolution, of kernels
    add: Map | None = None
    node: object | None = None  # what PyTorch runs
    inputs: list = field(default_factory=list)

    @property
    def maps(self) -> list[Map]:
        """All that it reads or writes."""
        return [m for m in (self.src, self.dst, self.add, *self.inputs) if m]


class Layout:
    """Where every map of some operations lies in one array: `reach` zeros around each plane, `words` of 32 bits in all.

    A word holds one float32 or the 8 bits of `pack` channels; the outputs are always float32. The first pixel of each plane lies
    at a multiple of 64 bytes.
    """

    def __init__(self, ops: list[Op], outputs: list[Map], pack: int = 1):
        self.reach, self.pack = 1, pack  # as far as any kernel looks beyond the edge
        for conv in (op.conv for op in ops if op.conv):
            for size, padding in zip(conv.kernel_size, conv.padding, strict=True):
                self.reach = max(self.reach, -(-padding // conv.stride[0]), (size - 1 - padding) // conv.stride[0])
        for i, op in enumerate(ops):
            for m in op.maps:
                m.buffer.born, m.buffer.dies = i if m.buffer.born < 0 else m.buffer.born, i
        for m in outputs:
            m.buffer.dies = len(ops)
        self.outputs = {m.buffer for m in outputs}
        buffers, placed, self.words = {m.buffer for op in ops for m in op.maps}, [], 0
        for b in sorted(buffers, key=lambda b: (-self.length(b), b.born)):
            b.start = 0
            for other in sorted(placed, key=lambda other: other.start):
                if other.born <= b.dies and b.born <= other.dies:
                    if b.start + self.length(b) <= other.start:
                        break
                    b.start = max(b.start, other.start + self.length(other))
            placed.append(b)
            self.words = max(self.words, b.start + self.length(b))
        self.words += SLACK

    def planes(self, buffer: Buffer) -> int:
        """How many planes of words a buffer has; those of the 8-bit engine's outputs come in fours."""
        words = -(-buffer.channels // self.pack)
        return words * self.pack if buffer in self.outputs else words

    def plane(self, buffer: Buffer) -> tuple[int, int]:
        """Length of a row and of a plane of a buffer."""
        pitch = buffer.width + self.reach
        return pitch, _aligned((buffer.height + 2 * self.reach) * pitch + self.reach + kernels.LANES)

    def length(self, buffer: Buffer) -> int:
        """Words of a buffer with what lies before its first plane and behind its last one."""
        return self.planes(buffer) * self.plane(buffer)[1] + 3 * ALIGNED

    def where(self, m: Map) -> tuple[int, int, int]:
        """First pixel, length of a plane, length of a row."""
        pitch, length = self.plane(m.buffer)
        first = m.channel if m.buffer in self.outputs else m.channel // self.pack
        return m.buffer.start + _aligned(self.reach * pitch + self.reach) + ALIGNED + first * length, length, pitch

    def memory(self) -> np.ndarray:
        """The array, float32, its first word at a multiple of 64 bytes."""
        raw = np.zeros(self.words + ALIGNED, np.float32)
        first = -raw.ctypes.data // 4 % ALIGNED
        return raw[first : first + self.words]

    def masks(self, ops: list[Op]) -> tuple[np.ndarray, dict[tuple, int]]:
        """One bit per pixel, LANES to an entry: is it on the map, or between two rows? And where those of a size begin."""
        tables, begins, count = [np.zeros(0)], {}, 0
        for b in (op.dst.buffer for op in ops if op.conv):
            if (b.height, b.width) not in begins:
                pitch, begins[b.height, b.width] = self.plane(b)[0], count
                pixels = np.arange(_vectors(b, pitch) * kernels.LANES).reshape(-1, kernels.LANES)
                on = (pixels % pitch < b.width) & (pixels // pitch < b.height)
                tables.append((on << np.arange(kernels.LANES)).sum(axis=1))
                count += len(tables[-1])
        return np.concatenate(tables).astype(np.uint16), begins


def _aligned(words: int) -> int:
    return -(-words // ALIGNED) * ALIGNED


def _vectors(buffer: Buffer, pitch: int) -> int:
    return -(-((buffer.height - 1) * pitch + buffer.width) // kernels.LANES)


def tiles(op: Op, pitch: int, most: int) -> tuple[int, int]:
    """Registers of a tile of an operation, at most `most` and about the same in all, and how many tiles there are."""
    vectors = _vectors(op.dst.buffer, pitch)
    registers = -(-vectors // -(-vectors // most))
    return registers, -(-vectors // registers)


def pieces(tiles: int, costs: list[int], threads: int) -> list[tuple[int, int, int, int]]:
    """Work of a convolution as (first and past-last tile, first and past-last group): twice as many pieces as threads, cut
    along its tiles where there are enough of them, else along its groups, which cost `costs`."""
    groups, share = len(costs), 2 * threads if threads > 1 else 1
    if tiles >= 4 * share:
        cuts = [tiles * i // share for i in range(share + 1)]
        return [(a, b, 0, groups) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    limits = np.cumsum([0, *costs])
    cuts = sorted({int(np.abs(limits - limits[-1] * i / share).argmin()) for i in range(share + 1)})
    return [(0, tiles, a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def slots(op: Op, weight: np.ndarray, pack: int) -> tuple[np.ndarray, int, int]:
    """Weights of a convolution as its source lies in memory, (filters, channels, rows, columns) with both counts of
    channels multiples of `pack`, and the offsets of the first row and column."""
    py, px = op.conv.padding
    weight = np.pad(weight, ((0, -len(weight) % pack), (0, 0), (0, 0), (0, 0)))
    filters, channels, rows, columns = weight.shape
    padded = channels + -channels % pack
    if op.conv.stride[0] == 1:
        return np.pad(weight, ((0, 0), (0, padded - channels), (0, 0), (0, 0))), -py, -px
    ys, xs = (sorted({(i - p) // 2 for i in range(n)}) for n, p in ((rows, py), (columns, px)))
    image = op.src.buffer.channels == 4 * channels != 4 * padded  # of which the four parts of a colour lie in one word
    out = np.zeros((filters, op.src.buffer.channels, len(ys), len(xs)), weight.dtype)
    for y in range(rows):
        for x in range(columns):
            part = (y - py) % 2 * 2 + (x - px) % 2
            place = np.arange(channels) * 4 + part if image else part * padded + np.arange(channels)
            out[:, place, (y - py) // 2 - ys[0], (x - px) // 2 - xs[0]] = weight[:, :, y, x]
    return out, ys[0], xs[0]


class Threads:
    """Threads that run a program together; the caller's own is the first of them.

    Each of the others keeps to a core of its own, another one than the caller's: on one core they would wait for each other,
    and Linux likes to wake a thread on the core of the one that woke it.
    """

    def __init__(self, count: int, kernel):
        self.count, self.kernel, self.here = count, kernel, threading.local()
        self.pool = ThreadPoolExecutor(count - 1) if count > 1 else None

    def run(self, maps: np.ndarray, image: np.ndarray, boxes: np.ndarray, program: np.ndarray, *tables) -> None:
        """The whole program, over what the kernel takes."""
        # new counters each time: a helper that comes too late finds nothing left to do
        raw = np.zeros((len(program) + 1, 8), np.int64)
        skip = -raw.ctypes.data // 8 % 8  # a cache line for each operation
        counters = raw.reshape(-1)[skip : skip + 8 * len(program)].reshape(-1, 8)
        core = _core() if self.pool else 0
        arguments = counters, maps, image, boxes, program, *tables
        helpers = [self.pool.submit(self._help, core, i, arguments) for i in range(1, self.count)]
        self.kernel(*arguments)
        for helper in helpers:
            helper.cancel()  # one that has begun ends by itself: waiting for it could take a time slice of a busy core

    def _help(self, core: int, turn: int, arguments: tuple) -> None:
        own = CORES[((CORES.index(core) if core in CORES else 0) + turn) % len(CORES)]
        if getattr(self.here, "core", None) != own and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {own})
            self.here.core = own
        self.kernel(*arguments)


def fields(op: Op, layout: Layout, shape: tuple[int, ...]) -> dict[str, int]:
    """The numbers of an operation that do not depend on its weights."""
    height, width = (op.src.buffer.height, op.src.buffer.width) if op.src else shape[2:]
    src = layout.where(op.src) if op.src else (0, height * width, width)
    add = layout.where(op.add) if op.add else (-1, 0, 0)
    numbers = dict(zip(kernels.PLACES, (*src, *layout.where(op.dst), *add), strict=True))
    numbers |= {"kind": op.kind, "size": op.size, "outside": op.src is None}
    numbers |= {"src_height": height, "src_width": width}
    return numbers | {"height": op.dst.buffer.height, "width": op.dst.buffer.width}


class Engine:
    """A planned network: its maps, its program in the way that measures fastest here, and the threads that run it.

    Attributes:
        layers: a row per convolution: name, channels, kernel, stride, side in pixels, share of blocks (one weight in float32, four
            input channels in 8 bits) that are zero, path, and the times of both ways that the choice rests on (NaN: not measured).
        memory_mb: of maps and weights, in 10^6 bytes.
    """

    pack, kernel = 1, None  # channels in a word
    most = {}  # filters that share their inputs -> most registers of outputs for each
    paths = {1: "non-zeros", kernels.GROUP: "groups of four"}

    def _plan(self, ops: list[Op], outputs: list[Map], anchors: np.ndarray, numbers: int, choose: bool) -> None:
        """Lay out and choose; `anchors` and `numbers` of a box are those of Detect, 0 numbers: the outputs are maps."""
        heads = zip(outputs, STRIDES, strict=True) if numbers else ()
        self.ops = [*ops, *(Op(kernels.DECODE, m, m, stride) for m, stride in heads)]
        self.outputs, self.numbers, self.sides = outputs, numbers, np.ascontiguousarray(anchors, np.float32)
        self.layout = Layout(self.ops, outputs, self.pack)
        self.maps, self.crew = self.layout.memory(), Threads(self.threads, self.kernel)
        boxes = 3 * sum(m.buffer.height * m.buffer.width for m in outputs) if numbers else 0
        self.boxes = np.zeros((boxes, numbers), np.float32)
        self._choose(choose)

    def _encode(self, sizes: list[int]) -> tuple[np.ndarray, tuple]:
        """The program and its tables, with so many filters in a group of each operation's."""
        program, self.masks = np.zeros(len(sizes), kernels.OPERATION), self.layout.masks(self.ops)
        lists = {name: [] for name in ("work", "groups", "filters", "offsets", "values", "tables", "pads")}
        heads = box = 0
        for op, size, row in zip(self.ops, sizes, program, strict=True):
            own = fields(op, self.layout, self.shape)
            own |= {name: sum(map(len, lists[name])) for name in ("work", "pads")}
            planes = -(-op.dst.channels // self.pack)
            lists["pads"].append(self._pads(op, planes))
            if op.conv:
                work = self._convolution(op, size, own, lists)
            elif op.kind == kernels.DECODE:
                own |= {"channels": self.numbers, "filter": box, "params": heads}
                heads, box = heads + 3, box + 3 * own["height"] * own["width"]
                work = [(0, 0, anchor, anchor + 1) for anchor in range(3)]
            else:
                split = op.src is None and op.size == -2 and self.pack > 1  # one word holds what four planes would
                own["channels"] = -(-op.src.channels // self.pack) if op.src else self.shape[1]
                work = pieces(1, [1] * (self.shape[1] if split else planes), self.threads)
            lists["work"].append(work)
            for name, value in (own | {"pieces": len(work)}).items():
                row[name] = value
        kinds = (np.int64, np.int64, np.float32, np.int32, np.float32, np.float32, np.int32)
        ends = ((0, 4), (0, 3), (0, 4), 0, 0, (0, kernels.TABLE), 0)
        parts = zip(lists.values(), ends, kinds, strict=True)
        made = [np.concatenate([np.zeros(end, kind), *rows]).astype(kind) for rows, end, kind in parts]
        return program, (*made, self.masks[0], self.sides)

    def _convolution(self, op: Op, size: int, own: dict, lists: dict[str, list]) -> list[tuple]:
        """Put a convolution into the tables and its numbers into `own`; returns its work."""
        own |= {"size": size, "mask": self.masks[1][op.dst.buffer.height, op.dst.buffer.width]}
        own["filter"], own["floats"], own["params"] = (sum(map(len, lists[n])) for n in ("groups", "filters", "tables"))
        own["act"] = self._act(op, any(op.dst is m for m in self.outputs))
        own["most"], count = tiles(op, own["dst_pitch"], self.most[size])
        words, first_row, first_column = self._words(op)
        begin, start = (sum(map(len, lists[name])) for name in ("offsets", "values"))
        groups, costs = [], []
        for first in range(0, len(words), size):
            group = words[first : first + size]
            plane, y, x = np.nonzero((group != 0).any(axis=0))
            lists["offsets"].append(plane * own["src_plane"] + (y + first_row) * own["src_pitch"] + x + first_column)
            lists["values"].append(group[:, plane, y, x].T.ravel().view(np.float32))
            groups.append((begin, begin + len(plane), start))
            begin, start = begin + len(plane), start + group.shape[0] * len(plane)
            costs.append(size * (len(plane) + 8))  # 8: about what a filter costs that has no weights at all
        numbers, table = self._numbers(op, len(words))
        lists["groups"].append(groups)
        lists["filters"].append(numbers)
        lists["tables"].append(table.reshape(-1, kernels.TABLE))
        together = max(self.pack // size, 1)
        return pieces(count, np.reshape(costs, (-1, together)).sum(axis=1).tolist(), self.threads)

    def execute(self, program: np.ndarray, tables: tuple, image: np.ndarray) -> None:
        """Run a program over the maps, all threads side by side."""
        self.crew.run(self.maps, image, self.boxes, program, *tables)

    def _choose(self, choose: bool) -> None:
        """Of both ways to run a convolution keep the one that measures faster here."""
        image, sizes, self.layers = np.zeros(int(np.prod(self.shape)), np.float32), [op.size for op in self.ops], []
        able = [op.conv and len(self._words(op)[0]) % kernels.GROUP == 0 for op in self.ops]
        given = {n: [n if a else s for a, s in zip(able, sizes, strict=True)] for n in self.most}
        ways = {n: self._encode(asked) for n, asked in given.items()}
        self.execute(ways[1][0][:0], ways[1][1], image)  # compiles the kernels, or reads them from the cache on disk
        for i, op in enumerate(self.ops):
            if not op.conv:
                continue
            times_ms = dict.fromkeys(self.most, np.nan)
            if choose and able[i]:
                alone = {n: (np.repeat(p[i : i + 1], REPEATS), tables) for n, (p, tables) in ways.items()}
                times_ms = {n: self._time_ms(*way, image) for n, way in alone.items()}
                sizes[i] = min(times_ms, key=times_ms.get)
            row = {"name": op.name, "c1": op.conv.weight.shape[1], "c2": op.dst.channels}
            row |= {"kernel": op.conv.kernel_size[0], "stride": op.conv.stride[0], "side": op.dst.buffer.width}
            words = self._words(op)[0][: op.dst.channels]
            slots_ = len(words) * -(-row["c1"] // self.pack) * int(np.prod(op.conv.kernel_size))
            share = 1 - np.count_nonzero(words) / min(words.size, slots_)  # splitting for a stride of 2 adds zeros
            row |= {"sparsity": float(share), "path": self.paths[sizes[i]]}
            self.layers.append(row | {"nonzeros_ms": times_ms[1], "groups_ms": times_ms[kernels.GROUP]})
        self.program, self.tables = self._encode(sizes)
        self.memory_mb = sum(a.nbytes for a in (self.maps, self.program, *self.tables)) / 1e6

    def _time_ms(self, program: np.ndarray, tables: tuple, image: np.ndarray) -> float:
        """The best of some runs of a program, in milliseconds per operation."""
        times_ms = latency.block(lambda: self.execute(program, tables, image), 1 + ROUNDS)
        return min(times_ms[1:]) / len(program)

    def require_image(self, image) -> np.ndarray:
        """The pixels of an image, or SpecError for anything but one float32 tensor of the right shape."""
        right = isinstance(image, torch.Tensor) and tuple(image.shape) == self.shape and image.dtype == torch.float32
        got = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, torch.Tensor) else type(image).__name__
        require(right, "image", got, f"a float32 tensor of shape {self.shape}")
        return image.contiguous().numpy().reshape(-1)

    def results(self, many: bool):
        """What the network gives, copied: predictions, or one or several maps."""
        if self.numbers:
            return torch.from_numpy(self.boxes.copy())[None]
        maps = [self._view(m).clone(memory_format=torch.contiguous_format) for m in self.outputs]
        return maps if many else maps[0]

    def _view(self, m: Map) -> torch.Tensor:
        """A float32 map as a tensor that shares its memory."""
        at, length, pitch = self.layout.where(m)
        shape = (1, m.channels, m.buffer.height, m.buffer.width)
        return torch.from_numpy(self.maps).as_strided(shape, (m.channels * length, length, pitch, 1), at)


try:
    _core = ctypes.CDLL(None).sched_getcpu
except (AttributeError, OSError, TypeError):  # other systems do not say
    _core = int
