"""How fast a network is without a share of its channels. Untrained: time does not depend on what the weights are."""

from __future__ import annotations

from pathlib import Path

import torch

from yolop.measure import latency
from yolop.network import yolov5
from yolop.network.channels import remove_channels
from yolop.speed_specs import ChannelTimesSpec
from yolop.store import Record


def compute(spec: ChannelTimesSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Timing rows in PyTorch against the whole network: the share removed, parameters, and as of `latency.measure`.

    The whole network comes first, and once more last, as the A/A control.
    """
    torch.manual_seed(0)
    whole = yolov5.build(spec.model, spec.nc).eval()
    networks = {0.0: whole} | {share: remove_channels(whole, share) for share in spec.removed}
    with latency.threads(spec.threads):
        first = latency.forward(yolov5.fused(whole), spec.imgsz)  # the copy made first is slower than later ones: not timed
        first()
        calls = {f"{share:g}": latency.forward(yolov5.fused(net), spec.imgsz) for share, net in networks.items()}
        rows = latency.measure(calls, "0", spec.rounds, spec.calls, aa=True)
    counts = {share: sum(p.numel() for p in network.parameters()) for share, network in networks.items()}
    pairs = zip([*networks, 0.0], rows, strict=True)
    return {"rows": [{"removed": share, "parameters": counts[share]} | row for share, row in pairs]}
