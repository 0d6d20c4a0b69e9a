"""Weights in and out: no code runs, damage is named, and what is carried over is what was meant."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from ultralytics.nn.modules import C3

from yolop.network import checkpoints, yolov5
from yolop.network.checkpoints import CheckpointError
from yolop.specs import MODELS, ModelSpec

WEIGHTS = Path(__file__).resolve().parents[2] / "shared" / "weights" / "yolov5n-v6.0.pt"
needs_weights = pytest.mark.skipif(not WEIGHTS.exists(), reason="the official weights are not beside the project")


@needs_weights
def test_official_weights_fit_the_model_completely():
    tensors, model = checkpoints.read_official(WEIGHTS), yolov5.build(MODELS["n"], 80)
    own = model.state_dict()
    assert set(own) <= set(tensors)
    assert all(tensors[name].shape == value.shape for name, value in own.items())
    torch.testing.assert_close(tensors["model.24.anchors"], own["model.24.anchors"])


@needs_weights
def test_a_damaged_file_is_named(tmp_path):
    data = WEIGHTS.read_bytes()
    for name, content in {"cut.pt": data[: len(data) // 2], "empty.pt": b"", "text.pt": b"hello" * 100}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            checkpoints.read_official(tmp_path / name)


def archive(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
    return path


class Trap:
    """Runs a command when a plain unpickler meets it."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("call", [os.mkdir, os.system, eval, exec, __import__, torch.load])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, call):
    canary = tmp_path / "canary"
    path = archive(tmp_path / "evil.pt", pickle.dumps({"model": Trap(call, str(canary))}))
    with pytest.raises(CheckpointError, match="asks for"):
        checkpoints.read_official(path)
    assert not canary.exists()


def test_an_absent_module_is_refused_not_installed(tmp_path):
    buffer = io.BytesIO()
    buffer.write(b"\x80\x02cabsent_package_xyz\nThing\n.")
    with pytest.raises(CheckpointError, match="absent_package_xyz.Thing"):
        checkpoints.read_official(archive(tmp_path / "a.pt", buffer.getvalue()))


def test_a_tensor_outside_its_storage_is_refused():
    with pytest.raises(CheckpointError, match="outside its storage"):
        checkpoints._tensor(torch.zeros(10), 5, (3, 3), (3, 1))
    with pytest.raises(CheckpointError, match="outside its storage"):
        checkpoints._tensor(torch.zeros(10), -1, (2,), (1,))


def test_weights_come_back_to_the_bit(tmp_path):
    torch.manual_seed(0)
    model = yolov5.build(MODELS["p"], 3)
    checkpoints.save_weights(model.to(memory_format=torch.channels_last), tmp_path / "w.safetensors")
    torch.manual_seed(1)
    again = checkpoints.load_weights(yolov5.build(MODELS["p"], 3), tmp_path / "w.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_weights_of_another_model_are_refused(tmp_path):
    checkpoints.save_weights(yolov5.build(MODELS["p"], 3), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="w.safetensors does not hold the weights of this model"):
        checkpoints.load_weights(yolov5.build(MODELS["n"], 3), tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError):
        checkpoints.load_weights(yolov5.build(MODELS["p"], 3), tmp_path / "w.safetensors")


def with_statistics(spec: ModelSpec, nc: int = 3):
    """A model whose batch norm has seen data, so that nothing is trivially zero or one."""
    torch.manual_seed(0)
    model = yolov5.build(spec, nc).train()
    for _ in range(2):
        model(torch.rand(4, 3, 64, 64))
    return model.eval()


def test_largest_channels_of_the_same_shape_are_the_model_itself():
    source, target = with_statistics(MODELS["n"]), yolov5.build(MODELS["n"], 3).eval()
    checkpoints.transfer_largest_l1(target, source)
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
    checkpoints.transfer_largest_l1(target, source)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(target(x), source(x), rtol=1e-3, atol=1e-3)


def test_matching_copies_equal_shapes_and_leaves_anchors():
    source, target = yolov5.build(MODELS["n"], 3), yolov5.build(MODELS["p"], 3, anchors=torch.ones(3, 3, 2).tolist())
    names = checkpoints.transfer_matching(target, source.state_dict())
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
        checkpoints._narrow_c3(old, new, torch.arange(16))

    def largest(conv: torch.nn.Conv2d, n: int) -> torch.Tensor:
        return conv.weight.abs().sum((1, 2, 3)).topk(n).indices.sort().values

    first, hidden = largest(old.cv1.conv, 4), largest(old.m[0].cv1.conv, 4)
    assert not torch.equal(first, largest(old.m[0].cv2.conv, 4))  # else this would show nothing
    assert torch.equal(new.m[0].cv2.conv.weight, old.m[0].cv2.conv.weight[first][:, hidden])
