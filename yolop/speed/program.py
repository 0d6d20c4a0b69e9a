"""Programs of the engine: where maps lie in one array, and the tables of operations that the kernels read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from yolop.speed import kernels
from yolop.speed.tiles import LANES, SIGMOID, TABLE, TILES
from yolop.speed.tracing import Buffer, Map, Network, Op

ALIGNED = 16  # words of 32 bits in 64 bytes
SLACK = 512  # words behind the maps: whole registers are read and written
TABLES = {"work": ((0, 4), np.int64), "limits": (0, np.int64), "filters": ((0, 4), np.float32), "offsets": (0, np.int32)}
TABLES |= {"values": (0, np.float32), "tables": ((0, kernels.NUMBERS), np.float32), "pads": (0, np.int32), "masks": (0, np.uint16)}


def _aligned(words: int) -> int:
    return -(-words // ALIGNED) * ALIGNED


def _mask(b: Buffer) -> np.ndarray:
    """One bit per pixel of a plane, LANES to an entry: is it on the map, or between two rows?"""
    pixels = np.arange(-(-((b.height - 1) * b.pitch + b.width) // LANES) * LANES).reshape(-1, LANES)
    on = (pixels % b.pitch < b.width) & (pixels // b.pitch < b.height)
    return (on << np.arange(LANES)).sum(axis=1)


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
    if op.conv.stride[0] == 2:  # even and odd rows and columns apart
        image = op.src.buffer.channels == 4 * channels != 4 * padded  # of which the four parts of a colour lie in one word
        weight, y0, x0 = weight[:, :channels] if image else weight, -py // 2, -px // 2
        weight = np.pad(weight, ((0, 0), (0, 0), (py % 2, (rows + py) % 2), (px % 2, (columns + px) % 2)))
        filters, channels, rows, columns = weight.shape
        pairs = weight.reshape(filters, channels, rows // 2, 2, columns // 2, 2)
        pairs = pairs.transpose((0, 1, 3, 5, 2, 4) if image else (0, 3, 5, 1, 2, 4))
        weight = pairs.reshape(filters, 4 * channels, rows // 2, columns // 2)
    if pack > 1:
        blocks = weight.reshape(len(weight), -1, pack, *weight.shape[2:]).transpose(0, 1, 3, 4, 2)
        weight = np.ascontiguousarray(blocks).view(np.int32)[..., 0]
    return weight, y0, x0


class Layout:
    """Where every map of some operations lies in one array, no two that are needed at the same time on each other; and programs.

    `reach` zeros are around each plane, whose first pixel lies at a multiple of 64 bytes. A word of 32 bits, of which there are
    `words`, holds one float32 or the 8 bits of `pack` channels; the outputs are always float32.
    """

    def __init__(self, network: Network, ops: list[Op]):
        self.network, self.ops, self.pack = network, ops, network.pack  # the operations with those that decode
        self.reach, self.outputs = 1, {m.buffer for m in network.outputs}  # as far as any kernel looks beyond the edge
        for conv in (op.conv for op in ops if op.conv):
            for size, padding in zip(conv.weight.shape[2:], conv.padding, strict=True):
                self.reach = max(self.reach, -(-padding // conv.stride[0]), (size - 1 - padding) // conv.stride[0])
        for i, op in enumerate(ops):
            for b in (m.buffer for m in op.maps):
                b.born, b.dies = i if b.born < 0 else b.born, len(ops) if b in self.outputs else i
        placed, self.words = [], 0
        for b in (buffers := {m.buffer for op in ops for m in op.maps}):
            planes = -(-b.channels // self.pack) * (self.pack if b in self.outputs else 1)
            b.pitch = b.width + self.reach
            b.plane = _aligned((b.height + 2 * self.reach) * b.pitch + self.reach + LANES)
            b.words = planes * b.plane + 3 * ALIGNED  # with what lies before the first plane and behind the last one
        for b in sorted(buffers, key=lambda b: (-b.words, b.born)):
            b.start = 0
            for other in sorted(placed, key=lambda other: other.start):
                if other.born <= b.dies and b.born <= other.dies:
                    if b.start + b.words <= other.start:
                        break
                    b.start = max(b.start, other.start + other.words)
            placed.append(b)
            self.words = max(self.words, b.start + b.words)
        self.words += SLACK

    def where(self, m: Map) -> tuple[int, int, int]:
        """First pixel, length of a plane, length of a row."""
        b, first = m.buffer, m.channel if m.buffer in self.outputs else m.channel // self.pack
        return b.start + _aligned(self.reach * b.pitch + self.reach) + ALIGNED + first * b.plane, b.plane, b.pitch

    def memory(self) -> np.ndarray:
        """The array, its first word at a multiple of 64 bytes: float32, or int32 of four channels each."""
        raw = np.zeros(self.words + ALIGNED, np.float32 if self.pack == 1 else np.int32)
        first = -raw.ctypes.data // 4 % ALIGNED
        return raw[first : first + self.words]

    def encode(self, sizes: list[int], threads: int) -> tuple[np.ndarray, tuple]:
        """The program and its tables, with so many filters that share their inputs in each operation."""
        program, pack, heads, box = np.zeros(len(sizes), kernels.OPERATION), self.pack, 0, 0
        tables = {name: [np.zeros(*kind)] for name, kind in TABLES.items()}
        counts = dict.fromkeys(TABLES, 0)

        def put(name: str, rows) -> int:
            tables[name].append(rows)
            counts[name] += len(rows)
            return counts[name] - len(rows)

        for op, size, row in zip(self.ops, sizes, program, strict=True):
            own, planes = self._fields(op), -(-op.dst.channels // pack)
            if op.conv:
                work = self._convolution(op, size, own, put, threads)
            elif op.kind == kernels.DECODE:
                own |= {"channels": self.network.numbers, "filters": box, "table": heads}
                heads, box = heads + 3, box + 3 * own["height"] * own["width"]
                work = [(0, 0, anchor, anchor + 1) for anchor in range(3)]
            else:
                own["channels"] = -(-op.src.channels // pack) if op.src else self.network.shape[1]
                work = _pieces(1, [1] * planes, threads)
            zeros = np.zeros(4 * pack * planes, np.uint8)  # of floats: all zero
            if op.dst.buffer.zeros is not None:
                zeros[: op.dst.channels] = op.dst.buffer.zeros[op.dst.own]
            own |= {"pads": put("pads", zeros.view(np.int32)), "work": put("work", work), "pieces": len(work)}
            for name, value in own.items():
                row[name] = value
        arrays = [np.concatenate(rows).astype(TABLES[name][1]) for name, rows in tables.items()]
        return program, (*arrays, np.ascontiguousarray(self.network.anchors, np.float32))

    def _fields(self, op: Op) -> dict[str, int]:
        """The numbers of an operation that do not depend on its weights."""
        height, width = self.network.shape[2:]
        src = self.where(op.src) if op.src else (0, height * width, width)
        add = self.where(op.add) if op.add else (-1, 0, 0)
        numbers = dict(zip(kernels.PLACES, (*src, *self.where(op.dst), *add), strict=True))
        numbers |= {"kind": op.kind, "size": op.size, "outside": op.src is None, "pack": self.pack, "act": op.act}
        return numbers | {"height": op.dst.buffer.height, "width": op.dst.buffer.width}

    def _convolution(self, op: Op, size: int, own: dict, put: Callable[..., int], threads: int) -> list[tuple]:
        """Put a convolution into the tables and its numbers into `own`; returns its work."""
        if len(op.conv.table):
            own["act"] = TABLE
        elif self.network.numbers and self.network.ends(op):
            own["act"] = SIGMOID
        mask, numbers, limits = _mask(op.dst.buffer), op.conv.numbers(), []
        most = -(-len(mask) // -(-len(mask) // TILES[self.pack][size]))  # of tiles of about the same size
        weight, first_row, first_column = words(op, self.pack)
        for group in weight.reshape(-1, size, *weight.shape[1:]):
            plane, y, x = np.nonzero((group != 0).any(axis=0))
            offsets = plane * own["src_plane"] + (y + first_row) * own["src_pitch"] + x + first_column
            limits.append(put("offsets", offsets))
            own["values"] = put("values", group[:, plane, y, x].T.ravel().view(np.float32)) - size * limits[-1]
        limits.append(limits[-1] + len(offsets))
        own |= {"size": size, "together": max(self.pack, size), "most": most, "limits": put("limits", limits)}
        own["filters"] = put("filters", np.pad(numbers, ((0, len(weight) - len(numbers)), (0, 0))))
        own["table"] = put("tables", op.conv.table.reshape(-1, kernels.NUMBERS))
        own["mask"] = put("masks", mask)
        costs = size * (np.diff(limits) + 8)  # 8: about what a filter costs that has no weights at all
        return _pieces(-(-len(mask) // most), costs.reshape(-1, own["together"] // size).sum(axis=1), threads)
