"""Compiled kernels of the sparse engine (`engine`): one program over feature maps, run by several threads.

All maps lie in one array. A map is a stack of planes; a plane has zeros around its rows, and the zeros after a row are those
before the next one. So a weight at (dy, dx) is one fixed offset from the output pixel, a row end needs no special case, and
a tile is some registers of consecutive pixels. What falls between the rows is replaced by zeros when it is stored.

The work of an operation is cut into pieces that the threads take one by one, so that none has to wait for another that the
system has not woken yet, or that shares its core with another program.

The inner loop is spelled out for LLVM (Numba's `intrinsic`): what its vectoriser makes of the plain loop keeps its sums
in memory instead of registers and takes more than twice as long. The same code runs on AVX-512, AVX2 and ARM.
"""

from __future__ import annotations

import os

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

try:
    FEATURES = llvm.get_host_cpu_features()
except RuntimeError:  # some systems do not say
    FEATURES = {}
YIELDS = hasattr(os, "sched_getaffinity")  # Linux
LANES = 16 if FEATURES.get("avx512f") else 8 if FEATURES.get("avx2") else 4  # float32 in one register
TILE = 8  # registers of outputs for one filter: with a weight and an input they fit into the 16 of AVX2
GROUP = 4  # filters that share their inputs where few weights are zero
GROUP_TILE = 4 if LANES == 16 else 2  # registers of outputs for each of them

TABLE = 97  # numbers of an operation's table in 8 bits: constant, linear and square terms of 32 segments, a shortcut's factor
SPINS = 2000  # looks at a counter before a waiting thread offers its core to others

CONV, MOVE, MAXPOOL, DECODE = range(4)
RAW_SILU, RAW_SIGMOID = 1, 2  # activations
# One operation. src, dst, add: where maps lie, first pixel, lengths of a plane and of a row (add_at -1: no shortcut); channels,
# height, width: of dst (CONV, MAXPOOL), of src and size of dst (MOVE), numbers of a box and size of src (DECODE); size: filters
# in a group of CONV, scale of MOVE, window of MAXPOOL, stride of DECODE; filter: first of CONV, first row of DECODE; work, pieces:
# first piece of work and how many; mask: first of dst's masks; most: registers of a tile; act: what follows a convolution;
# outside: src is the image; floats, params, consts, pads: of 8 bits (`kernels8`).
PLACES = [f"{name}_{part}" for name in ("src", "dst", "add") for part in ("at", "plane", "pitch")]
OTHERS = "kind src_height src_width channels height width size filter act outside work pieces mask most floats params consts pads"
OPERATION = np.dtype([(name, np.int64) for name in (*PLACES, *OTHERS.split())])

_i32, _i64, _f32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_i16, _bits = ir.IntType(16), ir.IntType(LANES)
_vector, _integers = ir.VectorType(_f32, LANES), ir.VectorType(_i32, LANES)
_EXP2 = (1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 0.24022651, 0.69314718, 1)  # Taylor coefficients of 2^x


def _all(value: float) -> ir.Constant:
    return ir.Constant(_vector, [value] * LANES)


def _spread(builder, scalar):
    """A scalar in every lane."""
    nothing = ir.Constant(_vector, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(_i32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_integers, [0] * LANES))


def _call(builder, name: str, *arguments):
    """One of LLVM's own functions on vectors."""
    kind = ir.FunctionType(_vector, [_vector] * len(arguments))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), arguments)


def _one_plus_exp(builder, x):
    """1 + exp(-x), exp as 2^n times a polynomial in the rest; x over it is SiLU within 1e-6 relative from -16 up, 4e-6 below."""
    t = builder.fmul(x, _all(-1.4426950408889634))
    t = _call(builder, "minnum", _call(builder, "maxnum", t, _all(-126.0)), _all(126.0))
    n = _call(builder, "floor", builder.fadd(t, _all(0.5)))
    rest, e = builder.fsub(t, n), _all(1.5403530e-4)
    for c in _EXP2:
        e = _call(builder, "fma", e, rest, _all(c))
    bits = builder.add(builder.fptosi(n, _integers), ir.Constant(_integers, [127] * LANES))
    power = builder.bitcast(builder.shl(bits, ir.Constant(_integers, [23] * LANES)), _vector)
    return builder.fadd(builder.fmul(e, power), _all(1.0))


