"""Networks in 8 bits: scales from photographs, weights and tables of the operations, and the two files that keep them.

A map's value is (byte - zero point) x scale, one of each per map; a filter's weight is byte x scale, with one scale per filter,
in which the scales of the maps that it reads are contained already: so maps side by side keep scales of their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import fx, nn

from yolop.files import write_atomically
from yolop.network.head import STRIDES
from yolop.specs import SpecError, require
from yolop.speed import kernels, kernels8
from yolop.speed.kernels8 import PACK, SEGMENTS
from yolop.speed.program import Buffer, Map, Op
from yolop.speed.tracing import traced

FEWEST = 8  # calibration images
SAMPLES = 2048  # values of a map in one image that the choice of its scale looks at
TAIL = 1e-4  # share of a map's values that its range leaves out at each end
SATURATED = 0.001  # share of a map's values beyond its range, above which a note says so
FORMAT = 1  # of the files, which keep of an operation:
PLAIN, MAPS, ARRAYS = (
    ("kind", "size", "act", "name"),
    ("src", "dst", "add"),
    ("weight", "scale", "bias", "zero", "table"),
)


@dataclass
class Conv8:
    """A convolution in 8 bits.

    Attributes:
        weight: (filters, channels, rows, columns) int8.
        scale, bias: (filters,) float32: a sum of products times `scale` plus `bias` is the real value.
        zero: (channels,) uint8, zero points of what it reads.
        table: (TABLE,) float32 of `kernels8`; empty where the result stays float32.
    """

    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    zero: np.ndarray
    table: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.weight.shape[2:]


@dataclass
class Network8:
    """A network in 8 bits, as it is saved: operations of `program`, whose convolutions are `Conv8`; outputs float32.

    `anchors` (9, 2) are those of Detect, `numbers` 5 + its classes; none where a network ends with maps.
    """

    ops: list[Op]
    outputs: list[Map]
    shape: tuple[int, ...]
    many: bool
    anchors: np.ndarray
    numbers: int
    notes: list[str] = field(default_factory=list)


def quantised(model: nn.Module, shape: tuple[int, ...], images: np.ndarray) -> tuple[Network8 | None, str]:
    """A model in 8 bits, with scales from calibration images, or None and why that cannot be."""
    notes = []
    graph, reader, detect, _ = traced(model, shape, notes)
    ops, outputs, many = reader.read()
    why = obstacle(ops, outputs, notes)
    if why:
        return None, why
    found = ranges(graph, reader.maps, ops, images)
    quantise(ops, found, outputs)
    cut = {op.name: found[id(op.dst)][2] for op in ops if op.conv and found[id(op.dst)][2] > SATURATED}
    anchors = np.zeros((0, 2), np.float32) if detect is None else detect.anchors.numpy().reshape(-1, 2)
    said = [f"{name}: {share:.2%} of its values lie beyond its 8 bits" for name, share in cut.items()]
    return Network8(ops, outputs, shape, many, anchors, 0 if detect is None else detect.no, said), ""


def obstacle(ops: list[Op], outputs: list[Map], notes: list[str]) -> str:
    """Why a network cannot run in 8 bits; empty if it can."""
    read = {m.buffer for op in ops for m in (op.src, op.add) if m}
    whole = all((m.channel, m.channels) == (0, m.buffer.channels) for m in outputs)
    last = {id(op.dst) for op in ops if op.conv}
    maps = [m for op in ops for m in op.maps if m.buffer not in {m.buffer for m in outputs}]
    ends = [m.channels for m in maps if m.channel + m.channels < m.buffer.channels]
    reasons = {
        "the processor has no AVX-512 VNNI": not kernels8.VNNI,
        "PyTorch has to run " + "; ".join(notes): bool(notes),
        "an output is no convolution's, or is read again": not whole
        or not all(id(m) in last for m in outputs)
        or any(m.buffer in read for m in outputs),
        "maps side by side have channels that are no multiple of 4": any(n % PACK for n in ends)
        or any(m.channel % PACK for m in maps),
        "it upsamples or pools the image itself": any(op.src is None and (op.conv or op.size == 2) for op in ops),
    }
    return next((why for why, wrong in reasons.items() if wrong), "")


def require_calibration(images, shape: tuple[int, ...]) -> np.ndarray:
    """Calibration images as (n, channels, side, side) uint8, or SpecError for what cannot show which values occur."""
    require(images is not None and len(images) > 0, "calibration", images, "images of the train split")
    images = np.stack([np.asarray(image) for image in images])
    require(images.shape[1:] == shape[1:], "calibration", images.shape, f"images of shape {shape[1:]}")
    require(images.dtype == np.uint8, "calibration", images.dtype, "uint8 images, 0 to 255")
    require(len(images) >= FEWEST, "calibration", f"{len(images)} images", f"at least {FEWEST}, better 128")
    return images


class _Watch(fx.Interpreter):
    """Runs a traced network and keeps values of the maps that convolutions write."""

    def __init__(self, traced: fx.GraphModule, nodes: dict[fx.Node, int]):
        super().__init__(traced)
        self.nodes, self.seen = nodes, {key: [] for key in nodes.values()}

    def run_node(self, node: fx.Node):
        result = super().run_node(node)
        if node in self.nodes:
            for image in result.flatten(1):
                some = image[torch.linspace(0, len(image) - 1, min(SAMPLES, len(image))).long()]
                self.seen[self.nodes[node]].append(
                    torch.cat([some, image.aminmax()[0][None], image.aminmax()[1][None]])
                )
        return result


@torch.inference_mode()
def ranges(traced: fx.GraphModule, maps: dict[fx.Node, Map], ops: list[Op], images: np.ndarray):
    """The lowest and the highest value of each convolution's map that its 8 bits hold, and the share beyond, by id of the map."""
    written = {id(op.dst) for op in ops if op.conv}
    nodes = {id(m): node for node, m in maps.items() if id(m) in written}
    watch = _Watch(traced, {node: key for key, node in nodes.items()})
    for start in range(0, len(images), 8):
        watch.run(torch.from_numpy(images[start : start + 8]).float() / 255)
    found = {}
    for key, parts in watch.seen.items():
        values = torch.cat(parts).double().numpy()
        if not np.isfinite(values).all():
            raise SpecError(f"{nodes[key]} becomes NaN or infinity on the calibration images: no scale can hold that")
        low, high = min(float(np.quantile(values, TAIL)), 0.0), max(float(np.quantile(values, 1 - TAIL)), 1e-3)
        found[key] = low, high, float(((values < low) | (values > high)).mean())
    return found


