"""Compiled kernels of the sparse engine (`engine`): one program over feature maps, run by several threads.

All maps lie in one array. A map is a stack of planes; a plane has zeros around its rows, and the zeros after a row are those
before the next one. So a weight at (dy, dx) is one fixed offset from the output pixel, a row end needs no special case, and
a tile is some registers of consecutive pixels. What falls between the rows is garbage and zeroed afterwards.

The inner loop is spelled out for LLVM (Numba's `intrinsic`): what its vectoriser makes of the plain loop keeps its sums
in memory instead of registers and takes more than twice as long. The same code runs on AVX-512, AVX2 and ARM.
"""

from __future__ import annotations

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
LANES = 16 if FEATURES.get("avx512f") else 8 if FEATURES.get("avx2") else 4  # float32 in one register
TILE = 8  # registers of outputs for one filter: with a weight and an input they fit into the 16 of AVX2
GROUP = 4  # filters that share their inputs where few weights are zero
GROUP_TILE = 4 if LANES == 16 else 2  # registers of outputs for each of them

CONV, MOVE, MAXPOOL = range(3)
# One operation. src, dst, add: where maps lie, first pixel, lengths of a plane and of a row (add_at -1: no shortcut); channels,
# height, width: of dst (CONV, MAXPOOL), or channels of src and size of dst (MOVE); size: filters in a group of CONV, scale of
# MOVE, window of MAXPOOL; filter: first of CONV; outside: src is the image; work: first limit of the threads' shares.
PLACES = [f"{name}_{part}" for name in ("src", "dst", "add") for part in ("at", "plane", "pitch")]
OTHERS = "kind src_height src_width channels height width size filter silu outside work"
OPERATION = np.dtype([(name, np.int64) for name in (*PLACES, *OTHERS.split())])

_i32, _i64, _f32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
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


def _silu(builder, x):
    """x / (1 + exp(-x)), exp as 2^n times a polynomial in the rest: within 1e-6 relative from -16 up, within 4e-6 below."""
    t = builder.fmul(x, _all(-1.4426950408889634))
    t = _call(builder, "minnum", _call(builder, "maxnum", t, _all(-126.0)), _all(126.0))
    n = _call(builder, "floor", builder.fadd(t, _all(0.5)))
    rest, e = builder.fsub(t, n), _all(1.5403530e-4)
    for c in _EXP2:
        e = _call(builder, "fma", e, rest, _all(c))
    bits = builder.add(builder.fptosi(n, _integers), ir.Constant(_integers, [127] * LANES))
    power = builder.bitcast(builder.shl(bits, ir.Constant(_integers, [23] * LANES)), _vector)
    return builder.fdiv(x, builder.fadd(builder.fmul(e, power), _all(1.0)))


def _outputs(builder, arguments, filters: int, registers: int) -> None:
    """Code for the outputs of `filters` filters with the same offsets on registers x LANES pixels in a row."""
    floats, offsets, values, begin, end, src, dst, dst_plane, add, add_plane, biases, silu = arguments
    cells = [(f, j) for f in range(filters) for j in range(registers)]

    def at(index, length, f: int, j: int):
        """Address of register j of filter f's plane."""
        place = builder.add(index, builder.mul(length, ir.Constant(_i64, f)))
        pixel = builder.gep(floats, [builder.add(place, ir.Constant(_i64, j * LANES))])
        return builder.bitcast(pixel, _vector.as_pointer())

    sums = {cell: cgutils.alloca_once(builder, _vector) for cell in cells}
    for f, j in cells:
        builder.store(_spread(builder, builder.load(builder.gep(biases, [ir.Constant(_i64, f)]))), sums[f, j])
    with cgutils.for_range_slice(builder, begin, end, ir.Constant(_i64, 1), _i64) as (n, _):
        pixel = builder.add(src, builder.sext(builder.load(builder.gep(offsets, [n])), _i64))
        inputs = [builder.load(at(pixel, dst_plane, 0, j), align=4) for j in range(registers)]
        for f in range(filters):
            place = builder.add(builder.mul(n, ir.Constant(_i64, filters)), ir.Constant(_i64, f))
            weight = _spread(builder, builder.load(builder.gep(values, [place])))
            for j in range(registers):
                builder.store(_call(builder, "fma", weight, inputs[j], builder.load(sums[f, j])), sums[f, j])
    with builder.if_then(builder.icmp_signed("!=", silu, ir.Constant(_i64, 0))):
        for cell in cells:
            builder.store(_silu(builder, builder.load(sums[cell])), sums[cell])
    with builder.if_then(builder.icmp_signed(">=", add, ir.Constant(_i64, 0))):
        for f, j in cells:
            shortcut = builder.load(at(add, add_plane, f, j), align=4)
            builder.store(builder.fadd(builder.load(sums[f, j]), shortcut), sums[f, j])
    for f, j in cells:
        builder.store(builder.load(sums[f, j]), at(dst, dst_plane, f, j), align=4)


