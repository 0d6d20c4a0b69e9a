"""Removal of channels: whole filters and all that reads them, through C3, shortcuts and concatenations.

torch-pruning finds which filters depend on each other. What remains is a smaller dense network, which every runtime runs
faster. Its widths are in no YAML file: they are the shapes of the saved tensors (`weights`).
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from yolop.specs import require

ROUND_TO = 8  # channels, as in every YOLOv5: runtimes work in vectors


def remove_channels(model: nn.Module, ratio: float, imgsz: int = 64) -> nn.Module:
    """A copy of an unfused model without the given share of each layer's channels, those of smallest L1 norm as a group.

    `ratio` is asked of every layer and rounded to multiples of 8 channels; the outputs of Detect stay. `imgsz` is the size
    in px of the image on which dependencies are traced.
    """
    require(0 <= ratio < 1, "ratio", ratio, "a share from 0 to below 1 (30 % is 0.3)")
    import torch_pruning

    smaller = copy.deepcopy(model)
    smaller.model[-1].train()  # raw maps, which the tracing of dependencies can follow
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_pruning.pruner.BasePruner(
            smaller,
            torch.zeros(1, 3, imgsz, imgsz),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
            pruning_ratio=ratio,
            ignored_layers=list(smaller.model[-1].m),
            round_to=ROUND_TO,
        ).step()
    smaller.model[-1].train(model.training)
    smaller.own_widths = True  # `weights` says so in the file
    return smaller
