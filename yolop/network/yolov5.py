"""YOLOv5 v6 from (depth, width, classes): build it, take its census, count it in closed form.

Backbone and neck are ultralytics' own modules, head and loss are ours (`head`). Layers are numbered as in the original:
0-9 backbone, 10-23 neck, 24 Detect.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn.modules import Conv, Focus
from ultralytics.nn.tasks import BaseModel, DetectionModel, parse_model
from ultralytics.utils.torch_utils import initialize_weights

from yolop.network.head import ANCHORS, STRIDES, Detect, Loss
from yolop.specs import ModelSpec, StemSpec, scaled_depth, scaled_width

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


class YOLOv5(BaseModel):
    """A YOLOv5 v6 with the anchor-based head, as the paper used it.

    Input (B, 3, H, W) in 0..1, sides multiples of 32. Output as of `head.Detect`; a dict (a batch of ultralytics'
    loader) gives the loss. Batch norm has the original's eps 1e-3 and momentum 0.03.

    Args:
        spec: depth and width multiples.
        nc: number of classes.
        anchors: (3, 3, 2) in pixels.
    """

    def __init__(self, spec: ModelSpec, nc: int, anchors=ANCHORS):
        super().__init__()
        self.spec, self.nc = spec, nc
        self.yaml = _yaml(spec, nc)
        layers, _ = parse_model(copy.deepcopy(self.yaml), ch=3, verbose=False)
        detect = Detect(nc, anchors, tuple(layers[i].cv3.conv.out_channels for i in OUTPUTS))
        detect.i, detect.f, detect.type = len(layers), list(OUTPUTS), "Detect"
        detect.np = sum(p.numel() for p in detect.parameters())
        self.model = nn.Sequential(*layers, detect)
        self.save = sorted({i % len(layers) for layer in self.model for i in _sources(layer) if i != -1})
        self.stride, self.names = torch.tensor(STRIDES, dtype=torch.float32), {i: str(i) for i in range(nc)}
        initialize_weights(self)

    def loss(self, batch: dict, preds=None):
        """The loss of a batch; the forward pass in bfloat16 where training asked for it.

        ultralytics' own autocast refuses bfloat16 on a CPU, where recent processors compute it twice as fast.
        """
        if preds is None:
            with torch.autocast(batch["img"].device.type, torch.bfloat16, enabled=getattr(self, "bfloat16", False)):
                preds = self(batch["img"])
        return super().loss(batch, preds)

    def init_criterion(self) -> Loss:
        """The loss with the gains that training put on the model, or the original's defaults."""
        return Loss(self.model[-1], **getattr(self, "gains", {}))


