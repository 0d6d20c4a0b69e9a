"""YOLOv5 v6 from (depth, width, classes): build it, fuse it, take its census.

Backbone and neck are ultralytics' own modules, head and loss are ours (`head`), the list of layers is in `shapes`, numbered as
in the original: 0-9 backbone, 10-23 neck, 24 Detect.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn.tasks import BaseModel, DetectionModel, parse_model
from ultralytics.utils.torch_utils import initialize_weights

from yolop.network.head import ANCHORS, STRIDES, Detect, Loss
from yolop.shapes import BACKBONE, NECK, OUTPUTS
from yolop.specs import CensusSpec, ModelSpec, require
from yolop.store import Record


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
        self.yaml = configuration(spec, nc)
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

    Output: three maps (B, 3 * (5 + nc), ny, nx), which `Detect.raw` and `Detect.decode` of its `detect` turn into predictions.
    Before a Detect of other code (the original's, ultralytics' anchor-free one), its `head`, it ends with what that reads.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.layers = model.model

    @property
    def detect(self) -> nn.Module | None:
        """Our Detect, where that is the last layer."""
        return self.layers[-1] if hasattr(self.layers[-1], "decode") else None

    @property
    def head(self) -> nn.Module | None:
        """Somebody else's Detect, where that is the last layer."""
        return self.layers[-1] if type(self.layers[-1]).__name__ == "Detect" and self.detect is None else None

    def forward(self, x):
        """The three maps of a batch (B, 3, H, W)."""
        outputs = []
        for layer in self.layers:
            inputs = [x if i == -1 else outputs[i] for i in _sources(layer)]
            if layer is self.detect:
                return [conv(feature) for conv, feature in zip(layer.m, inputs, strict=True)]
            if layer is self.head:
                return inputs
            x = layer(inputs if isinstance(layer.f, list) else inputs[0])
            outputs.append(x)
        return x


def build(spec: ModelSpec, nc: int, anchors=ANCHORS) -> nn.Module:
    """A model with random weights from torch's current seed: the anchor-based v6, or ultralytics' anchor-free YOLOv5u."""
    if spec.head == "anchor":
        return YOLOv5(spec, nc, anchors)
    config = configuration(spec, nc)
    config["head"].append([list(OUTPUTS), 1, "Detect", [nc]])
    return DetectionModel(config, nc=nc, verbose=False)


def require_unmasked(model: nn.Module) -> None:
    """SpecError for a network pruned with `torch.nn.utils.prune` whose masks are still on: its weights are not what they seem."""
    masked = next((name for name, _ in model.named_buffers() if name.endswith("_mask")), "")
    way_out = "torch.nn.utils.prune.remove(module, 'weight') for each convolution first, which makes the zeros permanent"
    require(not masked, "mask of pruning", masked, way_out)


def fused(model: nn.Module) -> nn.Module:
    """A copy for inference: batch norm folded into the convolutions, evaluation mode, float32."""
    require_unmasked(model)
    return copy.deepcopy(model).eval().float().fuse(verbose=False)


def configuration(spec: ModelSpec, nc: int) -> dict:
    """What the original's YAML file of a network says, but for its anchors and head."""

    def plain(rows):
        return [[list(f) if isinstance(f, tuple) else f, n, module, list(args)] for f, n, module, args in rows]

    multiples = {"depth_multiple": spec.depth, "width_multiple": spec.width}
    return {"nc": nc, **multiples, "backbone": plain(BACKBONE), "head": plain(NECK)}


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
        row = {
            "layer": layer.i,
            "from": [layer.i + i if i < 0 else i for i in sources],
            "module": type(layer).__name__,
            "repeats": len(layer.m) if hasattr(layer, "m") and type(layer).__name__ == "C3" else 1,
            "parameters": sum(p.numel() for p in layer.parameters()),
            "gflops": counter.get_total_flops() / 1e9,
            "output": [list(t.shape[1:]) for t in x] if isinstance(x, list) else list(x.shape[1:]),
        }
        if bool(row["gflops"]) != bool(row["parameters"]):
            what = f"{row['parameters']} parameters, {row['gflops']} GFLOPs by PyTorch"
            raise RuntimeError(f"layer {layer.i}: {what}: python -m yolop doctor")
        rows.append(row)
    return rows


def compute_census(spec: CensusSpec, parents: dict[str, Record], folder: Path) -> dict[str, list[dict]]:
    """The census of each model of a spec, by its label."""
    return {label: census(model, spec.nc, spec.imgsz) for label, model in spec.models}
