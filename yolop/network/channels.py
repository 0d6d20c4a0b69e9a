"""Channels really removed: whole filters and all that read them, through C3, shortcuts and concatenations.

torch-pruning finds what hangs together; what is left is a smaller dense network that every runtime runs faster. Its widths
are no longer those of any YAML file: they are the shapes of the saved tensors (`checkpoints`).
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from yolop.specs import NarrowingTimesSpec, require

ROUND_TO = 8  # channels, as in every YOLOv5: runtimes work in vectors


def remove_channels(model: nn.Module, ratio: float, imgsz: int = 64) -> nn.Module:
    """A copy of an unfused model without the given share of each layer's channels, those of smallest L1 norm as a group.

    The outputs of Detect stay. `ratio` is asked of every layer and rounded to multiples of 8 channels.
    """
    require(0 <= ratio < 1, "ratio", ratio, "a share from 0 to below 1 (30 % is 0.3)")
    import torch_pruning

    narrow = copy.deepcopy(model)
    narrow.model[-1].train()  # raw maps, which the tracing of dependencies can follow
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_pruning.pruner.BasePruner(
            narrow,
            torch.zeros(1, 3, imgsz, imgsz),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
            pruning_ratio=ratio,
            ignored_layers=list(narrow.model[-1].m),
            round_to=ROUND_TO,
        ).step()
    narrow.model[-1].train(model.training)
    narrow.narrowed = True  # `checkpoints` takes the widths from the file
    return narrow


def times(spec: NarrowingTimesSpec) -> list[dict]:
    """Timing rows of a model in PyTorch with shares of its channels removed, against the whole one: `removed`, `parameters`
    and as of `latency.measure`. Untrained: how fast a network is does not depend on what its weights are."""
    from yolop.measure import latency
    from yolop.network import yolov5

    torch.manual_seed(0)
    whole = yolov5.build(spec.model, spec.nc).eval()
    found = {0.0: whole} | {share: remove_channels(whole, share) for share in spec.removed}
    with latency.threads(spec.threads):
        calls = {f"{share:g}": latency.forward(yolov5.fused(model), spec.imgsz) for share, model in found.items()}
        rows = latency.measure(calls, "0", spec.rounds, spec.calls, aa=True)
    counts = {f"{share:g}": sum(p.numel() for p in model.parameters()) for share, model in found.items()}
    shares = [row["label"].removesuffix(" (again)") for row in rows]
    return [
        {"removed": float(share), "parameters": counts[share]} | row for share, row in zip(shares, rows, strict=True)
    ]