def quantise(ops: list[Op], found: dict[int, tuple], outputs: list[Map]) -> None:
    """Give every buffer its zero points and make every convolution a `Conv8`, in place."""
    scales: dict[Buffer, np.ndarray] = {}
    read: dict[Buffer, tuple[np.ndarray, np.ndarray]] = {}  # of a map that is split: of its channels as they were
    for op in ops:
        b, own = op.dst.buffer, slice(op.dst.channel, op.dst.channel + op.dst.channels)
        if op.src is not None:
            part = slice(op.src.channel, op.src.channel + op.src.channels)
            source = read.get(op.src.buffer) or (scales[op.src.buffer][part], op.src.buffer.zeros[part])
        else:
            channels = op.dst.channels // (4 if op.size == -2 else 1)
            source = np.full(channels, 1 / 255), np.zeros(channels, np.uint8)
        if op.kind == kernels.MOVE and op.size == -2:
            read[b] = source
            _split(op, source[1])
            continue
        if b.zeros is None:
            b.zeros, scales[b] = np.zeros(b.channels, np.uint8), np.ones(b.channels)
        if not op.conv:
            scales[b][own], b.zeros[own] = source
            continue
        result = None
        if not any(op.dst is m for m in outputs):
            low, high, _ = found[id(op.dst)]
            step = (high - low) / 255
            result = step, int(np.clip(round(-low / step), 0, 255))
            scales[b][own], b.zeros[own] = result
        shortcut = (scales[op.add.buffer][op.add.channel], op.add.buffer.zeros[op.add.channel]) if op.add else None
        op.conv = _conv(op, source, result, shortcut)


def _split(op: Op, zeros: np.ndarray) -> None:
    """Channels of a map that is split for a stride of 2: each of the four parts begins with a new word; those of the image lie in
    one word."""
    b = op.dst.buffer
    if op.src is None:
        b.zeros = np.repeat(zeros, 4)
    else:
        part = np.concatenate([zeros, np.zeros(-len(zeros) % PACK, np.uint8)])
        b.zeros = np.tile(part, 4)
        b.channels = len(b.zeros)
    op.dst.channels = b.channels


