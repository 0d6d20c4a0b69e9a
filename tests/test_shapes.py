"""The one list of convolutions is that of the built networks: channels, kernels, strides, and the side that each reads."""

import pytest
import torch
from torch import nn

from yolop.network import yolov5
from yolop.shapes import convolutions_of, scaled
from yolop.specs import MODELS, ModelSpec


@pytest.mark.parametrize("spec", [*MODELS.values(), ModelSpec(0.2, 0.125)])
def test_convolutions_are_those_of_the_built_model_in_the_order_of_its_forward_pass(spec):
    met = []
    with torch.device("meta"):
        network = yolov5.fused(yolov5.build(spec, 3))
        for layer in network.model:
            for module in layer.modules():
                if isinstance(module, nn.Conv2d):
                    place = (layer.i, type(layer).__name__)
                    module.register_forward_hook(lambda m, x, _, place=place: met.append((*place, *numbers(m, x[0]))))
        yolov5.Wired(network)(torch.zeros(1, 3, 64, 64))
    expected = [(c.layer, c.kind, c.c1, c.c2, c.kernel, c.stride, 64 // c.scale) for c in convolutions_of(spec, 3)]
    assert met == expected


def numbers(conv: nn.Conv2d, x: torch.Tensor) -> tuple:
    return conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], x.shape[2]


def test_channels_round_up_to_eight_and_depth_to_nearest():
    assert scaled(0.33, 0.25) == ((1, 2, 3), (16, 32, 64, 128, 256))
    assert scaled(0.16, 0.20) == ((1, 1, 1), (16, 32, 56, 104, 208))