def _inside(builder, masks, j: int):
    """Which lanes of register j of a tile lie on the map, from one bit a pixel."""
    word = builder.load(builder.gep(masks, [ir.Constant(_i64, j)]))
    lanes = word if LANES == 16 else builder.trunc(word, _bits)
    return builder.bitcast(lanes, ir.VectorType(ir.IntType(1), LANES))


def _outputs(builder, arguments, filters: int, registers: int) -> None:
    """Code for the outputs of `filters` filters with the same offsets on registers x LANES pixels in a row."""
    floats, offsets, values, begin, end, src, dst, dst_plane, add, add_plane, biases, act, masks = arguments
    cells = [(f, j) for f in range(filters) for j in range(registers)]

    def at(index, length, f: int, j: int):
        """Address of register j of filter f's plane."""
        place = builder.add(index, builder.mul(length, ir.Constant(_i64, f)))
        pixel = builder.gep(floats, [builder.add(place, ir.Constant(_i64, j * LANES))])
        return builder.bitcast(pixel, _vector.as_pointer())

    sums = {cell: cgutils.alloca_once(builder, _vector) for cell in cells}
    for f, j in cells:
        builder.store(_spread(builder, builder.load(builder.gep(biases, [ir.Constant(_i64, 4 * f)]))), sums[f, j])
    with cgutils.for_range_slice(builder, begin, end, ir.Constant(_i64, 1), _i64) as (n, _):
        pixel = builder.add(src, builder.sext(builder.load(builder.gep(offsets, [n])), _i64))
        inputs = [builder.load(at(pixel, dst_plane, 0, j), align=4) for j in range(registers)]
        for f in range(filters):
            place = builder.add(builder.mul(n, ir.Constant(_i64, filters)), ir.Constant(_i64, f))
            weight = _spread(builder, builder.load(builder.gep(values, [place])))
            for j in range(registers):
                builder.store(_call(builder, "fma", weight, inputs[j], builder.load(sums[f, j])), sums[f, j])
    for which in (RAW_SILU, RAW_SIGMOID):
        with builder.if_then(builder.icmp_signed("==", act, ir.Constant(_i64, which))):
            for cell in cells:
                x = builder.load(sums[cell])
                above = x if which == RAW_SILU else _all(1.0)
                builder.store(builder.fdiv(above, _one_plus_exp(builder, x)), sums[cell])
    with builder.if_then(builder.icmp_signed(">=", add, ir.Constant(_i64, 0))):
        for f, j in cells:
            shortcut = builder.load(at(add, add_plane, f, j), align=4)
            builder.store(builder.fadd(builder.load(sums[f, j]), shortcut), sums[f, j])
    for j in range(registers):
        inside = _inside(builder, masks, j)
        for f in range(filters):
            kept = builder.select(inside, builder.load(sums[f, j]), _all(0.0))
            builder.store(kept, at(dst, dst_plane, f, j), align=4)


@intrinsic
def _tile(
    typingctx,
    size,
    registers,
    maps,
    offsets,
    values,
    begin,
    end,
    src,
    dst,
    dst_plane,
    add,
    add_plane,
    biases,
    act,
    masks,
):
    """Outputs of `size` filters (1 or GROUP) with the same offsets on registers x LANES pixels in a row.

    Addresses of maps, offsets, values (of each offset `size`) and biases; first and past-last offset; indices of the first
    pixel of inputs, outputs and shortcut (or -1); lengths of planes; the activation; address of the masks.
    """

    def codegen(context, builder, signature, arguments):
        size, registers, maps, offsets, values, *rest, biases, act, masks = arguments
        pointers = [builder.inttoptr(a, t.as_pointer()) for a, t in ((maps, _f32), (offsets, _i32), (values, _f32))]
        rest = [*pointers, *rest, builder.inttoptr(biases, _f32.as_pointer()), act]
        rest.append(builder.inttoptr(masks, _i16.as_pointer()))
        done = builder.append_basic_block("done")
        case = builder.switch(builder.add(builder.mul(size, ir.Constant(_i64, 16)), registers), done)
        for filters, most in ((1, TILE), (GROUP, GROUP_TILE)):
            for n in range(1, most + 1):
                block = builder.append_basic_block(f"tile{filters}x{n}")
                case.add_case(ir.Constant(_i64, 16 * filters + n), block)
                builder.position_at_end(block)
                _outputs(builder, rest, filters, n)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 15), codegen


