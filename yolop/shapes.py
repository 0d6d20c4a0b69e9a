"""The layers of YOLOv5 v6 and their convolutions by arithmetic alone: the one list that counts, costs and searches are made of."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from yolop.specs import ModelSpec

BACKBONE = (  # from, repeats, module, arguments (channels of the full-width model first)
    (-1, 1, "Conv", (64, 6, 2, 2)),
    (-1, 1, "Conv", (128, 3, 2)),
    (-1, 3, "C3", (128,)),
    (-1, 1, "Conv", (256, 3, 2)),
    (-1, 6, "C3", (256,)),
    (-1, 1, "Conv", (512, 3, 2)),
    (-1, 9, "C3", (512,)),
    (-1, 1, "Conv", (1024, 3, 2)),
    (-1, 3, "C3", (1024,)),
    (-1, 1, "SPPF", (1024, 5)),
)
NECK = (
    (-1, 1, "Conv", (512, 1, 1)),
    (-1, 1, "nn.Upsample", (None, 2, "nearest")),
    ((-1, 6), 1, "Concat", (1,)),
    (-1, 3, "C3", (512, False)),
    (-1, 1, "Conv", (256, 1, 1)),
    (-1, 1, "nn.Upsample", (None, 2, "nearest")),
    ((-1, 4), 1, "Concat", (1,)),
    (-1, 3, "C3", (256, False)),
    (-1, 1, "Conv", (256, 3, 2)),
    ((-1, 14), 1, "Concat", (1,)),
    (-1, 3, "C3", (512, False)),
    (-1, 1, "Conv", (512, 3, 2)),
    ((-1, 10), 1, "Concat", (1,)),
    (-1, 3, "C3", (1024, False)),
)
OUTPUTS = (17, 20, 23)  # layers that feed Detect
LEVELS = (64, 128, 256, 512, 1024)  # channels of the full-width model
DEPTHS = (3, 6, 9)  # bottlenecks of C3 in the full-depth model


def scaled_width(channels: int, width: float) -> int:
    """Channels after scaling: rounded *up* to a multiple of 8."""
    return math.ceil(channels * width / 8) * 8


def scaled_depth(repeats: int, depth: float) -> int:
    """Bottlenecks after scaling: rounded to nearest, at least 1; single modules stay single."""
    return max(round(repeats * depth), 1) if repeats > 1 else repeats


class Convolution(NamedTuple):
    """One convolution: layer and kind of layer, channels in and out, kernel, stride, and px of the image per px of its input."""

    layer: int
    kind: str  # Conv | C3 | SPPF | Detect
    c1: Any  # whole numbers, or arrays of them
    c2: Any
    kernel: int
    stride: int
    scale: int

    @property
    def weights(self) -> Any:
        """How many weights it has."""
        return self.c1 * self.c2 * self.kernel**2


def scaled(depth: float, width: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bottlenecks of C3 where the full model has 3, 6 and 9, and channels of the five levels, for two multiples."""
    return tuple(scaled_depth(n, depth) for n in DEPTHS), tuple(scaled_width(c, width) for c in LEVELS)


def convolutions(repeats: tuple[int, ...], channels: Any, nc: Any) -> list[Convolution]:
    """Every convolution of layers 0 to 24, from input to output.

    Args:
        repeats, channels: as of `scaled`; channels may be arrays, one value a network.
        nc: number of classes, or an array of them.
    """
    bottlenecks, wide = dict(zip(DEPTHS, repeats, strict=True)), dict(zip(LEVELS, channels, strict=True))
    outputs, scales, found = [], [], []
    for layer, (source, n, module, arguments) in enumerate(BACKBONE + NECK):
        sources = [layer + i if i < 0 else i for i in (source if isinstance(source, tuple) else (source,))]
        c1, scale = (sum(outputs[i] for i in sources), scales[sources[0]]) if layer else (3, 1)
        c2 = wide[arguments[0]] if module in ("Conv", "C3", "SPPF") else c1
        half = c2 // 2
        inside = []
        if module == "Conv":
            inside = [(c1, c2, arguments[1], arguments[2])]
        elif module == "C3":
            block = [(half, half, 1, 1), (half, half, 3, 1)]
            inside = [(c1, half, 1, 1), *(bottlenecks[n] * block), (c1, half, 1, 1), (2 * half, c2, 1, 1)]
        elif module == "SPPF":
            inside = [(c1, c1 // 2, 1, 1), (c1 // 2 * 4, c2, 1, 1)]
        found += [Convolution(layer, module, *numbers, scale) for numbers in inside]
        outputs.append(c2)
        scales.append(scale // 2 if module == "nn.Upsample" else scale * (arguments[2] if module == "Conv" else 1))
    outputs_per_anchor = 3 * (nc + 5)
    return found + [Convolution(24, "Detect", outputs[i], outputs_per_anchor, 1, 1, scales[i]) for i in OUTPUTS]


def convolutions_of(model: ModelSpec, nc: int) -> list[Convolution]:
    """The convolutions of one model."""
    return convolutions(*scaled(model.depth, model.width), nc)


def parameters(model: ModelSpec, nc: int) -> list[int]:
    """Parameters of layers 0 to 24, without building anything: batch norm has two per filter, Detect has biases."""
    counts = [0] * 25
    for conv in convolutions_of(model, nc):
        counts[conv.layer] += conv.weights + (1 if conv.kind == "Detect" else 2) * conv.c2
    return counts
