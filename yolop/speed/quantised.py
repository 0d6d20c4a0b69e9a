"""Networks in 8 bits: scales from photographs, weights and tables of the operations, and the two files that keep them.

A map's value is (byte - zero point) x scale, one of each per map; a filter's weight is byte x scale, with one scale per filter,
in which the scales of the maps that it reads are contained already: so maps side by side keep scales of their own.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import fx

from yolop.files import write_atomically
from yolop.network.head import STRIDES
from yolop.specs import SpecError, require
from yolop.speed import kernels, tiles
from yolop.speed.tiles import PACK, SEGMENTS, SILU
from yolop.speed.tracing import Buffer, Conv, Map, Network, Op

FEWEST = 8  # calibration images
SAMPLES = 2048  # values of a map in one image that the choice of its scale looks at
TAIL = 1e-4  # share of a map's values that its range leaves out at each end
SATURATED = 0.001  # share of a map's values in half of the images beyond its range in the others, above which a note says so
FORMAT = 1  # of the files, which keep of an operation:
PLAIN, MAPS, ARRAYS = ("kind", "size", "act", "name"), ("src", "dst", "add"), ("weight", "bias", "scale", "zero", "table")
KINDS = [np.int8, np.float32, np.float32, np.uint8, np.float32]  # of these arrays


def obstacle(network: Network) -> str:
    """Why a network cannot run in 8 bits; empty if it can."""
    final = {m.buffer: m for m in network.outputs}
    last, others = [op for op in network.ops if network.ends(op)], [op for op in network.ops if not network.ends(op)]
    alone = len(last) == len(network.outputs) and all(m.own == slice(0, b.channels) for b, m in final.items())
    alone = alone and not any(op.add for op in last) and not any(m.buffer in final for op in others for m in op.maps)
    maps = [m for op in network.ops for m in op.maps if m.buffer not in final]
    whole = not any(m.channel % PACK or m.own.stop % PACK and m.own.stop < m.buffer.channels for m in maps)
    split = all((op.kind, op.size) == (kernels.MOVE, -2) for op in network.ops if op.src is None)
    reasons = {
        "the processor has no AVX-512 VNNI": tiles.VNNI,
        "PyTorch has to run " + "; ".join(network.notes): not network.notes,
        "an output is no convolution's, is a shortcut's, or is read again": alone,
        "maps side by side have channels that are no multiple of 4": whole,
        "the image is read by something else than a convolution of stride 2": split,
    }
    return next((why for why, good in reasons.items() if not good), "")


def require_calibration(images, shape: tuple[int, ...]) -> np.ndarray:
    """Calibration images as (n, channels, side, side) uint8, or SpecError for what cannot show which values occur."""
    require(images is not None and len(images) > 0, "calibration", images, "images of the train split")
    wrong = next((np.shape(image) for image in images if np.shape(image) != shape[1:]), None)
    require(wrong is None, "calibration", wrong, f"images of shape {shape[1:]}")
    images = np.stack([np.asarray(image) for image in images])
    require(images.dtype == np.uint8, "calibration", images.dtype, "uint8 images, 0 to 255")
    require(len(images) >= FEWEST, "calibration", f"{len(images)} images", f"at least {FEWEST}, better 128")
    return images


class _Watch(fx.Interpreter):
    """Runs a traced network and keeps values of the nodes in `seen`: samples of each image, and its extremes."""

    def run_node(self, node: fx.Node):
        result = super().run_node(node)
        if node in self.seen:
            for image in result.flatten(1):
                some = image[torch.linspace(0, len(image) - 1, min(SAMPLES, len(image))).long()]
                self.seen[node].append(torch.cat([some, torch.stack(image.aminmax())]))
        return result


@torch.inference_mode()
def ranges(network: Network, images: np.ndarray) -> dict[int, tuple[float, float]]:
    """The lowest and the highest value that the 8 bits of each convolution's map hold, by its id; notes of what lies beyond."""
    convs = {op.node: op for op in network.ops if op.conv}
    watch, found = _Watch(network.graph), {}
    watch.seen = {node: [] for node in convs}
    for start in range(0, len(images), 8):
        watch.run(torch.from_numpy(images[start : start + 8]).float() / 255)
    for node, parts in watch.seen.items():
        values, op = torch.stack(parts).double().numpy(), convs[node]
        if not np.isfinite(values).all():
            raise SpecError(f"{node} becomes NaN or infinity on the calibration images: no scale can hold that")
        low, high = _limits(values[::2])
        beyond = float(((values[1::2, :-2] < low) | (values[1::2, :-2] > high)).mean())
        if beyond > SATURATED and not network.ends(op):
            said = "of its values in every second photograph lie beyond those of the others: 8 bits may cut off as many"
            network.notes.append(f"{op.name}: {beyond:.2%} {said}")
        found[id(op.dst)] = _limits(values)
    return found