@intrinsic
def _add_to(typingctx, address, n):
    """Add n to a counter that all threads see; returns what it was before."""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", builder.inttoptr(arguments[0], _i64.as_pointer()), arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _look(typingctx, address):
    """A counter that other threads add to."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], _i64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def _offer(typingctx):
    """Let another thread have this core: the C library's sched_yield, where there is one."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(_i32, [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen if YIELDS else lambda context, *_: context.get_dummy_value()


@njit(nogil=True, cache=True)
def take(counters, operation, pieces):
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
def finish(counters, operation, pieces):
    """Say that a piece is done, and take the next one."""
    _add_to(counters.ctypes.data + 64 * operation + 8, 1)
    return take(counters, operation, pieces)


def _span(builder, base, index, kind=_vector):
    """Address of LANES words from an index on."""
    return builder.bitcast(builder.gep(builder.inttoptr(base, _f32.as_pointer()), [index]), kind.as_pointer())


@intrinsic
def _row(typingctx, scale, maps, dst, source, src, n):
    """n words of a row, as they are (scale 1), each twice (2), or every second one (-2); LANES words at a time, so some more."""

    def codegen(context, builder, signature, arguments):
        scale, maps, dst, source, src, n = arguments
        done = builder.append_basic_block("done")
        case = builder.switch(scale, done)
        lanes = range(LANES)
        for which in (1, 2, -2):
            block = builder.append_basic_block("row")
            case.add_case(ir.Constant(_i64, which), block)
            builder.position_at_end(block)
            with cgutils.for_range_slice(builder, ir.Constant(_i64, 0), n, ir.Constant(_i64, LANES), _i64) as (x, _):
                start = {1: x, 2: builder.lshr(x, ir.Constant(_i64, 1)), -2: builder.shl(x, ir.Constant(_i64, 1))}[
                    which
                ]
                first = builder.add(src, start)
                words = builder.load(_span(builder, source, first), align=4)
                if which == 2:
                    order = ir.Constant(_integers, [i // 2 for i in lanes])
                    words = builder.shuffle_vector(words, words, order)
                elif which == -2:
                    more = builder.load(_span(builder, source, builder.add(first, ir.Constant(_i64, LANES))), align=4)
                    words = builder.shuffle_vector(words, more, ir.Constant(_integers, [2 * i for i in lanes]))
                builder.store(words, _span(builder, maps, builder.add(dst, x)), align=4)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@njit(nogil=True, cache=True)
def around(maps, pixel, op, pad):
    """Fill what lies above and below the plane of dst whose first pixel is `pixel`."""
    q = op.dst_pitch - op.width
    first = pixel - q * op.dst_pitch - q
    maps[first:pixel] = pad
    maps[pixel + (op.height - 1) * op.dst_pitch + op.width : first + op.dst_plane] = pad


@njit(nogil=True, cache=True)
def clean(maps, pixel, op, pad):
    """Fill what surrounds the pixels of the plane of dst whose first one is `pixel`."""
    q, row = op.dst_pitch - op.width, pixel + op.width
    around(maps, pixel, op, pad)
    for _ in range(op.height - 1):
        for x in range(row, row + q):
            maps[x] = pad
        row += op.dst_pitch


@njit(nogil=True, cache=True)
def _conv(maps, op, groups, filters, offsets, values, masks, piece):
    """One piece of a convolution: some of its tiles for some of its groups, so that the inputs of a tile stay in the cache.

    A group is `size` filters; its offsets are all that one of its filters needs.
    """
    address, off, val, size, registers = maps.ctypes.data, offsets.ctypes.data, values.ctypes.data, op.size, op.most
    begin_tile, end_tile, first, last = piece
    vectors = -(-((op.height - 1) * op.dst_pitch + op.width) // LANES)
    for v in range(begin_tile * registers, min(end_tile * registers, vectors), registers):
        n, t = min(registers, vectors - v), v * LANES
        mask = masks.ctypes.data + 2 * (op.mask + v)
        for o in range(first, last):
            begin, end, value = groups[op.filter + o]
            w, b = val + 4 * (value - begin * size), filters.ctypes.data + 16 * (op.floats + o * size) + 8
            dst = op.dst_at + o * size * op.dst_plane + t
            add = op.add_at + o * size * op.add_plane + t if op.add_at >= 0 else -1
            src, plane, other = op.src_at + t, op.dst_plane, op.add_plane
            _tile(size, n, address, off, w, begin, end, src, dst, plane, add, other, b, op.act, mask)
    if begin_tile == 0:
        for o in range(first * size, last * size):
            around(maps, op.dst_at + o * op.dst_plane, op, np.float32(0))


@njit(nogil=True, cache=True)
def move(maps, source, op, item, pad):
    """A plane to another place: as it is (scale 1), each pixel twice as high and wide (2), or (-2) even and odd rows
    and columns apart, as a convolution of stride 2 reads them: first all planes' even-even, then even-odd ..."""
    address, other = maps.ctypes.data, source.ctypes.data
    down, right = item // op.channels // 2, item // op.channels % 2
    pixel = op.dst_at + item * op.dst_plane
    for y in range(op.height):
        line = 2 * y + down if op.size == -2 else y // op.size
        start = op.src_at + item % op.channels * op.src_plane + line * op.src_pitch + right
        _row(op.size, address, pixel + y * op.dst_pitch, other, start, op.width)
    clean(maps, pixel, op, pad)


@njit(nogil=True, cache=True)
def maxpool(maps, op, plane, step):
    """Largest of a window, stride 1, along rows and then along columns, of pixels that are `step` numbers; what lies outside the
    map does not count."""
    height, width, reach = op.height, step * op.width, op.size // 2
    along = np.empty((height, width), maps.dtype)
    for y in range(height):
        row = step * (op.src_at + plane * op.src_plane + y * op.src_pitch)
        along[y] = maps[row : row + width]
        for d in range(-step * reach, step * reach + 1, step):
            for x in range(max(-d, 0), width - max(d, 0)):
                along[y, x] = max(along[y, x], maps[row + x + d])
    for y in range(height):
        row = step * (op.dst_at + plane * op.dst_plane + y * op.dst_pitch)
        maps[row : row + width] = along[y]
        for other in range(max(y - reach, 0), min(y + reach, height - 1) + 1):
            for x in range(width):
                maps[row + x] = max(maps[row + x], along[other, x])


@njit(nogil=True, cache=True)
def decode(maps, op, sides, anchor, boxes):
    """Predictions of one anchor of a map of Detect, after the sigmoid, as of `head.Detect.decode`."""
    two, half, stride = np.float32(2), np.float32(0.5), np.float32(op.size)
    first = op.src_at + anchor * op.channels * op.src_plane
    wide, high = sides[op.params + anchor, 0], sides[op.params + anchor, 1]
    for y in range(op.height):
        box = op.filter + (anchor * op.height + y) * op.width
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
def execute(counters, maps, image, boxes, program, work, groups, filters, offsets, values, tables, pads, masks, sides):
    """One thread's part in a program: pieces of each operation until all of it is done, then the next operation."""
    for i in range(len(program)):
        op = program[i]
        piece = take(counters, i, op.pieces)
        while piece >= 0:
            what = work[op.work + piece]
            if op.kind == CONV:
                _conv(maps, op, groups, filters, offsets, values, masks, what)
            elif op.kind == DECODE:
                decode(maps, op, sides, what[2], boxes)
            else:
                for item in range(what[2], what[3]):
                    if op.kind == MOVE:
                        move(maps, image if op.outside else maps, op, item, np.float32(0))
                    else:
                        maxpool(maps, op, item, 1)
                        clean(maps, op.dst_at + item * op.dst_plane, op, np.float32(0))
            piece = finish(counters, i, op.pieces)
