"""Compiled inner loops of the engine, spelled out for LLVM: outputs of some filters on registers of pixels, rows that move.

What LLVM's vectoriser makes of the plain loop keeps its sums in memory instead of registers and takes more than twice as long.
The code for float32 runs on AVX-512, AVX2 and ARM; the one for 8 bits asks for AVX-512 VNNI.

In 8 bits a word of 32 bits holds four channels of a pixel, unsigned. One instruction multiplies it by four signed weights and adds
the products to a sum of 32 bits, so what can be left out is a block of four weights that are all zero. The arithmetic is exact to
the bit: sums are integers, then come one fused multiply-add to the real value, the table's parabola in two more, one for a
shortcut, and truncation to 8 bits; `tests/test_engine8.py` has the same in plain NumPy.
"""

from __future__ import annotations

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

try:
    FEATURES = llvm.get_host_cpu_features()
except RuntimeError:  # some systems do not say
    FEATURES = {}
LANES = 16 if FEATURES.get("avx512f") else 8 if FEATURES.get("avx2") else 4  # words of 32 bits in one register
VNNI = bool(FEATURES.get("avx512vnni") and FEATURES.get("avx512bw"))
PACK = 4  # channels in a word of 8 bits
GROUP = 4  # filters that share their inputs where few weights are zero
# channels in a word -> filters that share their inputs -> most registers of outputs for each: with a weight and an input, 8 fit
# into the 16 registers of AVX2
TILES = {1: {1: 8, GROUP: 4 if LANES == 16 else 2}, PACK: {1: 8, GROUP: 6}}
NONE, SILU, SIGMOID, TABLE = range(4)  # what follows a convolution; by a table in 8 bits
SEGMENTS = 32  # of a table: parabolas around the multiples of 1/2 from -8 to 7.5
HALVES = 6291456.0  # 1.5 * 2^22: added to a float32, it leaves the nearest multiple of 1/2 in its last bits
EXP2 = (1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 0.24022651, 0.69314718, 1)  # Taylor coefficients of 2^x

_i8, _i16, _i32, _i64, _f32 = *(ir.IntType(bits) for bits in (8, 16, 32, 64)), ir.FloatType()
_vector, _integers = ir.VectorType(_f32, LANES), ir.VectorType(_i32, LANES)
_bytes, _shorts = ir.VectorType(_i8, 64), ir.VectorType(_i16, 32)


def _k(value: int) -> ir.Constant:
    return ir.Constant(_i64, value)


def _all(value, kind=_vector) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _spread(builder, scalar):
    """A scalar in every lane."""
    nothing = ir.Constant(_vector, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(_i32, 0))
    return builder.shuffle_vector(first, nothing, _all(0, _integers))


def _span(builder, base, index, kind=_vector):
    """Address of a register's words from an index on."""
    return builder.bitcast(builder.gep(base, [index]), kind.as_pointer())