def _limits(values: np.ndarray) -> tuple[float, float]:
    return min(float(np.quantile(values, TAIL)), 0.0), max(float(np.quantile(values, 1 - TAIL)), 1e-3)


def quantise(network: Network, images: np.ndarray) -> None:
    """Give every buffer its zero points and make every convolution one of 8 bits, in place."""
    found = ranges(network, images)
    known: dict[Buffer, tuple[np.ndarray, ...]] = {}  # scales and zero points of its channels, before it is split
    for op in network.ops:
        b, own = op.dst.buffer, op.dst.own
        image = np.full(b.channels // 4, 1 / 255), np.zeros(b.channels // 4, np.uint8)
        source = tuple(part[op.src.own] for part in known[op.src.buffer]) if op.src else image
        if op.kind == kernels.MOVE and op.size == -2:
            # each of the four parts of a map begins with a new word; those of the image lie in one
            padding = -len(source[1]) % PACK if op.src else 0
            b.zeros, known[b] = np.tile(np.pad(source[1], (0, padding)), 4), source
            b.channels = op.dst.channels = len(b.zeros)
            continue
        if b not in known:
            b.zeros = np.zeros(b.channels, np.uint8)
            known[b] = np.ones(b.channels), b.zeros
        scales = known[b][0]
        if not op.conv:
            scales[own], b.zeros[own] = source
            continue
        table = np.zeros(0, np.float32)
        if not network.ends(op):
            low, high = found[id(op.dst)]
            step = (high - low) / 255
            scales[own], b.zeros[own] = step, int(np.clip(round(-low / step), 0, 255))
            before = [part[op.add.channel] for part in known[op.add.buffer]] if op.add else (0, 0)
            table = _table(op.act, step, int(b.zeros[op.dst.channel]), before[0] / step, int(before[1]))
        weight = op.conv.weight.astype(np.float64) * source[0][:, None, None]
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        scale = np.where(scale == 0, 1, scale).astype(np.float32)
        weight = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
        op.conv = replace(op.conv, weight=weight, scale=scale, zero=source[1].copy(), table=table)
        check(op)
    network.graph = None


def check(op: Op) -> None:
    """SpecError for numbers that 32 bits cannot hold, or that are none: from a network or a file that is not what it seems."""
    conv = op.conv
    floats = (conv.scale, conv.bias, conv.table)
    require(all(np.isfinite(a).all() for a in floats), op.name, "NaN or infinity", "finite scales, biases and tables")
    require(bool((conv.scale > 0).all()), op.name, "a scale of 0 or below", "scales above 0")
    most = 2.0 * 255 * np.abs(conv.weight.astype(np.int64)).sum(axis=(1, 2, 3))
    largest = most.max()
    if len(conv.table):  # beyond 7.25 the table is a straight line
        constant, linear, square = conv.table[:-1].reshape(3, -1)
        steps = float((most * conv.scale + np.abs(conv.bias)).max()) * abs(linear[SEGMENTS // 2 - 1])
        largest = max(largest, steps + (np.abs(constant) + 8 * np.abs(linear) + 64 * np.abs(square)).max())
    require(largest < 2**30, op.name, f"values up to {largest:.0e}", "below 2^30: weights or biases of a usual size")


def _table(act: int, scale: float, zero: int, factor: float, before: int) -> np.ndarray:
    """Parabolas of the activation in units of the output's scale, around the multiples of 1/2 from 0 to 7.5 and from -8 on; and
    a shortcut's factor, whose zero point is `before`."""
    terms = np.zeros((3, SEGMENTS))
    for i in range(SEGMENTS):
        middle = (i if i < SEGMENTS // 2 else i - SEGMENTS) / 2
        if act != SILU or middle == 7.5:
            terms[1, i] = 1
        elif middle > -8:
            x = middle + 0.25 * np.cos(np.pi * np.array([1, 3, 5]) / 6)
            terms[:, i] = np.polyfit(x, x / (1 + np.exp(-x)), 2)[::-1]
    terms /= scale
    terms[0] += zero + 0.5 - before * factor
    return np.append(terms.ravel(), factor).astype(np.float32)


def save(network: Network, path: Path) -> None:
    """Write `path` (safetensors: weights, scales, zero points, tables) and beside it a json file with the operations."""
    buffers = list(dict.fromkeys(m.buffer for op in network.ops for m in op.maps))
    arrays = {f"zeros.{i}": b.zeros for i, b in enumerate(buffers)} | {"anchors": network.anchors}

    def place(m: Map | None):
        return [buffers.index(m.buffer), m.channel, m.channels] if m else None

    rows = []
    for i, op in enumerate(network.ops):
        rows.append({name: getattr(op, name) for name in PLAIN} | {name: place(getattr(op, name)) for name in MAPS})
        rows[-1]["conv"] = [op.conv.stride, op.conv.padding] if op.conv else None
        arrays |= {f"{i}.{name}": getattr(op.conv, name) for name in ARRAYS if op.conv}
    about = {"format": FORMAT, "shape": network.shape, "many": network.many, "numbers": network.numbers}
    about |= {"buffers": [[b.channels, b.height, b.width] for b in buffers], "ops": rows}
    about["outputs"] = [place(m) for m in network.outputs]
    write_atomically(Path(path), save_arrays({name: np.ascontiguousarray(a) for name, a in arrays.items()}))
    write_atomically(Path(path).with_suffix(".json"), json.dumps(about) + "\n")


def load(path: Path) -> Network:
    """What `save` wrote; SpecError for files that are damaged or do not belong together."""
    path = Path(path)
    require(tiles.VNNI, "processor", "without AVX-512 VNNI", "one that has it, or the network in float32")
    try:
        arrays, about = load_arrays(path.read_bytes()), json.loads(path.with_suffix(".json").read_bytes())
        require(about["format"] == FORMAT, "format", about["format"], f"{FORMAT}: save the network anew")
        network = _read(arrays, about)
        side, several = network.shape[2], network.numbers and len(network.outputs) != len(STRIDES)
        good = network.shape == (1, 3, side, side) and side in range(32, 8193, 32) and network.outputs and not several
        boxes = network.anchors.shape == (9, 2) and all(m.channels == 3 * network.numbers for m in network.outputs)
        good = good and (boxes or not network.numbers) and all(_fits(op, network) for op in network.ops)
        if not good or obstacle(network):
            raise ValueError("its parts do not fit together")
    except SpecError:
        raise
    except Exception as error:  # whatever is in such a file
        raise SpecError(f"{path} and its json file are no saved network in 8 bits: {error!r}") from None
    return network


def _read(arrays: dict[str, np.ndarray], about: dict) -> Network:
    buffers = [Buffer(*map(int, size), zeros=arrays[f"zeros.{i}"]) for i, size in enumerate(about["buffers"])]

    def place(where) -> Map | None:
        return Map(buffers[where[0]], int(where[1]), int(where[2])) if where else None

    ops = []
    for i, row in enumerate(about["ops"]):
        ops.append(Op(**{name: row[name] for name in PLAIN} | {name: place(row[name]) for name in MAPS}))
        if row["conv"]:
            stride, padding = map(tuple, row["conv"])
            ops[-1].conv = Conv(stride=stride, padding=padding, **{name: arrays[f"{i}.{name}"] for name in ARRAYS})
    outputs = [next(op.dst for op in ops if op.conv and op.dst == place(where)) for where in about["outputs"]]
    return Network(ops, outputs, tuple(about["shape"]), about["many"], arrays["anchors"], int(about["numbers"]))


def _fits(op: Op, network: Network) -> bool:
    """Whether an operation of a file reads and writes what is there; nothing in a file may lead the kernels beside the maps."""
    side = network.shape[2]
    maps = op.src or Map(Buffer(3, side, side, zeros=np.zeros(3, np.uint8)), 0, 3), op.dst, op.add or op.dst
    for m in maps:
        b, inside = m.buffer, 0 <= m.channel < m.own.stop <= m.buffer.channels <= 65536
        given = inside and 0 < b.height <= side and 0 < b.width <= side
        if not given or b.zeros.shape != (b.channels,) or b.zeros.dtype != np.uint8:
            return False
    (channels, *size), result, shortcut = ([m.channels, m.buffer.height, m.buffer.width] for m in maps)
    if op.conv:
        check(op)
        filters, read, *kernel = op.conv.weight.shape
        reads = {(1, 1): (read,), (2, 2): (4 * read, 4 * (read + -read % PACK))}[op.conv.stride]
        padded = all(0 <= p < n <= 7 for p, n in zip(op.conv.padding, kernel, strict=True))
        arrays = [getattr(op.conv, name) for name in ARRAYS]
        shapes = [(filters,), (filters,), (read,), (0 if network.ends(op) else kernels.NUMBERS,)]
        right = [a.shape for a in arrays[1:]] == shapes and [a.dtype for a in arrays] == KINDS and padded
        return right and op.kind == kernels.CONV and channels in reads and result == shortcut == [filters, *size]
    if op.kind == kernels.MAXPOOL:
        return op.size in range(1, 32, 2) and result == [channels, *size]
    split = 4 * (channels + -channels % PACK if op.src else channels)
    sizes = {1: [channels, *size], 2: [channels, *(2 * n for n in size)], -2: [split, *(-(-n // 2) for n in size)]}
    return op.kind == kernels.MOVE and result == sizes[op.size]
