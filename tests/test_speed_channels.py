"""Networks without a share of their channels: which rows belong to which share, and that they are the smaller for it."""

from pathlib import Path

import torch

from yolop.network import yolov5
from yolop.network.channels import remove_channels
from yolop.specs import MODELS
from yolop.speed import channels
from yolop.speed_specs import ChannelTimesSpec


def test_rows_are_the_whole_network_then_the_shares_and_the_whole_again():
    spec = ChannelTimesSpec(MODELS["n"], 3, 128, (0.2, 0.8), rounds=5, calls=1, threads=1)
    rows = channels.compute(spec, {}, Path())["rows"]
    assert [row["removed"] for row in rows] == [0.0, 0.2, 0.8, 0.0]
    torch.manual_seed(0)
    whole = yolov5.build(MODELS["n"], 3).eval()
    networks = (whole, remove_channels(whole, 0.2), remove_channels(whole, 0.8), whole)
    assert [row["parameters"] for row in rows] == [sum(p.numel() for p in n.parameters()) for n in networks]
    assert rows[0]["ratio"] == 1 != rows[3]["ratio"] and rows[3]["n_calls"] == 5