class Wired(nn.Module):
    """The layers of a YOLOv5 called one after the other, with Detect as far as its convolutions: what a runtime runs.

    Output: three maps (B, 3 * (5 + nc), ny, nx), which `Detect.raw` and `Detect.decode` turn into predictions.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.layers = model.model

    def forward(self, x):
        outputs = []
        for layer in self.layers:
            found = [x if i == -1 else outputs[i] for i in _sources(layer)]
            if hasattr(layer, "decode"):
                return [conv(feature) for conv, feature in zip(layer.m, found, strict=True)]
            x = layer(found if isinstance(layer.f, list) else found[0])
            outputs.append(x)
        return x


def build(spec: ModelSpec, nc: int, anchors=ANCHORS) -> nn.Module:
    """A model with random weights from torch's current seed: the anchor-based v6, or ultralytics' anchor-free YOLOv5u."""
    if spec.head == "anchor":
        return YOLOv5(spec, nc, anchors)
    config = _yaml(spec, nc)
    config["head"].append([list(OUTPUTS), 1, "Detect", [nc]])
    return DetectionModel(config, nc=nc, verbose=False)


def fused(model: nn.Module) -> nn.Module:
    """A copy for inference: batch norm folded into the convolutions, evaluation mode, float32."""
    return copy.deepcopy(model).eval().float().fuse(verbose=False)


def _yaml(spec: ModelSpec, nc: int) -> dict:
    def plain(rows):
        return [[list(f) if isinstance(f, tuple) else f, n, module, list(args)] for f, n, module, args in rows]

    return {
        "nc": nc,
        "depth_multiple": spec.depth,
        "width_multiple": spec.width,
        "backbone": plain(BACKBONE),
        "head": plain(NECK),
    }


def _sources(layer: nn.Module) -> list[int]:
    return layer.f if isinstance(layer.f, list) else [layer.f]


@torch.no_grad()
def census(spec: ModelSpec, nc: int, imgsz: int) -> list[dict]:
    """One row per layer: index, sources, module, repeats, parameters, GFLOPs (2 x multiply-adds), output shape.

    Runs on shapes alone (torch's meta device), so it costs nothing and needs no weights.
    """
    with torch.device("meta"):
        model = build(spec, nc).eval()
        x = torch.zeros(1, 3, imgsz, imgsz)
    model.model[-1].train()  # raw maps: decoding has no multiply-adds worth counting
    outputs, rows = [], []
    for layer in model.model:
        sources = _sources(layer)
        inputs = [x if i == -1 else outputs[i] for i in sources]
        with FlopCounterMode(display=False) as counter:
            x = layer(inputs if isinstance(layer.f, list) else inputs[0])
        outputs.append(x)
        index = layer.i
        rows.append(
            {
                "layer": index,
                "from": [index + i if i < 0 else i for i in sources],
                "module": type(layer).__name__,
                "repeats": len(layer.m) if hasattr(layer, "m") and type(layer).__name__ == "C3" else 1,
                "parameters": sum(p.numel() for p in layer.parameters()),
                "gflops": counter.get_total_flops() / 1e9,
                "output": [list(t.shape[1:]) for t in x] if isinstance(x, list) else list(x.shape[1:]),
            }
        )
        counted, weights = rows[-1]["gflops"], rows[-1]["parameters"]
        if bool(counted) != bool(weights):
            raise RuntimeError(
                f"layer {index}: {weights} parameters, {counted} GFLOPs by PyTorch: python -m yolop doctor"
            )
    return rows


def closed_form_parameters(depth: float, width: float, nc: int) -> list[int]:
    """Parameters of layers 0-24 by arithmetic on shapes, without building anything.

    A convolution of c1 to c2 channels with kernel k and batch norm has c1 * c2 * k * k + 2 * c2. C3 splits into two
    halves, runs `n` bottlenecks (1x1 then 3x3) in one and joins them. Detect has 1x1 convolutions with bias.
    """

    def conv(c1: int, c2: int, k: int) -> int:
        return c1 * c2 * k * k + 2 * c2

    channels, counts = [], []
    for index, (source, repeats, module, args) in enumerate(BACKBONE + NECK):
        sources = source if isinstance(source, tuple) else (source,)
        c1 = sum(channels[index + i if i < 0 else i] for i in sources) if index else 3
        c2 = scaled_width(args[0], width) if module in ("Conv", "C3", "SPPF") else c1
        half = c2 // 2
        count = 0
        if module == "Conv":
            count = conv(c1, c2, args[1])
        elif module == "C3":
            count = 2 * conv(c1, half, 1) + conv(2 * half, c2, 1)
            count += scaled_depth(repeats, depth) * (conv(half, half, 1) + conv(half, half, 3))
        elif module == "SPPF":
            count = conv(c1, c1 // 2, 1) + conv(c1 // 2 * 4, c2, 1)
        channels.append(c2)
        counts.append(count)
    return [*counts, sum((channels[i] + 1) * 3 * (nc + 5) for i in OUTPUTS)]


@torch.no_grad()
def compare_stems(spec: StemSpec) -> dict:
    """Focus (before v6.0) and the 6x6 stride-2 convolution (since): the largest difference of their outputs, and timing.

    Focus cuts the image into its four phases and convolves them 3x3 together. The same weights, laid out over the
    pixels they meet, are a 6x6 kernel: phase (dy, dx) of Focus's kernel position (i, j) sits at (2i + dy, 2j + dx).
    """
    from yolop.measure import latency

    torch.manual_seed(0)
    focus, stem = Focus(3, spec.channels, 3).eval(), Conv(3, spec.channels, 6, 2, 2).eval()
    stem.bn.load_state_dict(focus.conv.bn.state_dict())
    phases = focus.conv.conv.weight.view(spec.channels, 4, 3, 3, 3)  # filter, phase, colour, i, j
    for phase, (dy, dx) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):  # the order in which Focus joins them
        stem.conv.weight[:, :, dy::2, dx::2] = phases[:, phase]
    image = torch.rand(1, 3, spec.imgsz, spec.imgsz)
    difference = (focus(image) - stem(image)).abs().max().item()
    with latency.threads(spec.threads), torch.inference_mode():
        calls = {"Focus": lambda: focus(image), "Conv 6x6": lambda: stem(image)}
        rows = latency.measure(calls, "Focus", spec.rounds, spec.calls, aa=True)
    return {"max_difference": difference, "max_output": focus(image).abs().max().item(), "rows": rows}
