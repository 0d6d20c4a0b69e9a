"""From a model to operations over feature maps: what is fused, what lies side by side, what PyTorch has to run."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from yolop.network.yolov5 import Wired
from yolop.specs import SpecError, require
from yolop.speed import kernels
from yolop.speed.tiles import NONE, PACK, SILU


@dataclass(eq=False)
class Buffer:
    """Feature maps side by side; in 8 bits `zeros` are the zero points of its channels.

    `program` writes down the first and the last operation that touch them, where they start, and the words of a row, of a plane
    and of the whole.
    """

    channels: int
    height: int
    width: int
    zeros: np.ndarray | None = None
    born: int = -1
    dies: int = -1
    start: int = 0
    pitch: int = 0
    plane: int = 0
    words: int = 0


@dataclass
class Map:
    """A feature map: channels of a buffer, from `channel` on."""

    buffer: Buffer
    channel: int
    channels: int

    @property
    def own(self) -> slice:
        """Its channels of the buffer."""
        return slice(self.channel, self.channel + self.channels)


@dataclass
class Conv:
    """A convolution, in float32 or in 8 bits.

    Attributes:
        weight: (filters, channels, rows, columns) float32 or int8.
        bias: (filters,) float32.
        scale: (filters,) float32: in 8 bits a sum of products times `scale` plus `bias` is the real value.
        zero: (channels,) uint8, zero points of what it reads.
        table: (kernels.NUMBERS,) float32, what follows in 8 bits; empty where the result stays float32.
    """

    weight: np.ndarray
    bias: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int]
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None
    table: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def numbers(self) -> np.ndarray:
        """What `tiles` wants of each filter, (filters, 4) float32: where its sum begins; in 8 bits an int32, scale, bias."""
        numbers = np.zeros((len(self.weight), 4), np.float32)
        if self.scale is None:
            numbers[:, 0] = self.bias
        else:
            products = self.weight.astype(np.int64) * self.zero[:, None, None]
            numbers.view(np.int32)[:, 0] = -products.sum(axis=(1, 2, 3))
            numbers[:, 1], numbers[:, 2] = self.scale, self.bias
        return numbers


@dataclass
class Op:
    """One operation before it has numbers; `src` None is the image."""

    kind: int
    src: Map | None
    dst: Map
    size: int = 1
    conv: Conv | None = None
    name: str = ""
    act: int = NONE  # that follows a convolution, of tiles
    add: Map | None = None
    node: fx.Node | None = None  # whose value `dst` is; None where it comes from a file
    inputs: list = field(default_factory=list)  # of what PyTorch runs, whose kind is TORCH

    @property
    def maps(self) -> list[Map]:
        """All that it reads or writes."""
        return [m for m in (self.src, self.dst, self.add, *self.inputs) if m]


@dataclass
class Network:
    """A network as operations, in float32 or in 8 bits, for an image of `shape`.

    Attributes:
        outputs: the maps it ends with; `many`: it gives several.
        anchors, numbers: of Detect, (9, 2) and 5 + classes; 0 numbers: it gives maps.
        notes: what PyTorch runs, or what 8 bits cut off.
        graph: as traced; None where it comes from a file.
        head: what PyTorch makes of the maps.
    """

    ops: list[Op]
    outputs: list[Map]
    shape: tuple[int, ...]
    many: bool
    anchors: np.ndarray
    numbers: int
    notes: list[str] = field(default_factory=list)
    graph: fx.GraphModule | None = None
    head: Callable | None = None

    @property
    def pack(self) -> int:
        """Channels in a word: 4 in 8 bits."""
        return PACK if any(op.conv and op.conv.scale is not None for op in self.ops) else 1

    def ends(self, op: Op) -> bool:
        """Whether it is a convolution that gives one of the outputs."""
        return op.conv is not None and any(op.dst is m for m in self.outputs)


def traced(model: nn.Module, shape: tuple[int, ...]) -> Network:
    """A model traced by torch.fx for one image of a shape."""
    wired = Wired(model) if all(hasattr(layer, "f") for layer in getattr(model, "model", [None])) else model
    detect, head = (wired.detect, wired.head) if isinstance(wired, Wired) else (None, None)
    notes = [f"the head, {type(head).__module__}.Detect, by PyTorch"] if head is not None else []
    try:
        graph = fx.GraphModule(wired, fx.Tracer().trace(wired))
        with torch.no_grad():
            ShapeProp(graph).propagate(torch.zeros(shape))
    except Exception as error:  # models can fail to trace in any way
        raise SpecError(f"this model cannot be traced by torch.fx for {shape}: {error}") from error
    ops, outputs, many = Reader(graph, notes).read()
    network = Network(ops, outputs, shape, many, np.zeros((0, 2), np.float32), 0, notes, graph, head)
    if detect is not None and sum(map(network.ends, ops)) == len(outputs):
        network.anchors, network.numbers = detect.anchors.numpy().reshape(-1, 2), detect.no
    elif detect is not None:
        network.head = lambda maps: detect.decode(detect.raw(maps))
    return network


def _shape(node: fx.Node) -> tuple:
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _keeps_size(pool: nn.MaxPool2d) -> bool:
    size, rest = pool.kernel_size, (pool.stride, pool.dilation, pool.ceil_mode)
    return isinstance(size, int) and size == 2 * pool.padding + 1 and rest == (1, 1, False)


def _obstacle(node: fx.Node, conv: nn.Conv2d) -> str:
    """Why the engine cannot run a convolution; empty if it can."""
    (height, width), rows = _shape(node.args[0])[2:], _shape(node)[2:]
    stride, padded = conv.stride[0], conv.padding_mode != "zeros" or isinstance(conv.padding, str)
    reasons = {
        f"{conv.groups} groups": conv.groups != 1,
        f"dilation {conv.dilation}": conv.dilation != (1, 1),
        f"padding {conv.padding} with {conv.padding_mode}": padded,
        f"stride {conv.stride}": conv.stride not in ((1, 1), (2, 2)),
        f"{height}x{width} px to {rows[0]}x{rows[1]}": rows != (-(-height // stride), -(-width // stride)),
        f"kernel {conv.kernel_size}": max(conv.kernel_size) > 7,
    }
    return next((why for why, wrong in reasons.items() if wrong), "")


class Reader:
    """From a traced graph to operations: what is fused, what lies side by side, what PyTorch has to run."""

    def __init__(self, graph: fx.GraphModule, notes: list[str]):
        self.graph, self.notes, self.nodes = graph, notes, list(graph.graph.nodes)
        self.maps: dict[fx.Node, Map] = {}
        self.homes: dict[fx.Node, tuple[fx.Node, int]] = {}  # a part of a concatenation -> which, from what channel on
        self.ops: list[Op] = []
        self.absorbed: set[fx.Node] = set()  # what convolutions contain
        images = [node for node in self.nodes if node.op == "placeholder"]
        require(len(images) == 1, "inputs", len(images), "a model that reads one image")
        self.image = images[0]

    def read(self) -> tuple[list[Op], list[Map], bool]:
        """Operations, the maps that are the outputs, and whether the model returns several."""
        for node in filter(self._concatenates, self.nodes):
            channel = 0
            for part in node.args[0]:
                self.homes.setdefault(part, (node, channel))
                channel += _shape(part)[1]
        for node in self.nodes:
            module = self._module(node)
            if node in self.absorbed or node.op in ("placeholder", "get_attr", "output"):
                continue
            elif isinstance(module, nn.Conv2d) and not _obstacle(node, module):
                self._convolution(node, module)
            elif isinstance(module, nn.Upsample) and (module.scale_factor, module.mode) == (2, "nearest"):
                self.ops.append(Op(kernels.MOVE, self.maps.get(node.args[0]), self._place(node), 2))
            elif isinstance(module, nn.MaxPool2d) and _keeps_size(module):
                self.ops.append(Op(kernels.MAXPOOL, self._inside(node), self._place(node), module.kernel_size))
            elif self._concatenates(node):
                self._concatenation(node)
            else:
                self._by_torch(node, module)
        outputs = self.nodes[-1].args[0]
        last, many = (outputs, True) if isinstance(outputs, (list, tuple)) else ([outputs], False)
        require(all(node in self.maps for node in last), "outputs", str(outputs), "one or a list of feature maps")
        return self.ops, [self.maps[node] for node in last], many

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.graph.get_submodule(node.target) if node.op == "call_module" else None

    def _concatenates(self, node: fx.Node) -> bool:
        if node.target is not torch.cat or (*node.args[1:], *node.kwargs.values()) != (1,):
            return False
        return self.image not in node.args[0] and all(len(_shape(part)) == 4 for part in node.args[0])

    def _inside(self, node: fx.Node, stride: int = 1) -> Map:
        """What a node reads, as it lies among the maps: copied there if it is the image, split for a stride of 2."""
        source, (_, channels, height, width) = self.maps.get(node.args[0]), _shape(node.args[0])
        if source is None or stride == 2:
            parts = Buffer(channels * stride**2, -(-height // stride), -(-width // stride))
            source, before = Map(parts, 0, parts.channels), source
            self.ops.append(Op(kernels.MOVE, before, source, -2 if stride == 2 else 1))
        return source

    def _place(self, node: fx.Node) -> Map:
        if node not in self.maps:
            _, channels, height, width = _shape(node)
            whole, channel = self.homes.get(node, (None, 0))
            around = self._place(whole) if whole else Map(Buffer(channels, height, width), 0, channels)
            self.maps[node] = Map(around.buffer, around.channel + channel, channels)
        return self.maps[node]

    def _convolution(self, node: fx.Node, conv: nn.Conv2d) -> None:
        """A convolution with the activation and the shortcut that follow it."""
        bias = np.zeros(conv.out_channels, np.float32) if conv.bias is None else conv.bias.detach().numpy()
        own = Conv(conv.weight.detach().numpy(), bias, conv.stride, conv.padding)
        op = Op(kernels.CONV, self._inside(node, conv.stride[0]), None, 1, own, str(node.target), node=node)
        if len(node.users) == 1 and isinstance(self._module(next(iter(node.users))), nn.SiLU):
            (op.node,), op.act = node.users, SILU
        after = next(iter(op.node.users), None)
        if len(op.node.users) == 1 and after.target in (operator.add, torch.add) and len(after.args) == 2:
            others = [a for a in after.args if a is not op.node]
            if len(others) == 1 and others[0] in self.maps and _shape(others[0]) == _shape(op.node):
                self.absorbed.add(op.node)
                op.node, op.add = after, self.maps[others[0]]
        op.dst = self._place(op.node)
        self.absorbed.add(op.node)
        self.ops.append(op)

    def _concatenation(self, node: fx.Node) -> None:
        """Nothing to do for parts that were written in their place; the others are copied there."""
        whole, channel = self._place(node), 0
        for part in node.args[0]:
            place = Map(whole.buffer, whole.channel + channel, _shape(part)[1])
            if self.maps[part] != place:
                self.ops.append(Op(kernels.MOVE, self.maps[part], place))
            channel += place.channels

    def _by_torch(self, node: fx.Node, module: nn.Module | None) -> None:
        what = f"{node.name}: {type(module).__name__ if module is not None else node.target}"
        inputs = [None if i is self.image else self.maps.get(i, i) for i in node.all_input_nodes]
        good = len(_shape(node)) == 4 and _shape(node)[0] == 1 and all(i is None or isinstance(i, Map) for i in inputs)
        require(good, "layer", what, "layers from feature maps to a feature map")
        why = _obstacle(node, module) if isinstance(module, nn.Conv2d) else ""
        self.notes.append(f"{what} ({why})" if why else what)
        self.ops.append(Op(kernels.TORCH, None, self._place(node), node=node, inputs=inputs))
