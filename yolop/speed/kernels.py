"""Compiled kernels of the engine (`engine`): one program over feature maps, run by several threads.

All maps lie in one array of words of 32 bits: float32, or four 8-bit channels of a pixel. A map is a stack of planes; a plane has
zeros (in 8 bits the zero points) around its rows, and those after a row are those before the next one. So a weight at (dy, dx) is
one fixed offset from the output pixel, a row end needs no special case, and a tile is some registers of consecutive pixels.
What falls between the rows is replaced when it is stored. Numba compiles the kernels for each kind of word from the same source.

The work of an operation is cut into pieces that the threads take one by one, so that none has to wait for another that the
system has not woken yet, or that shares its core with another program.
"""

from __future__ import annotations

import os

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from yolop.speed.tiles import LANES, PACK, SEGMENTS, TABLE, row, tile

NUMBERS = 3 * SEGMENTS + 1  # of a table: constant, linear and square terms, a shortcut's factor
SPINS = 2000  # looks at a counter before a waiting thread offers its core to others, by the C library's function on Linux
_offer = types.ExternalFunction("sched_yield", types.int32()) if hasattr(os, "sched_getaffinity") else njit(lambda: 0)

CONV, MOVE, MAXPOOL, DECODE, TORCH = range(5)  # the last is none of the kernels'
# One operation. src, dst, add: where maps lie, first pixel, lengths of a plane and of a row (add_at -1: no shortcut); channels,
# height, width: of dst (CONV, MAXPOOL), of src and size of dst (MOVE), numbers of a box and size of src (DECODE); size: filters
# that share inputs (CONV), scale of MOVE, window of MAXPOOL, stride of DECODE; together: filters of a tile; limits, values,
# filters, table, mask, pads: firsts of the tables (values: less those of the offsets before; of DECODE filters: row of the boxes,
# table: anchor); work, pieces: first piece of work and how many; most: registers of a tile; act: what follows a convolution;
# outside: src is the image; pack: channels in a word.
PLACES = [f"{name}_{part}" for name in ("src", "dst", "add") for part in ("at", "plane", "pitch")]
OTHERS = "kind channels height width size together limits values filters table mask pads work pieces most act outside pack"
OPERATION = np.dtype([(name, np.int64) for name in (*PLACES, *OTHERS.split())])