def _conv(op: Op, source: tuple, result: tuple | None, shortcut: tuple | None) -> Conv8:
    """Weights with the scales of what they read, each filter's largest as 127; and the table of what follows."""
    conv = op.conv
    weight = conv.weight.detach().double().numpy() * source[0][:, None, None]
    bias = np.zeros(len(weight)) if conv.bias is None else conv.bias.detach().double().numpy()
    scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
    scale[scale == 0] = 1
    scale = scale.astype(np.float32)
    table = np.zeros(0, np.float32) if result is None else _table(op.act, *result, shortcut)
    weight = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
    made = Conv8(weight, scale, bias.astype(np.float32), source[1].copy(), table, conv.stride, conv.padding)
    check(op.name, made)
    return made


def check(name: str, conv: Conv8) -> None:
    """SpecError for numbers that 32 bits cannot hold, or that are none: from a network or a file that is not what it seems."""
    floats = (conv.scale, conv.bias, conv.table)
    require(all(np.isfinite(a).all() for a in floats), name, "NaN or infinity", "finite scales, biases and tables")
    require(bool((conv.scale > 0).all()), name, "a scale of 0 or below", "scales above 0")
    most = 2.0 * 255 * np.abs(conv.weight.astype(np.int64)).sum(axis=(1, 2, 3))
    largest = most.max()
    if len(conv.table):  # beyond 7.25 the table is a straight line
        constant, linear, square = conv.table[:-1].reshape(3, -1)
        steps = float((most * conv.scale + np.abs(conv.bias)).max()) * abs(linear[SEGMENTS // 2 - 1])
        largest = max(largest, steps + (np.abs(constant) + 8 * np.abs(linear) + 64 * np.abs(square)).max())
    require(largest < 2**30, name, f"values up to {largest:.0e}", "below 2^30: weights or biases of a usual size")


def _table(act: int, scale: float, zero: int, shortcut: tuple | None) -> np.ndarray:
    """Parabolas of the activation in units of the output's scale, around the multiples of 1/2 from 0 to 7.5 and from -8 on."""
    factor, before = (shortcut[0] / scale, int(shortcut[1])) if shortcut else (0.0, 0)
    terms = np.zeros((3, SEGMENTS))
    for i in range(SEGMENTS):
        middle = (i if i < SEGMENTS // 2 else i - SEGMENTS) / 2
        if act != kernels.RAW_SILU or middle == 7.5:
            terms[1, i] = 1
        elif middle > -8:
            x = middle + 0.25 * np.cos(np.pi * np.array([1, 3, 5]) / 6)
            terms[:, i] = np.polyfit(x, x / (1 + np.exp(-x)), 2)[::-1]
    terms /= scale
    terms[0] += zero + 0.5 - before * factor
    return np.append(terms.ravel(), factor).astype(np.float32)


def save(network: Network8, path: Path) -> None:
    """Write `path` (safetensors: weights, scales, zero points, tables) and beside it a json file with the operations."""
    buffers = list(dict.fromkeys(m.buffer for op in network.ops for m in op.maps))
    arrays = {f"zeros.{i}": b.zeros for i, b in enumerate(buffers)} | {"anchors": network.anchors}

    def place(m: Map | None):
        return [buffers.index(m.buffer), m.channel, m.channels] if m else None

    rows = []
    for i, op in enumerate(network.ops):
        rows.append({name: getattr(op, name) for name in PLAIN} | {name: place(getattr(op, name)) for name in MAPS})
        rows[-1]["conv"] = [*op.conv.stride, *op.conv.padding] if op.conv else None
        arrays |= {f"{i}.{name}": getattr(op.conv, name) for name in ARRAYS if op.conv}
    about = {"format": FORMAT, "shape": network.shape, "many": network.many, "numbers": network.numbers}
    about |= {"buffers": [[b.channels, b.height, b.width] for b in buffers], "ops": rows}
    about["outputs"] = [place(m) for m in network.outputs]
    path = Path(path)
    write_atomically(path, save_arrays({name: np.ascontiguousarray(a) for name, a in arrays.items()}))
    write_atomically(path.with_suffix(".json"), json.dumps(about) + "\n")


def load(path: Path) -> Network8:
    """What `save` wrote; SpecError for files that are damaged or do not belong together."""
    path = Path(path)
    require(kernels8.VNNI, "processor", "without AVX-512 VNNI", "one that has it, or the network in float32")
    try:
        arrays, about = load_arrays(path.read_bytes()), json.loads(path.with_suffix(".json").read_bytes())
        require(about["format"] == FORMAT, "format", about["format"], f"{FORMAT}: save the network anew")
        network = _read(arrays, about)
        fits = [_fits(op, network) for op in network.ops]
        heads = not network.numbers or (len(network.outputs), network.anchors.shape) == (len(STRIDES), (9, 2))
        boxes = not network.numbers or all(m.channels == 3 * network.numbers for m in network.outputs)
        shape = network.shape == (1, 3, network.shape[2], network.shape[2]) and network.shape[2] in range(32, 8193, 32)
        if not (all(fits) and heads and boxes and shape and network.outputs) or obstacle(
            network.ops, network.outputs, []
        ):
            raise ValueError("its parts do not fit together")
    except SpecError:
        raise
    except Exception as error:  # whatever is in such a file
        raise SpecError(f"{path} and its json file are no saved network in 8 bits: {error!r}") from None
    return network


def _read(arrays: dict[str, np.ndarray], about: dict) -> Network8:
    buffers = [Buffer(*map(int, size), zeros=arrays[f"zeros.{i}"]) for i, size in enumerate(about["buffers"])]

    def place(where) -> Map | None:
        return Map(buffers[where[0]], int(where[1]), int(where[2])) if where else None

    ops = []
    for i, row in enumerate(about["ops"]):
        ops.append(Op(**{name: row[name] for name in PLAIN} | {name: place(row[name]) for name in MAPS}))
        if row["conv"]:
            arrays_ = [arrays[f"{i}.{name}"] for name in ARRAYS]
            ops[-1].conv = Conv8(*arrays_, tuple(row["conv"][:2]), tuple(row["conv"][2:]))
    outputs = [next(op.dst for op in ops if op.conv and op.dst == place(where)) for where in about["outputs"]]
    return Network8(ops, outputs, tuple(about["shape"]), about["many"], arrays["anchors"], int(about["numbers"]))


def _fits(op: Op, network: Network8) -> bool:
    """Whether an operation of a file reads and writes what is there; nothing in a file may lead the kernels beside the maps."""
    side, padded = network.shape[2], op.src.channels + -op.src.channels % PACK if op.src else network.shape[1]
    for m in op.maps:
        b = m.buffer
        inside = 0 <= m.channel < m.channel + m.channels <= b.channels <= 65536 and b.zeros.shape == (b.channels,)
        if not (inside and 0 < b.height <= side and 0 < b.width <= side and b.zeros.dtype == np.uint8):
            return False
    size, given = (op.dst.buffer.height, op.dst.buffer.width), (side, side)
    if op.src:
        given = op.src.buffer.height, op.src.buffer.width
    if op.conv:
        filters, channels, rows, columns = op.conv.weight.shape
        check(op.name, op.conv)
        final = any(op.dst is m for m in network.outputs)
        shapes = [(filters,), (filters,), (channels,), (0 if final else kernels.TABLE,)]
        arrays = [getattr(op.conv, name) for name in ARRAYS]
        kinds = [a.dtype for a in arrays] == [np.int8, np.float32, np.float32, np.uint8, np.float32]
        reads = {(1, 1): (channels,), (2, 2): (4 * channels, 4 * (channels + -channels % PACK))}[op.conv.stride]
        kernel = all(0 <= p < n <= 7 for p, n in zip(op.conv.padding, (rows, columns), strict=True))
        add = not op.add or (op.add.channels, op.add.buffer.height, op.add.buffer.width) == (filters, *size)
        right = op.kind == kernels.CONV and op.dst.channels == filters and op.src.channels in reads and given == size
        return right and kinds and kernel and add and [a.shape for a in arrays[1:]] == shapes
    if op.kind == kernels.MAXPOOL:
        return bool(op.src) and op.size in range(1, 32, 2) and given == size and op.dst.channels == op.src.channels
    channels = {1: op.src.channels if op.src else padded, 2: op.src.channels if op.src else 0, -2: 4 * padded}[op.size]
    sides = {1: given, 2: tuple(2 * n for n in given), -2: tuple(-(-n // 2) for n in given)}[op.size]
    return op.kind == kernels.MOVE and op.dst.channels == channels and sides == size
