"""Compiled kernels of the engine in 8 bits: words of four channels, AVX-512 VNNI by LLVM, SiLU by table.

Beside what `kernels` says of maps: a word of 32 bits holds four channels of a pixel, unsigned, and one instruction multiplies
it by four signed weights and adds the products to a sum of 32 bits. So what can be left out is a block of four weights that are
all zero. What lies around a map is its zero point.

The arithmetic is exact to the bit: sums are integers, then come one fused multiply-add to the real value, the table's
parabola in two more, one for a shortcut, and truncation to 8 bits; `tests/test_engine8.py` has the same in plain NumPy.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from yolop.speed import kernels
from yolop.speed.kernels import _all, _call, _f32, _i32, _i64, _inside, _integers, _span, _spread, _vector

VNNI = bool(kernels.FEATURES.get("avx512vnni") and kernels.FEATURES.get("avx512bw"))
PACK = 4  # channels in a word
TILES = {1: 8, 4: 6}  # filters that share their inputs -> most registers of outputs for each
BY_TABLE, RAW, SIGMOID = range(
    3
)  # what follows a convolution: 8 bits by table, float32 as it is, float32 after a sigmoid
SEGMENTS = 32  # of a table: parabolas around the multiples of 1/2 from -8 to 7.5
HALVES = 6291456.0  # 1.5 * 2^22: added to a float32, it leaves the nearest multiple of 1/2 in its last bits

_i8 = ir.IntType(8)
_bytes, _shorts = ir.VectorType(_i8, 64), ir.VectorType(ir.IntType(16), 32)


def _whole(value: int) -> ir.Constant:
    return ir.Constant(_integers, [value] * 16)


def _k(value: int) -> ir.Constant:
    return ir.Constant(_i64, value)


def _x86(builder, name: str, kind, *arguments):
    """One of the processor's own instructions."""
    signature = ir.FunctionType(kind, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.avx512.{name}"), arguments)


def _packed(builder, four):
    """Four times 16 int32 as 16 words of 4 bytes, each limited to 0..255."""
    low = _x86(builder, "packssdw.512", _shorts, four[0], four[1])
    high = _x86(builder, "packssdw.512", _shorts, four[2], four[3])
    together = _x86(builder, "packuswb.512", _bytes, low, high)
    order = [16 * lane + i + 4 * j for lane in range(4) for i in range(4) for j in range(4)]
    order = ir.Constant(ir.VectorType(_i32, 64), order)
    return builder.bitcast(builder.shuffle_vector(together, ir.Constant(_bytes, ir.Undefined), order), _integers)


def _sums(builder, a: dict, filters: int, registers: int, groups: int) -> dict:
    """Real values of the outputs: (filter, register) -> where they are."""
    reals = {(f, j): cgutils.alloca_once(builder, _vector) for f in range(PACK) for j in range(registers)}
    cells = [(f, j) for f in range(filters) for j in range(registers)]
    sums = {cell: cgutils.alloca_once(builder, _integers) for cell in cells}
    for group in range(groups):
        begin, end, start = (builder.load(builder.gep(a["groups"], [_k(3 * group + i)])) for i in range(3))
        own = [
            [builder.gep(a["filters"], [_k(4 * (group * filters + f) + i)]) for i in range(3)] for f in range(filters)
        ]
        for f, j in cells:
            builder.store(builder.bitcast(_spread(builder, builder.load(own[f][0])), _integers), sums[f, j])
        with cgutils.for_range_slice(builder, begin, end, _k(1), _i64) as (n, _):
            pixel = builder.add(a["src"], builder.sext(builder.load(builder.gep(a["offsets"], [n])), _i64))
            places = [_span(builder, a["maps"], builder.add(pixel, _k(16 * j)), _bytes) for j in range(registers)]
            inputs = [builder.load(place, align=4) for place in places]
            first = builder.add(start, builder.mul(builder.sub(n, begin), _k(filters)))
            for f in range(filters):
                weight = _spread(builder, builder.load(builder.gep(a["values"], [builder.add(first, _k(f))])))
                for j in range(registers):
                    arguments = builder.load(sums[f, j]), inputs[j], builder.bitcast(weight, _bytes)
                    builder.store(_x86(builder, "vpdpbusd.512", _integers, *arguments), sums[f, j])
        for f, j in cells:
            scale, bias = (_spread(builder, builder.load(own[f][i])) for i in (1, 2))
            real = _call(builder, "fma", builder.sitofp(builder.load(sums[f, j]), _vector), scale, bias)
            builder.store(real, reals[group * filters + f, j])
    return reals


def _by_table(builder, a: dict, x):
    """A real value after the activation, in the scale of the output, 1/2 above its zero point."""
    limited = _call(builder, "minnum", _call(builder, "maxnum", x, _all(-8.0)), _all(7.5))
    index = builder.bitcast(builder.fadd(limited, _all(HALVES)), _integers)
    terms = []
    for term in range(3):
        halves = [_span(builder, a["table"], _k(SEGMENTS * term + 16 * half)) for half in (0, 1)]
        low, high = (builder.load(half, align=4) for half in halves)
        terms.append(_x86(builder, "vpermi2var.ps.512", _vector, low, index, high))
    return _call(builder, "fma", _call(builder, "fma", terms[2], x, terms[1]), x, terms[0])


def _store_bytes(builder, a: dict, reals: dict, registers: int) -> None:
    """The four filters of a word: activation, shortcut, 8 bits, and the zero point between the rows."""
    factor = _spread(builder, builder.load(builder.gep(a["tables"], [_k(3 * SEGMENTS)])))
    for place in reals.values():
        builder.store(_by_table(builder, a, builder.load(place)), place)
    with builder.if_then(builder.icmp_signed(">=", a["add"], _k(0))):
        for (f, j), place in reals.items():
            word = builder.load(_span(builder, a["maps"], builder.add(a["add"], _k(16 * j)), _integers), align=4)
            byte = builder.and_(builder.lshr(word, _whole(8 * f)), _whole(255))
            real = _call(builder, "fma", builder.sitofp(byte, _vector), factor, builder.load(place))
            builder.store(real, place)
    pad = builder.bitcast(_spread(builder, builder.bitcast(builder.trunc(a["pad"], _i32), _f32)), _integers)
    for j in range(registers):
        words = _packed(builder, [builder.fptosi(builder.load(reals[f, j]), _integers) for f in range(PACK)])
        words = builder.select(_inside(builder, a["masks"], j), words, pad)
        builder.store(words, _span(builder, a["maps"], builder.add(a["dst"], _k(16 * j)), _integers), align=4)


def _store_floats(builder, a: dict, reals: dict) -> None:
    """Four planes of float32, after a sigmoid where Detect wants one; what lies between their rows is never read."""
    with builder.if_then(builder.icmp_signed("==", a["act"], _k(SIGMOID))):
        for place in reals.values():
            builder.store(builder.fdiv(_all(1.0), kernels._one_plus_exp(builder, builder.load(place))), place)
    for (f, j), place in reals.items():
        where = builder.add(builder.add(a["dst"], builder.mul(a["dst_plane"], _k(f))), _k(16 * j))
        builder.store(builder.load(place), _span(builder, a["maps"], where), align=4)


NAMES = "maps offsets values groups filters table masks src dst dst_plane add act pad".split()
POINTERS = {"offsets": _i32, "values": _f32, "groups": _i64, "filters": _f32, "masks": ir.IntType(16)}


@intrinsic
def _tile(typingctx, case, maps, offsets, values, groups, filters, table, masks, src, dst, dst_plane, add, act, pad):
    """Four filters on some registers of pixels in a row; case: 16 x filters that share their inputs + registers.

    Addresses of maps, offsets, values, the groups' limits, the filters' numbers, the table and the masks; indices of the first
    pixel of inputs, outputs and shortcut (or -1); length of a plane of float32; what follows; the zero point as a word.
    """

    def codegen(context, builder, signature, arguments):
        case, *rest = arguments
        a = dict(zip(NAMES, rest, strict=True))
        for name, kind in POINTERS.items():
            a[name] = builder.inttoptr(a[name], kind.as_pointer())
        a["tables"] = builder.inttoptr(a["table"], _f32.as_pointer())
        done = builder.append_basic_block("done")
        choice = builder.switch(case, done)
        for shared, most in TILES.items():
            for registers in range(1, most + 1):
                block = builder.append_basic_block(f"tile{shared}x{registers}")
                choice.add_case(_k(16 * shared + registers), block)
                builder.position_at_end(block)
                reals = _sums(builder, a, shared, registers, PACK // shared)
                with builder.if_else(builder.icmp_signed("==", a["act"], _k(BY_TABLE))) as (quantised, real):
                    with quantised:
                        _store_bytes(builder, a, reals, registers)
                    with real:
                        _store_floats(builder, a, reals)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 14), codegen


@intrinsic
def _image_row(typingctx, maps, dst, image, above, below, n):
    """n words of the image's two rows, float32 in 0..1: two pixels of one and two of the other, as 0..255."""

    def codegen(context, builder, signature, arguments):
        maps, dst, image, above, below, n = arguments
        with cgutils.for_range_slice(builder, _k(0), n, _k(16), _i64) as (x, _):
            parts = []
            for row in (above, below):
                first = builder.add(row, builder.shl(x, _k(1)))
                both = [builder.load(_span(builder, image, builder.add(first, _k(o))), align=4) for o in (0, 16)]
                for odd in (0, 1):
                    pixels = builder.shuffle_vector(*both, ir.Constant(_integers, [2 * i + odd for i in range(16)]))
                    pixels = _call(builder, "fma", pixels, _all(255.0), _all(0.5))
                    pixels = _call(builder, "minnum", _call(builder, "maxnum", pixels, _all(0.0)), _all(255.0))
                    parts.append(builder.fptosi(pixels, _integers))
            builder.store(_packed(builder, parts), _span(builder, maps, builder.add(dst, x), _integers), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@njit(nogil=True, cache=True)
def _image(maps, octets, image, op, plane):
    """A colour of the image, the four pixels of each square in a word (size -2), or its first colours as they are (1)."""
    first = op.dst_at + plane * op.dst_plane
    for y in range(op.height):
        row = first + y * op.dst_pitch
        if op.size == -2:
            above = (plane * op.src_height + 2 * y) * op.src_width
            _image_row(maps.ctypes.data, row, image.ctypes.data, above, above + op.src_width, op.width)
        else:
            for c in range(PACK * plane, min(PACK * plane + PACK, op.channels)):
                for x in range(op.width):
                    pixel = image[(c * op.src_height + y) * op.src_width + x] * np.float32(255) + np.float32(0.5)
                    octets[PACK * (row + x) + c % PACK] = np.uint8(min(max(pixel, np.float32(0)), np.float32(255)))
    kernels.clean(maps, first, op, np.float32(0))


@njit(nogil=True, cache=True)
def _conv(maps, op, groups, filters, offsets, values, tables, masks, pads, piece):
    """One piece of a convolution: some of its tiles for some of its words, that is four filters."""
    begin_tile, end_tile, first, last = piece
    registers, each = op.most, PACK // op.size
    plane = op.dst_plane if op.act == BY_TABLE else PACK * op.dst_plane
    vectors = -(-((op.height - 1) * op.dst_pitch + op.width) // 16)
    address, off, val = maps.ctypes.data, offsets.ctypes.data, values.ctypes.data
    table = tables.ctypes.data + 4 * kernels.TABLE * op.params
    for v in range(begin_tile * registers, min(end_tile * registers, vectors), registers):
        n, t = min(registers, vectors - v), v * 16
        mask = masks.ctypes.data + 2 * (op.mask + v)
        for o in range(first, last):
            group = groups.ctypes.data + 24 * (op.filter + o * each)
            own = filters.ctypes.data + 16 * (op.floats + PACK * o)
            add = op.add_at + o * op.add_plane + t if op.add_at >= 0 else -1
            case, src, dst = 16 * op.size + n, op.src_at + t, op.dst_at + o * plane + t
            pad = np.int64(pads[op.pads + o])
            _tile(case, address, off, val, group, own, table, mask, src, dst, op.dst_plane, add, op.act, pad)
    if begin_tile == 0 and op.act == BY_TABLE:
        words = maps.view(np.int32)
        for o in range(first, last):
            kernels.around(words, op.dst_at + o * op.dst_plane, op, pads[op.pads + o])


@njit(nogil=True, cache=True)
def execute(counters, maps, image, boxes, program, work, groups, filters, offsets, values, tables, pads, masks, sides):
    """As of `kernels.execute`: one thread's part in a program."""
    words, octets = maps.view(np.int32), maps.view(np.uint8)
    for i in range(len(program)):
        op = program[i]
        piece = kernels.take(counters, i, op.pieces)
        while piece >= 0:
            what = work[op.work + piece]
            if op.kind == kernels.CONV:
                _conv(maps, op, groups, filters, offsets, values, tables, masks, pads, what)
            elif op.kind == kernels.DECODE:
                kernels.decode(maps, op, sides, what[2], boxes)
            else:
                for item in range(what[2], what[3]):
                    if op.outside:
                        _image(maps, octets, image, op, item)
                    elif op.kind == kernels.MOVE:
                        kernels.move(words, words, op, item, pads[op.pads + item])
                    else:
                        kernels.maxpool(octets, op, item, PACK)
                        kernels.clean(words, op.dst_at + item * op.dst_plane, op, pads[op.pads + item])
            piece = kernels.finish(counters, i, op.pieces)
