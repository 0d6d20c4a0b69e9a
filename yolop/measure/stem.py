"""Focus, the first layer before v6.0, against the 6x6 convolution that replaced it."""

from __future__ import annotations

from pathlib import Path

import torch
from ultralytics.nn.modules import Conv, Focus

from yolop.measure import latency
from yolop.specs import StemSpec
from yolop.store import Record


@torch.no_grad()
def compute(spec: StemSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Focus (before v6.0) and the 6x6 stride-2 convolution (since): the largest difference of their outputs, and timing.

    Focus cuts the image into its four phases and convolves them 3x3 together. The same weights, laid out over the
    pixels they meet, are a 6x6 kernel: phase (dy, dx) of Focus's kernel position (i, j) sits at (2i + dy, 2j + dx).
    """
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
