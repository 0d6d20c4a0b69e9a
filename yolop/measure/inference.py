"""A fused network as PyTorch runs it fastest without compiling: each convolution with its SiLU in one call of oneDNN.

torch.compile with `freezing` makes the same calls, but first compiles some 10 s for every network; a point of a sweep takes
less than a second. Latency is measured without this: what users run is the network as it is.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv


def hastened(model: nn.Module) -> nn.Module | None:
    """A copy of a fused float32 model on a CPU that gives the same to rounding, sooner; None for any other model.

    Unlike what runs elsewhere, the copy may be called by several threads at once.
    """
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    plain = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
    if not (known and plain and any(map(_fits, model.modules()))):
        return None
    model = copy.deepcopy(model)
    for module in filter(_fits, model.modules()):
        module.forward = _with_silu(module.conv)
    return model


def _fits(module: nn.Module) -> bool:
    return isinstance(module, Conv) and not hasattr(module, "bn") and isinstance(module.act, nn.SiLU)


@torch.inference_mode()
def _with_silu(conv: nn.Conv2d):
    """A call that runs a convolution and SiLU, with the weights laid out once."""
    how = tuple(map(list, (conv.padding, conv.stride, conv.dilation)))
    weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *how, conv.groups)
    return partial(_run, weight, conv.bias, (*how, conv.groups, "swish", [], ""))


def _run(weight: torch.Tensor, bias: torch.Tensor | None, how: tuple, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *how)