@intrinsic
def _add_to(typingctx, address, n):
    """Add n to a counter that all threads see; returns what it was before."""

    def codegen(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _look(typingctx, address):
    """A counter that other threads add to."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), "acquire", 8)

    return types.int64(types.int64), codegen


@njit(nogil=True, cache=True)
def _take(counters, operation, pieces):
    """The next piece of an operation that no thread has taken, or -1 once all of its pieces are done."""
    taken = counters.ctypes.data + 64 * operation
    if _look(taken) < pieces:
        piece = _add_to(taken, 1)
        if piece < pieces:
            return piece
    spins = 0
    while _look(taken + 8) < pieces:
        spins += 1
        if spins > SPINS:
            _offer()
    return -1


@njit(nogil=True, cache=True)
def _surround(maps, pixel, op, pad, rows):
    """Fill what lies above and below the plane of dst whose first pixel is `pixel`, and behind its first `rows` rows."""
    q = op.dst_pitch - op.width
    first, end = pixel - q * op.dst_pitch - q, pixel + op.width
    maps[first:pixel] = pad
    maps[end + (op.height - 1) * op.dst_pitch : first + op.dst_plane] = pad
    for y in range(rows):
        for x in range(q):
            maps[end + y * op.dst_pitch + x] = pad


@njit(nogil=True, cache=True)
def _conv(maps, op, limits, filters, offsets, values, tables, masks, pads, piece):
    """One piece of a convolution: some of its tiles for some of its filters, so that the inputs of a tile stay in the cache.

    A group is `size` filters; its offsets are all that one of its filters needs. A tile is `together` filters.
    """
    begin_tile, end_tile, first, last = piece
    planes = 1 if op.act == TABLE else op.together  # of dst and of a shortcut
    vectors = -(-((op.height - 1) * op.dst_pitch + op.width) // LANES)
    off, val, table = offsets.ctypes.data, values.ctypes.data + 4 * op.values, tables.ctypes.data + 4 * NUMBERS * op.table
    for v in range(begin_tile * op.most, min(end_tile * op.most, vectors), op.most):
        case, t = 16 * op.size + min(op.most, vectors - v), v * LANES
        mask = masks.ctypes.data + 2 * (op.mask + v)
        for o in range(first, last):
            groups = limits.ctypes.data + 8 * (op.limits + o * op.together // op.size)
            own = filters.ctypes.data + 16 * (op.filters + o * op.together)
            dst = op.dst_at + o * planes * op.dst_plane + t
            add = op.add_at + o * planes * op.add_plane + t if op.add_at >= 0 else -1
            src, pad, plane, other = op.src_at + t, np.int64(pads[op.pads + o * planes]), op.dst_plane, op.add_plane
            tile(maps, case, off, val, groups, own, table, mask, src, dst, plane, add, other, op.act, pad)
    if begin_tile == 0:
        for o in range(first * planes, last * planes):
            _surround(maps, op.dst_at + o * op.dst_plane, op, pads[op.pads + o], 0)


@njit(nogil=True, cache=True)
def _move(maps, image, op, item):
    """A plane to another place: as it is (scale 1), each pixel twice as high and wide (2), or (-2) even and odd rows
    and columns apart, as a convolution of stride 2 reads them: first all planes' even-even, then even-odd ...

    Words of 8 bits hold the four pixels of a square of the image, one word for each colour.
    """
    source, case = (image.ctypes.data, op.size * op.pack) if op.outside else (maps.ctypes.data, op.size)
    down, right = item // op.channels // 2, item // op.channels % 2
    start = op.src_at + item % op.channels * op.src_plane + right
    for y in range(op.height):
        line = start + (2 * y + down if op.size == -2 else y // op.size) * op.src_pitch
        row(case, maps.ctypes.data, op.dst_at + item * op.dst_plane + y * op.dst_pitch, source, line, op.src_pitch, op.width)


@njit(nogil=True, cache=True)
def _maxpool(maps, op, plane, step):
    """Largest of a window, stride 1, along rows and then along columns, of pixels that are `step` numbers; what lies outside the
    map does not count."""
    height, width, reach = op.height, step * op.width, op.size // 2
    along = np.empty((height, width), maps.dtype)
    for y in range(height):
        begin = step * (op.src_at + plane * op.src_plane + y * op.src_pitch)
        along[y] = maps[begin : begin + width]
        for d in range(-step * reach, step * reach + 1, step):
            for x in range(max(-d, 0), width - max(d, 0)):
                along[y, x] = max(along[y, x], maps[begin + x + d])
    for y in range(height):
        begin = step * (op.dst_at + plane * op.dst_plane + y * op.dst_pitch)
        maps[begin : begin + width] = along[y]
        for other in range(max(y - reach, 0), min(y + reach, height - 1) + 1):
            for x in range(width):
                maps[begin + x] = max(maps[begin + x], along[other, x])


@njit(nogil=True, cache=True)
def _decode(maps, op, sides, anchor, boxes):
    """Predictions of one anchor of a map of Detect, after the sigmoid, as of `head.Detect.decode`."""
    two, half, stride = np.float32(2), np.float32(0.5), np.float32(op.size)
    first = op.src_at + anchor * op.channels * op.src_plane
    wide, high = sides[op.table + anchor, 0], sides[op.table + anchor, 1]
    for y in range(op.height):
        box = op.filters + (anchor * op.height + y) * op.width
        pixel = first + y * op.src_pitch
        for x in range(op.width):
            p = pixel + x
            boxes[box + x, 0] = (maps[p] * two - half + np.float32(x)) * stride
            boxes[box + x, 1] = (maps[p + op.src_plane] * two - half + np.float32(y)) * stride
            w, h = maps[p + 2 * op.src_plane] * two, maps[p + 3 * op.src_plane] * two
            boxes[box + x, 2] = w * w * wide
            boxes[box + x, 3] = h * h * high
        for i in range(4, op.channels):
            p = pixel + i * op.src_plane
            for x in range(op.width):
                boxes[box + x, i] = maps[p + x]


@njit(nogil=True, cache=True)
def execute(counters, maps, image, boxes, program, work, limits, filters, offsets, values, tables, pads, masks, sides):
    """One thread's part in a program: pieces of each operation until all of it is done, then the next operation."""
    floats, octets = maps.view(np.float32), maps.view(np.uint8)
    for i in range(len(program)):
        op = program[i]
        piece = _take(counters, i, op.pieces)
        while piece >= 0:
            what = work[op.work + piece]
            if op.kind == CONV:
                _conv(maps, op, limits, filters, offsets, values, tables, masks, pads, what)
            elif op.kind == DECODE:
                _decode(floats, op, sides, what[2], boxes)
            else:
                for item in range(what[2], what[3]):
                    if op.kind == MOVE:
                        _move(maps, image, op, item)
                    elif op.pack == PACK:
                        _maxpool(octets, op, item, PACK)
                    else:
                        _maxpool(floats, op, item, 1)
                    _surround(maps, op.dst_at + item * op.dst_plane, op, pads[op.pads + item], op.height - 1)
            _add_to(counters.ctypes.data + 64 * i + 8, 1)
            piece = _take(counters, i, op.pieces)
