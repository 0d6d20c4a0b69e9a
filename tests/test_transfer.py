"""One model's weights start another: what is carried over is what was meant."""

import torch
from ultralytics.nn.modules import C3

from yolop.network import transfer, yolov5
from yolop.specs import MODELS, ModelSpec


def with_statistics(spec: ModelSpec, nc: int = 3):
    """A model whose batch norm has seen data, so that nothing is trivially zero or one."""
    torch.manual_seed(0)
    model = yolov5.build(spec, nc).train()
    for _ in range(2):
        model(torch.rand(4, 3, 64, 64))
    return model.eval()


def test_largest_channels_of_the_same_shape_are_the_model_itself():
    source, target = with_statistics(MODELS["n"]), yolov5.build(MODELS["n"], 3).eval()
    transfer.transfer_largest_l1(target, source)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(target(x), source(x))


def test_channels_that_are_zero_are_the_ones_left_out():
    """A wide model in which only as many channels live as the narrow one has computes the same as its narrow copy."""
    wide, narrow = ModelSpec(0.16, 0.25), ModelSpec(0.16, 0.125)
    source, target = with_statistics(wide), yolov5.build(narrow, 3).eval()
    widths = {name: m.out_channels for name, m in target.named_modules() if isinstance(m, torch.nn.Conv2d)}
    with torch.no_grad():
        for name, module in source.named_modules():
            if isinstance(module, torch.nn.Conv2d) and not name.startswith("model.24"):
                dead = torch.randperm(module.out_channels)[widths[name] :]
                if ".m." in name and name.endswith("cv2.conv"):  # a shortcut keeps the channels of its input
                    continue
                module.weight[dead] = 0
                norm = source.get_submodule(name.removesuffix("conv") + "bn")
                norm.weight[dead] = norm.bias[dead] = 0
        for name, module in source.named_modules():
            if name.endswith("m.0.cv2.conv"):
                first = source.get_submodule(name.removesuffix("m.0.cv2.conv") + "cv1.bn")
                dead = first.weight == 0
                module.weight[dead] = 0
                norm = source.get_submodule(name.removesuffix("conv") + "bn")
                norm.weight[dead] = norm.bias[dead] = 0
    transfer.transfer_largest_l1(target, source)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(target(x), source(x), rtol=1e-3, atol=1e-3)


def test_matching_copies_equal_shapes_and_leaves_anchors():
    source, target = yolov5.build(MODELS["n"], 3), yolov5.build(MODELS["p"], 3, anchors=torch.ones(3, 3, 2).tolist())
    names = transfer.transfer_matching(target, source.state_dict())
    own, theirs = target.state_dict(), source.state_dict()
    assert names and "model.24.anchors" not in names
    for name, value in own.items():
        same = name in theirs and theirs[name].shape == value.shape and not name.endswith("anchors")
        assert (name in names) == same
        assert not same or torch.equal(value, theirs[name])


def test_a_shortcut_keeps_the_channels_of_its_input():
    torch.manual_seed(0)
    old, new = C3(16, 16, 1, True), C3(16, 8, 1, True)
    with torch.no_grad():
        transfer._narrow_c3(old, new, torch.arange(16))

    def largest(conv: torch.nn.Conv2d, n: int) -> torch.Tensor:
        return conv.weight.abs().sum((1, 2, 3)).topk(n).indices.sort().values

    first, hidden = largest(old.cv1.conv, 4), largest(old.m[0].cv1.conv, 4)
    assert not torch.equal(first, largest(old.m[0].cv2.conv, 4))  # else this would show nothing
    assert torch.equal(new.m[0].cv2.conv.weight, old.m[0].cv2.conv.weight[first][:, hidden])
