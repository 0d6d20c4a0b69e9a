"""The hastened network gives what the plain one gives, for several threads at once, and other models are left alone."""

from __future__ import annotations

import numpy as np
import torch
from support import network

from yolop.data import digits
from yolop.measure.evaluation import Validation, _matched
from yolop.measure.inference import hastened
from yolop.network import yolov5
from yolop.specs import MODELS, DigitsSpec


def test_it_gives_what_the_plain_network_gives():
    model, images = network("p", 0.5), torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quick = hastened(model)
    with torch.inference_mode():
        for layout in (torch.contiguous_format, torch.channels_last):
            x = images.to(memory_format=layout)
            torch.testing.assert_close(quick(x), model(x), rtol=1e-5, atol=1e-4)  # atol: boxes are in pixels
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    quick.model[0].forward = None
    assert callable(model.model[0].forward)  # a copy


def test_other_models_are_left_alone():
    assert hastened(yolov5.build(MODELS["p"], 3)) is None  # not fused
    assert hastened(network("p").double()) is None
    assert hastened(torch.nn.Conv2d(3, 3, 1)) is None


def test_detections_do_not_depend_on_the_number_of_workers(tmp_path):
    data = digits.generate(DigitsSpec(train=4, val=20, test=4, imgsz=96), tmp_path / "digits")
    validation, model, before, found = Validation(data, "val", 64), network("p"), torch.get_num_threads(), []
    for conv in (module for module in model.modules() if isinstance(module, torch.nn.Conv2d)):
        conv.weight.data.mul_(3)  # or what is seen would not depend on the image
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(_matched(model, validation))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        assert len(one[1]) and all(map(np.array_equal, one, three))
    assert len({part[1].tobytes() for part in found[0]}) == 20  # each image has its own
