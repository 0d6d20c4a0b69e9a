"""How one model's weights start another: every tensor of equal shape, or the filters of largest L1 norm."""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules import C3, SPPF, Conv

from yolop.network.head import Detect


def transfer_matching(target: nn.Module, source: dict[str, torch.Tensor]) -> list[str]:
    """Copy every tensor whose name and shape agree, except anchors, which belong to the data; returns the names.

    YOLOv5 does the same with `--weights`.
    """
    own = target.state_dict()
    names = [name for name, value in source.items() if name in own and own[name].shape == value.shape]
    names = [name for name in names if not name.endswith(".anchors")]
    target.load_state_dict(own | {name: source[name] for name in names})
    return names


@torch.no_grad()
def transfer_largest_l1(target: nn.Module, source: nn.Module) -> None:
    """Start a narrower, shallower model from a wider one: each convolution keeps its filters of largest L1 norm.

    The channels that a layer keeps are the inputs that the next one keeps, through concatenations too. A shortcut adds
    its input to its output, so a bottleneck with one keeps the channels of its input. Bottlenecks that the target lacks
    are left out; Detect is copied if the number of classes agrees.
    """
    kept: list[tuple[torch.Tensor, int]] = []  # per layer: channels kept, and how many there were
    for old, new in zip(source.model, target.model, strict=True):
        sources = new.f if isinstance(new.f, list) else [new.f]
        inputs = [kept[i] for i in sources] if kept else [(torch.arange(3), 3)]
        if isinstance(new, Detect):
            for old_conv, new_conv, (keep, _) in zip(old.m, new.m, inputs, strict=True):
                if old_conv.out_channels == new_conv.out_channels:
                    new_conv.weight.copy_(old_conv.weight[:, keep])
                    new_conv.bias.copy_(old_conv.bias)
        else:
            keep, width = _joined(inputs)
            if isinstance(new, Conv):
                keep, width = _narrow(old, new, keep), old.conv.out_channels
            elif isinstance(new, (C3, SPPF)):
                keep, width = (_narrow_c3 if isinstance(new, C3) else _narrow_sppf)(old, new, keep)
            kept.append((keep, width))


def _joined(inputs: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, int]:
    """Kept channels of a concatenation, and its width before."""
    offset, parts = 0, []
    for keep, width in inputs:
        parts.append(keep + offset)
        offset += width
    return torch.cat(parts), offset


def _narrow(old: Conv, new: Conv, inputs: torch.Tensor, outputs: torch.Tensor | None = None) -> torch.Tensor:
    """Copy the rows of a convolution and its batch norm that are kept; returns which."""
    if outputs is None:
        norms = old.conv.weight.abs().sum((1, 2, 3))
        outputs = norms.topk(new.conv.out_channels).indices.sort().values
    new.conv.weight.copy_(old.conv.weight[outputs][:, inputs])
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(new.bn, name).copy_(getattr(old.bn, name)[outputs])
    return outputs


def _narrow_c3(old: C3, new: C3, inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
    first, second = _narrow(old.cv1, new.cv1, inputs), _narrow(old.cv2, new.cv2, inputs)
    for old_block, new_block in zip(old.m, new.m, strict=False):  # the target may have fewer
        hidden = _narrow(old_block.cv1, new_block.cv1, first)
        first = _narrow(old_block.cv2, new_block.cv2, hidden, first if new_block.add else None)
    half = old.cv1.conv.out_channels
    joined, _ = _joined([(first, half), (second, half)])
    return _narrow(old.cv3, new.cv3, joined), old.cv3.conv.out_channels


def _narrow_sppf(old: SPPF, new: SPPF, inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
    hidden, half = _narrow(old.cv1, new.cv1, inputs), old.cv1.conv.out_channels
    joined, _ = _joined([(hidden, half)] * 4)
    return _narrow(old.cv2, new.cv2, joined), old.cv2.conv.out_channels
