"""From a model to operations over feature maps: what is fused, what lies side by side, what PyTorch has to run.

All maps lie in one array; `Layout` says where, so that no map lies on another that is needed at the same time.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from yolop.specs import require
from yolop.speed import kernels


@dataclass(eq=False)
class Buffer:
    """Feature maps side by side; `born` and `dies` are the first and the last operation that touch them."""

    channels: int
    height: int
    width: int
    born: int = -1
    dies: int = -1
    start: int = 0


@dataclass
class Map:
    """A feature map: channels of a buffer, from `channel` on."""

    buffer: Buffer
    channel: int
    channels: int


@dataclass
class Op:
    """One operation before it has numbers; `src` None is the image."""

    kind: int
    src: Map | None
    dst: Map
    size: int = 1
    conv: nn.Conv2d | None = None
    name: str = ""
    silu: bool = False
    add: Map | None = None
    node: fx.Node | None = None  # what PyTorch runs
    inputs: list = field(default_factory=list)

    @property
    def maps(self) -> list[Map]:
        """All that it reads or writes."""
        return [m for m in (self.src, self.dst, self.add, *self.inputs) if m]


class Layout:
    """Where every map of some operations lies in one array: `reach` zeros around each plane, `floats` numbers in all."""

    def __init__(self, ops: list[Op], outputs: list[Map]):
        self.reach = 1  # as far as any kernel looks beyond the edge
        for conv in (op.conv for op in ops if op.conv):
            for size, padding in zip(conv.kernel_size, conv.padding, strict=True):
                self.reach = max(self.reach, -(-padding // conv.stride[0]), (size - 1 - padding) // conv.stride[0])
        for i, op in enumerate(ops):
            for m in op.maps:
                m.buffer.born, m.buffer.dies = i if m.buffer.born < 0 else m.buffer.born, i
        for m in outputs:
            m.buffer.dies = len(ops)
        buffers, placed, total = {m.buffer for op in ops for m in op.maps}, [], 16
        for b in sorted(buffers, key=lambda b: (-b.channels * self.plane(b)[1], b.born)):
            length, b.start = b.channels * self.plane(b)[1] + 16, 16
            for other in sorted(placed, key=lambda other: other.start):
                if other.born <= b.dies and b.born <= other.dies:
                    if b.start + length <= other.start:
                        break
                    b.start = max(b.start, other.start + other.channels * self.plane(other)[1] + 16)
            placed.append(b)
            total = max(total, b.start + length)
        self.floats = total + 256

    def plane(self, buffer: Buffer) -> tuple[int, int]:
        """Length of a row and of a plane of a buffer."""
        pitch = buffer.width + self.reach
        return pitch, -(-((buffer.height + 2 * self.reach) * pitch + self.reach + kernels.LANES) // 16) * 16

    def where(self, m: Map) -> tuple[int, int, int]:
        """First pixel, length of a plane, length of a row."""
        pitch, length = self.plane(m.buffer)
        return m.buffer.start + m.channel * length + self.reach * pitch + self.reach, length, pitch


def _keeps_size(pool: nn.MaxPool2d) -> bool:
    size, rest = pool.kernel_size, (pool.stride, pool.dilation, pool.ceil_mode)
    return isinstance(size, int) and size == 2 * pool.padding + 1 and rest == (1, 1, False)


class Reader:
    """From a traced graph to operations: what is fused, what lies side by side, what PyTorch has to run."""

    def __init__(self, traced: fx.GraphModule, notes: list[str]):
        self.traced, self.notes, self.nodes = traced, notes, list(traced.graph.nodes)
        self.maps: dict[fx.Node, Map] = {}
        self.homes: dict[fx.Node, tuple[fx.Node, int]] = {}  # a part of a concatenation -> which, from what channel on
        self.ops: list[Op] = []
        images = [node for node in self.nodes if node.op == "placeholder"]
        require(len(images) == 1, "inputs", len(images), "a model that reads one image")
        self.image = images[0]

    def read(self) -> tuple[list[Op], list[Map], bool]:
        """Operations, the maps that are the outputs, and whether the model returns several."""
        outputs, absorbed = self.image, set()
        for node in filter(self._concatenates, self.nodes):
            channel = 0
            for part in node.args[0]:
                self.homes.setdefault(part, (node, channel))
                channel += self._shape(part)[1]
        for node in self.nodes:
            module = self._module(node)
            if node in absorbed or node.op in ("placeholder", "get_attr"):
                continue
            elif node.op == "output":
                outputs = node.args[0]
            elif isinstance(module, nn.Conv2d) and not self._obstacle(node, module):
                absorbed |= self._convolution(node, module)
            elif isinstance(module, nn.Upsample) and (module.scale_factor, module.mode) == (2, "nearest"):
                self.ops.append(Op(kernels.MOVE, self.maps.get(node.args[0]), self._place(node), 2))
            elif isinstance(module, nn.MaxPool2d) and _keeps_size(module):
                self.ops.append(Op(kernels.MAXPOOL, self._inside(node), self._place(node), module.kernel_size))
            elif self._concatenates(node):
                self._concatenation(node)
            else:
                self._by_torch(node, module)
        last = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        require(all(node in self.maps for node in last), "outputs", str(outputs), "one or a list of feature maps")
        return self.ops, [self.maps[node] for node in last], isinstance(outputs, (list, tuple))

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.traced.get_submodule(node.target) if node.op == "call_module" else None

    def _shape(self, node: fx.Node) -> tuple:
        return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))

    def _inside(self, node: fx.Node, stride: int = 1) -> Map:
        """What a node reads, as it lies among the maps: copied there if it is the image, split for a stride of 2."""
        source, (_, channels, height, width) = self.maps.get(node.args[0]), self._shape(node.args[0])
        if source is None or stride == 2:
            parts = Buffer(channels * stride**2, -(-height // stride), -(-width // stride))
            source, before = Map(parts, 0, parts.channels), source
            self.ops.append(Op(kernels.MOVE, before, source, -2 if stride == 2 else 1))
        return source

    def _concatenates(self, node: fx.Node) -> bool:
        if node.target is not torch.cat or (*node.args[1:], *node.kwargs.values()) != (1,):
            return False
        return self.image not in node.args[0] and all(len(self._shape(part)) == 4 for part in node.args[0])

    def _obstacle(self, node: fx.Node, conv: nn.Conv2d) -> str:
        """Why the engine cannot run a convolution; empty if it can."""
        (_, _, height, width), rows = self._shape(node.args[0]), self._shape(node)[2:]
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

    def _place(self, node: fx.Node) -> Map:
        if node not in self.maps:
            _, channels, height, width = self._shape(node)
            if node in self.homes:
                whole, channel = self.homes[node]
                around = self._place(whole)
                self.maps[node] = Map(around.buffer, around.channel + channel, channels)
            else:
                self.maps[node] = Map(Buffer(channels, height, width), 0, channels)
        return self.maps[node]

    def _convolution(self, node: fx.Node, conv: nn.Conv2d) -> set[fx.Node]:
        """A convolution with the activation and the shortcut that follow it; returns the nodes that are in it."""
        last, silu, add, inside = node, False, None, set()
        after = list(last.users)
        if len(after) == 1 and isinstance(self._module(after[0]), nn.SiLU):
            last, silu = after[0], True
            inside.add(last)
        after = list(last.users)
        if len(after) == 1 and after[0].target in (operator.add, torch.add) and len(after[0].args) == 2:
            others = [a for a in after[0].args if a is not last]
            if len(others) == 1 and others[0] in self.maps and self._shape(others[0]) == self._shape(last):
                last, add = after[0], self.maps[others[0]]
                inside.add(last)
        source = self._inside(node, conv.stride[0])
        self.ops.append(Op(kernels.CONV, source, self._place(last), 1, conv, str(node.target), silu, add))
        return inside

    def _concatenation(self, node: fx.Node) -> None:
        """Nothing to do for parts that were written in their place; the others are copied there."""
        whole, channel = self._place(node), 0
        for part in node.args[0]:
            place = Map(whole.buffer, whole.channel + channel, self._shape(part)[1])
            if (self.maps[part].buffer, self.maps[part].channel) != (place.buffer, place.channel):
                self.ops.append(Op(kernels.MOVE, self.maps[part], place))
            channel += place.channels

    def _by_torch(self, node: fx.Node, module: nn.Module | None) -> None:
        what = f"{node.name}: {type(module).__name__ if module is not None else node.target}"
        why = self._obstacle(node, module) if isinstance(module, nn.Conv2d) else ""
        good = len(self._shape(node)) == 4 and self._shape(node)[0] == 1
        inputs = [None if i is self.image else self.maps.get(i, i) for i in node.all_input_nodes]
        good = good and all(i is None or isinstance(i, Map) for i in inputs)
        require(good, "layer", what, "layers from feature maps to a feature map")
        self.notes.append(f"{what} ({why})" if why else what)
        self.ops.append(Op(-1, None, self._place(node), node=node, inputs=inputs))
