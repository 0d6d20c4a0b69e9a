"""Programs of the engine: where maps lie in one array, and the tables of operations that the kernels read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolop.speed import kernels
from yolop.speed.tiles import LANES, SIGMOID, TABLE, TILES
from yolop.speed.tracing import Buffer, Map, Network, Op

ALIGNED = 16  # words of 32 bits in 64 bytes
SLACK = 512  # words behind the maps: whole registers are read and written


class Layout:
    """Where every map of some operations lies in one array, no two that are needed at the same time on each other.

    `reach` zeros are around each plane, whose first pixel lies at a multiple of 64 bytes. A word of 32 bits, of which there are
    `words`, holds one float32 or the 8 bits of `pack` channels; the outputs are always float32.
    """

    def __init__(self, ops: list[Op], outputs: list[Map], pack: int):
        self.reach, self.pack = 1, pack  # as far as any kernel looks beyond the edge
        for conv in (op.conv for op in ops if op.conv):
            for size, padding in zip(conv.weight.shape[2:], conv.padding, strict=True):
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
        return pitch, _aligned((buffer.height + 2 * self.reach) * pitch + self.reach + LANES)

    def length(self, buffer: Buffer) -> int:
        """Words of a buffer with what lies before its first plane and behind its last one."""
        return self.planes(buffer) * self.plane(buffer)[1] + 3 * ALIGNED

    def where(self, m: Map) -> tuple[int, int, int]:
        """First pixel, length of a plane, length of a row."""
        pitch, length = self.plane(m.buffer)
        first = m.channel if m.buffer in self.outputs else m.channel // self.pack
        return m.buffer.start + _aligned(self.reach * pitch + self.reach) + ALIGNED + first * length, length, pitch

    def memory(self) -> np.ndarray:
        """The array, its first word at a multiple of 64 bytes: float32, or int32 of four channels each."""
        raw = np.zeros(self.words + ALIGNED, np.float32 if self.pack == 1 else np.int32)
        first = -raw.ctypes.data // 4 % ALIGNED
        return raw[first : first + self.words]

    def masks(self, ops: list[Op]) -> tuple[np.ndarray, dict[tuple, int]]:
        """One bit per pixel, LANES to an entry: is it on the map, or between two rows? And where those of a size begin."""
        tables, begins, count = [np.zeros(0)], {}, 0
        for b in (op.dst.buffer for op in ops if op.conv):
            if (b.height, b.width) not in begins:
                pitch, begins[b.height, b.width] = self.plane(b)[0], count
                pixels = np.arange(_vectors(b, pitch) * LANES).reshape(-1, LANES)
                on = (pixels % pitch < b.width) & (pixels // pitch < b.height)
                tables.append((on << np.arange(LANES)).sum(axis=1))
                count += len(tables[-1])
        return np.concatenate(tables).astype(np.uint16), begins


def _aligned(words: int) -> int:
    return -(-words // ALIGNED) * ALIGNED


def _vectors(buffer: Buffer, pitch: int) -> int:
    return -(-((buffer.height - 1) * pitch + buffer.width) // LANES)


def _pieces(tiles: int, costs: list[int], threads: int) -> list[tuple[int, int, int, int]]:
    """Work of a convolution as (first and past-last tile, first and past-last group): twice as many pieces as threads, cut
    along its tiles where there are enough of them, else along its groups, which cost `costs`."""
    groups, share = len(costs), 2 * threads if threads > 1 else 1
    if tiles >= 4 * share:
        cuts = [tiles * i // share for i in range(share + 1)]
        return [(a, b, 0, groups) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    limits = np.cumsum([0, *costs])
    cuts = sorted({int(np.abs(limits - limits[-1] * i / share).argmin()) for i in range(share + 1)})
    return [(0, tiles, a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def words(op: Op, pack: int) -> tuple[np.ndarray, int, int]:
    """Words of the weights of a convolution as its source lies in memory, (filters, words of channels, rows, columns), the
    filters a multiple of `pack`, and the offsets of the first row and column."""
    weight, (py, px) = op.conv.weight, op.conv.padding
    filters, channels, rows, columns = weight.shape
    padded = channels + -channels % pack
    weight = np.pad(weight, ((0, -filters % pack), (0, padded - channels), (0, 0), (0, 0)))
    y0, x0 = -py, -px
    if op.conv.stride[0] == 2:
        ys, xs = (sorted({(i - p) // 2 for i in range(n)}) for n, p in ((rows, py), (columns, px)))
        image = op.src.buffer.channels == 4 * channels != 4 * padded  # of which the four parts of a colour lie in one word
        count, y0, x0 = channels if image else padded, ys[0], xs[0]
        parts = np.zeros((len(weight), op.src.buffer.channels, len(ys), len(xs)), weight.dtype)
        for y in range(rows):
            for x in range(columns):
                part = (y - py) % 2 * 2 + (x - px) % 2
                place = np.arange(count) * 4 + part if image else part * count + np.arange(count)
                parts[:, place, (y - py) // 2 - y0, (x - px) // 2 - x0] = weight[:, :count, y, x]
        weight = parts
    if pack > 1:
        blocks = weight.reshape(len(weight), -1, pack, *weight.shape[2:]).transpose(0, 1, 3, 4, 2)
        weight = np.ascontiguousarray(blocks).view(np.int32)[..., 0]
    return weight, y0, x0


@dataclass
class Encoder:
    """Makes programs of a network's operations, for so many threads."""

    network: Network
    ops: list[Op]  # with those that decode
    layout: Layout
    threads: int

    def encode(self, sizes: list[int]) -> tuple[np.ndarray, tuple]:
        """The program and its tables, with so many filters that share their inputs in each operation."""
        program, masks = np.zeros(len(sizes), kernels.OPERATION), self.layout.masks(self.ops)
        kinds = {"work": ((0, 4), np.int64), "groups": ((0, 3), np.int64), "filters": ((0, 4), np.float32)}
        kinds |= {"offsets": (0, np.int32), "values": (0, np.float32), "tables": ((0, kernels.NUMBERS), np.float32)}
        kinds |= {"pads": (0, np.int32)}
        lists, heads, box, pack = {name: [] for name in kinds}, 0, 0, self.layout.pack
        for op, size, row in zip(self.ops, sizes, program, strict=True):
            own = self._fields(op) | {name: sum(map(len, lists[name])) for name in ("work", "pads")}
            planes = -(-op.dst.channels // pack)
            if op.conv:
                own["mask"] = masks[1][op.dst.buffer.height, op.dst.buffer.width]
                work = self._convolution(op, size, own, lists)
            elif op.kind == kernels.DECODE:
                own |= {"channels": self.network.numbers, "filter": box, "params": heads}
                heads, box = heads + 3, box + 3 * own["height"] * own["width"]
                work = [(0, 0, anchor, anchor + 1) for anchor in range(3)]
            else:
                own["channels"] = -(-op.src.channels // pack) if op.src else self.network.shape[1]
                work = _pieces(1, [1] * planes, self.threads)
            zeros = np.zeros(4 * (planes if own["act"] == TABLE else pack * planes), np.uint8)  # of floats: all zero
            if pack > 1 and op.dst.buffer not in self.layout.outputs:
                zeros[: op.dst.channels] = op.dst.buffer.zeros[op.dst.channel : op.dst.channel + op.dst.channels]
            lists["pads"].append(zeros.view(np.int32))
            lists["work"].append(work)
            for name, value in (own | {"pieces": len(work)}).items():
                row[name] = value
        tables = [np.concatenate([np.zeros(*kinds[name]), *rows]).astype(kinds[name][1]) for name, rows in lists.items()]
        return program, (*tables, masks[0], np.ascontiguousarray(self.network.anchors, np.float32))

    def _fields(self, op: Op) -> dict[str, int]:
        """The numbers of an operation that do not depend on its weights."""
        height, width = (op.src.buffer.height, op.src.buffer.width) if op.src else self.network.shape[2:]
        src = self.layout.where(op.src) if op.src else (0, height * width, width)
        add = self.layout.where(op.add) if op.add else (-1, 0, 0)
        numbers = dict(zip(kernels.PLACES, (*src, *self.layout.where(op.dst), *add), strict=True))
        numbers |= {"kind": op.kind, "size": op.size, "outside": op.src is None, "pack": self.layout.pack, "act": op.act}
        numbers |= {"src_height": height, "src_width": width}
        return numbers | {"height": op.dst.buffer.height, "width": op.dst.buffer.width}

    def _convolution(self, op: Op, size: int, own: dict, lists: dict[str, list]) -> list[tuple]:
        """Put a convolution into the tables and its numbers into `own`; returns its work."""
        own |= {"size": size, "together": max(self.layout.pack, size)}
        own["filter"], own["floats"], own["params"] = (sum(map(len, lists[n])) for n in ("groups", "filters", "tables"))
        if len(op.conv.table):
            own["act"] = TABLE
        elif self.network.numbers and any(op.dst is m for m in self.network.outputs):
            own["act"] = SIGMOID
        vectors = _vectors(op.dst.buffer, own["dst_pitch"])
        own["most"] = -(-vectors // -(-vectors // TILES[self.layout.pack][size]))  # tiles of about the same size
        weight, first_row, first_column = words(op, self.layout.pack)
        begin, start = (sum(map(len, lists[name])) for name in ("offsets", "values"))
        groups, costs = [], []
        for first in range(0, len(weight), size):
            group = weight[first : first + size]
            plane, y, x = np.nonzero((group != 0).any(axis=0))
            lists["offsets"].append(plane * own["src_plane"] + (y + first_row) * own["src_pitch"] + x + first_column)
            lists["values"].append(group[:, plane, y, x].T.ravel().view(np.float32))
            groups.append((begin, begin + len(plane), start))
            begin, start = begin + len(plane), start + len(group) * len(plane)
            costs.append(size * (len(plane) + 8))  # 8: about what a filter costs that has no weights at all
        numbers = op.conv.numbers()
        lists["groups"].append(groups)
        lists["filters"].append(np.pad(numbers, ((0, len(weight) - len(numbers)), (0, 0))))
        lists["tables"].append(op.conv.table.reshape(-1, kernels.NUMBERS))
        costs = np.reshape(costs, (-1, own["together"] // size)).sum(axis=1).tolist()
        return _pieces(-(-vectors // own["most"]), costs, self.threads)