def _function(builder, name: str, kind, *arguments):
    signature = ir.FunctionType(kind, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def _call(builder, name: str, *arguments):
    """One of LLVM's own functions on vectors."""
    return _function(builder, f"llvm.{name}.v{LANES}f32", _vector, *arguments)


def _x86(builder, name: str, kind, *arguments):
    """One of the processor's own instructions."""
    return _function(builder, f"llvm.x86.avx512.{name}.512", kind, *arguments)


def _limited(builder, x, low: float, high: float):
    return _call(builder, "minnum", _call(builder, "maxnum", x, _all(low)), _all(high))


def _one_plus_exp(builder, x):
    """1 + exp(-x), exp as 2^n times a polynomial in the rest; x over it is SiLU within 1e-6 relative from -16 up, 4e-6 below."""
    t = _limited(builder, builder.fmul(x, _all(-1.4426950408889634)), -126.0, 126.0)
    n = _call(builder, "floor", builder.fadd(t, _all(0.5)))
    rest, e = builder.fsub(t, n), _all(1.5403530e-4)
    for c in EXP2:
        e = _call(builder, "fma", e, rest, _all(c))
    bits = builder.add(builder.fptosi(n, _integers), _all(127, _integers))
    power = builder.bitcast(builder.shl(bits, _all(23, _integers)), _vector)
    return builder.fadd(builder.fmul(e, power), _all(1.0))


def _by_table(builder, a: dict, x):
    """A real value after the activation, in the scale of the output, 1/2 above its zero point."""
    index, terms = builder.bitcast(builder.fadd(_limited(builder, x, -8.0, 7.5), _all(HALVES)), _integers), []
    for term in range(3):
        low, high = (_span(builder, a["table"], _k(SEGMENTS * term + 16 * half)) for half in (0, 1))
        halves = builder.load(low, align=4), index, builder.load(high, align=4)
        terms.append(_x86(builder, "vpermi2var.ps", _vector, *halves))
    return _call(builder, "fma", _call(builder, "fma", terms[2], x, terms[1]), x, terms[0])


def _packed(builder, four):
    """Four times 16 int32 as 16 words of 4 bytes, each limited to 0..255."""
    low = _x86(builder, "packssdw", _shorts, four[0], four[1])
    high = _x86(builder, "packssdw", _shorts, four[2], four[3])
    together = _x86(builder, "packuswb", _bytes, low, high)
    order = [16 * lane + i + 4 * j for lane in range(4) for i in range(4) for j in range(4)]
    order = ir.Constant(ir.VectorType(_i32, 64), order)
    return builder.bitcast(builder.shuffle_vector(together, ir.Constant(_bytes, ir.Undefined), order), _integers)


def _inside(builder, a: dict, j: int):
    """Which lanes of register j of a tile lie on the map, from one bit a pixel."""
    word = builder.load(builder.gep(a["masks"], [_k(j)]))
    lanes = word if LANES == 16 else builder.trunc(word, ir.IntType(LANES))
    return builder.bitcast(lanes, ir.VectorType(ir.IntType(1), LANES))


def _sums(builder, a: dict, pack: int, size: int, registers: int) -> dict:
    """Real values of the outputs before any activation: (filter, register) -> where they are."""
    kind, reals = _vector if pack == 1 else _integers, {}
    for group in range(max(pack // size, 1)):
        begin, end = (builder.load(builder.gep(a["groups"], [_k(group + i)])) for i in range(2))
        own = [[builder.gep(a["filters"], [_k(4 * (group * size + f) + i)]) for i in range(3)] for f in range(size)]
        sums = {(f, j): cgutils.alloca_once(builder, kind) for f in range(size) for j in range(registers)}
        for (f, _), place in sums.items():
            builder.store(builder.bitcast(_spread(builder, builder.load(own[f][0])), kind), place)
        with cgutils.for_range_slice(builder, begin, end, _k(1), _i64) as (n, _):
            pixel = builder.add(a["src"], builder.sext(builder.load(builder.gep(a["offsets"], [n])), _i64))
            places = [_span(builder, a["maps"], builder.add(pixel, _k(LANES * j))) for j in range(registers)]
            inputs = [builder.load(place, align=4) for place in places]
            for f in range(size):
                place = builder.add(builder.mul(n, _k(size)), _k(f))
                weight = _spread(builder, builder.load(builder.gep(a["values"], [place])))
                for j in range(registers):
                    before = builder.load(sums[f, j])
                    if pack == 1:
                        after = _call(builder, "fma", weight, inputs[j], before)
                    else:
                        factors = (builder.bitcast(four, _bytes) for four in (inputs[j], weight))
                        after = _x86(builder, "vpdpbusd", _integers, before, *factors)
                    builder.store(after, sums[f, j])
        for (f, j), place in sums.items():
            reals[group * size + f, j] = place if pack == 1 else cgutils.alloca_once(builder, _vector)
            if pack != 1:
                scale, bias = (_spread(builder, builder.load(own[f][i])) for i in (1, 2))
                real = _call(builder, "fma", builder.sitofp(builder.load(place), _vector), scale, bias)
                builder.store(real, reals[group * size + f, j])
    return reals


def _store_bytes(builder, a: dict, reals: dict) -> None:
    """The four filters of a word: activation, shortcut, 8 bits, and the zero point between the rows."""
    factor = _spread(builder, builder.load(builder.gep(a["table"], [_k(3 * SEGMENTS)])))
    for place in reals.values():
        builder.store(_by_table(builder, a, builder.load(place)), place)
    with builder.if_then(builder.icmp_signed(">=", a["add"], _k(0))):
        for (f, j), place in reals.items():
            word = builder.load(_span(builder, a["maps"], builder.add(a["add"], _k(16 * j)), _integers), align=4)
            byte = builder.and_(builder.lshr(word, _all(8 * f, _integers)), _all(255, _integers))
            real = _call(builder, "fma", builder.sitofp(byte, _vector), factor, builder.load(place))
            builder.store(real, place)
    pad = builder.bitcast(_spread(builder, builder.bitcast(builder.trunc(a["pad"], _i32), _f32)), _integers)
    for j in range(len(reals) // PACK):
        words = _packed(builder, [builder.fptosi(builder.load(reals[f, j]), _integers) for f in range(PACK)])
        words = builder.select(_inside(builder, a, j), words, pad)
        builder.store(words, _span(builder, a["maps"], builder.add(a["dst"], _k(16 * j)), _integers), align=4)


def _store_floats(builder, a: dict, reals: dict) -> None:
    """Planes of float32: activation, shortcut, and zeros between the rows."""

    def at(name: str, f: int, j: int):
        plane = builder.add(a[name], builder.mul(a[name + "_plane"], _k(f)))
        return _span(builder, a["maps"], builder.add(plane, _k(LANES * j)))

    for which in (SILU, SIGMOID):
        with builder.if_then(builder.icmp_signed("==", a["act"], _k(which))):
            for place in reals.values():
                x = builder.load(place)
                above = x if which == SILU else _all(1.0)
                builder.store(builder.fdiv(above, _one_plus_exp(builder, x)), place)
    with builder.if_then(builder.icmp_signed(">=", a["add"], _k(0))):
        for cell, place in reals.items():
            shortcut = builder.load(at("add", *cell), align=4)
            builder.store(builder.fadd(builder.load(place), shortcut), place)
    for (f, j), place in reals.items():
        kept = builder.select(_inside(builder, a, j), builder.load(place), _all(0.0))
        builder.store(kept, at("dst", f, j), align=4)


NAMES = "maps case offsets values groups filters table masks src dst dst_plane add add_plane act pad".split()
POINTERS = {"offsets": _i32, "values": _f32, "groups": _i64, "filters": _f32, "table": _f32, "masks": _i16}


@intrinsic
def tile(
    typingctx, maps, case, offsets, values, groups, filters, table, masks, src, dst, dst_plane, add, add_plane, act, pad
):
    """Outputs of some filters on some registers of pixels in a row; case: 16 x filters that share their inputs + registers.

    The maps, as float32 or as int32, words of four bytes; addresses of offsets, values, the groups' limits, the filters' numbers,
    the table and the masks; indices of the first pixel of inputs, outputs and shortcut (or -1), lengths of the planes of these;
    what follows; the zero point as a word.
    """
    pack = PACK if maps.dtype == types.int32 else 1

    def codegen(context, builder, signature, arguments):
        a = dict(zip(NAMES, arguments, strict=True))
        data = context.make_array(signature.args[0])(context, builder, a["maps"]).data
        a["maps"] = builder.bitcast(data, _f32.as_pointer())
        a |= {name: builder.inttoptr(a[name], kind.as_pointer()) for name, kind in POINTERS.items()}
        done = builder.append_basic_block("done")
        choice = builder.switch(a["case"], done)
        for size, most in TILES[pack].items():
            for registers in range(1, most + 1):
                block = builder.append_basic_block(f"tile{size}x{registers}")
                choice.add_case(_k(16 * size + registers), block)
                builder.position_at_end(block)
                reals = _sums(builder, a, pack, size, registers)
                if pack > 1:
                    with builder.if_then(builder.icmp_signed("==", a["act"], _k(TABLE))):
                        _store_bytes(builder, a, reals)
                        builder.branch(done)
                _store_floats(builder, a, reals)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(maps, *[types.int64] * 14), codegen


def _every_second(builder, source, first, odd: int = 0):
    """Of twice LANES words."""
    both = [builder.load(_span(builder, source, builder.add(first, _k(o))), align=4) for o in (0, LANES)]
    return builder.shuffle_vector(*both, ir.Constant(_integers, [2 * i + odd for i in range(LANES)]))


@intrinsic
def row(typingctx, case, maps, dst, source, src, pitch, n):
    """n words of a row, as they are (case 1), each twice (2), or every second one (-2); LANES words at a time, so some more.

    Case -8: two pixels of a row of the image and two of the next one, float32 in 0..1, as four bytes.
    """

    def codegen(context, builder, signature, arguments):
        case, maps, dst, source, src, pitch, n = arguments
        maps, source = (builder.inttoptr(a, _f32.as_pointer()) for a in (maps, source))
        done = builder.append_basic_block("done")
        choice = builder.switch(case, done)
        for which in (1, 2, -2, -8) if VNNI else (1, 2, -2):
            block = builder.append_basic_block("row")
            choice.add_case(_k(which), block)
            builder.position_at_end(block)
            with cgutils.for_range_slice(builder, _k(0), n, _k(LANES), _i64) as (x, _):
                start = x if which == 1 else builder.lshr(x, _k(1)) if which == 2 else builder.shl(x, _k(1))
                first = builder.add(src, start)
                if which == -2:
                    words = _every_second(builder, source, first)
                elif which == -8:
                    lines = first, builder.add(first, pitch)
                    four = [_every_second(builder, source, line, odd) for line in lines for odd in (0, 1)]
                    four = [_call(builder, "fma", shade, _all(255.0), _all(0.5)) for shade in four]
                    four = [builder.fptosi(_limited(builder, shade, 0.0, 255.0), _integers) for shade in four]
                    words = builder.bitcast(_packed(builder, four), _vector)
                else:
                    words = builder.load(_span(builder, source, first), align=4)
                    order = ir.Constant(_integers, [i // which for i in range(LANES)])
                    words = builder.shuffle_vector(words, words, order)
                builder.store(words, _span(builder, maps, builder.add(dst, x)), align=4)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), codegen