@intrinsic
def _tile(
    typingctx, size, registers, maps, offsets, values, begin, end, src, dst, dst_plane, add, add_plane, biases, silu
):
    """Outputs of `size` filters (1 or GROUP) with the same offsets on registers x LANES pixels in a row.

    Addresses of maps, offsets, values (of each offset `size`) and biases; first and past-last offset; indices of the first
    pixel of inputs, outputs and shortcut (or -1); lengths of planes; whether SiLU follows.
    """

    def codegen(context, builder, signature, arguments):
        size, registers, maps, offsets, values, *rest, biases, silu = arguments
        pointers = [builder.inttoptr(a, t.as_pointer()) for a, t in ((maps, _f32), (offsets, _i32), (values, _f32))]
        rest = [*pointers, *rest, builder.inttoptr(biases, _f32.as_pointer()), silu]
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

    return types.void(*[types.int64] * 14), codegen


@intrinsic
def _add_to(typingctx, address, n):
    """Add n to a counter that all threads see; returns what it was before."""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", builder.inttoptr(arguments[0], _i64.as_pointer()), arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@njit(nogil=True, cache=True)
def _clean(maps, pixel, op):
    """Zero what surrounds the pixels of the plane of dst whose first one is `pixel`."""
    q, row = op.dst_pitch - op.width, pixel + op.width
    first = pixel - q * op.dst_pitch - q
    maps[first:pixel] = 0
    for _ in range(op.height - 1):
        maps[row : row + q] = 0
        row += op.dst_pitch
    maps[row : first + op.dst_plane] = 0


@njit(nogil=True, cache=True)
def _conv(maps, op, filters, offsets, values, biases, first, last):
    """Groups first..last of one convolution, tile by tile, so that the inputs of a tile stay in the cache for all.

    A group is `size` filters; its offsets are all that one of its filters needs.
    """
    address, off, val, size = maps.ctypes.data, offsets.ctypes.data, values.ctypes.data, op.size
    most = GROUP_TILE if size == GROUP else TILE
    vectors = -(-((op.height - 1) * op.dst_pitch + op.width) // LANES)
    registers = -(-vectors // -(-vectors // most))
    for v in range(0, vectors, registers):
        n, t = min(registers, vectors - v), v * LANES
        for o in range(first, last):
            begin, end, value, bias = filters[op.filter + o]
            w, b = val + 4 * (value - begin * size), biases.ctypes.data + 4 * bias
            dst = op.dst_at + o * size * op.dst_plane + t
            add = op.add_at + o * size * op.add_plane + t if op.add_at >= 0 else -1
            _tile(size, n, address, off, w, begin, end, op.src_at + t, dst, op.dst_plane, add, op.add_plane, b, op.silu)
    for o in range(first * size, last * size):
        _clean(maps, op.dst_at + o * op.dst_plane, op)


@njit(nogil=True, cache=True)
def _move(maps, source, op, first, last):
    """Channels to another place: as they are (scale 1), each pixel twice as high and wide (2), or (-2) even and odd rows
    and columns apart, as a convolution of stride 2 reads them: first all channels' even-even, then even-odd ..."""
    for item in range(first, last):
        down, right = item // op.channels // 2, item // op.channels % 2
        for y in range(op.height):
            row = op.dst_at + item * op.dst_plane + y * op.dst_pitch
            line = 2 * y + down if op.size == -2 else y // op.size
            start = op.src_at + item % op.channels * op.src_plane + line * op.src_pitch + right
            if op.size == 1:
                for x in range(op.width):
                    maps[row + x] = source[start + x]
            elif op.size == 2:
                for x in range(op.width // 2):
                    maps[row + 2 * x] = source[start + x]
                    maps[row + 2 * x + 1] = source[start + x]
            else:
                n = (op.src_width - right + 1) // 2 if line < op.src_height else 0
                for x in range(n):
                    maps[row + x] = source[start + 2 * x]
                maps[row + n : row + op.width] = 0
        _clean(maps, op.dst_at + item * op.dst_plane, op)


@njit(nogil=True, cache=True)
def _maxpool(maps, op, first, last):
    """Largest of a window, stride 1, along rows and then along columns; what lies outside the map does not count."""
    height, width, reach = op.height, op.width, op.size // 2
    along = np.empty((height, width), np.float32)
    for c in range(first, last):
        for y in range(height):
            row = op.src_at + c * op.src_plane + y * op.src_pitch
            along[y] = maps[row : row + width]
            for d in range(-reach, reach + 1):
                for x in range(max(-d, 0), width - max(d, 0)):
                    along[y, x] = max(along[y, x], maps[row + x + d])
        for y in range(height):
            row = op.dst_at + c * op.dst_plane + y * op.dst_pitch
            maps[row : row + width] = along[y]
            for other in range(max(y - reach, 0), min(y + reach, height - 1) + 1):
                for x in range(width):
                    maps[row + x] = max(maps[row + x], along[other, x])
        _clean(maps, op.dst_at + c * op.dst_plane, op)


@njit(nogil=True, cache=True)
def execute(thread, threads, maps, image, program, work, filters, offsets, values, biases, counter, goal):
    """One thread's share of every operation of a program; after each, all threads wait for the slowest."""
    for op in program:
        first, last = work[op.work + thread], work[op.work + thread + 1]
        if op.kind == CONV:
            _conv(maps, op, filters, offsets, values, biases, first, last)
        elif op.kind == MOVE:
            _move(maps, image if op.outside else maps, op, first, last)
        else:
            _maxpool(maps, op, first, last)
        if threads > 1:
            _add_to(counter.ctypes.data, 1)
            goal += threads
            while _add_to(counter.ctypes.data, 0) < goal:
                pass
