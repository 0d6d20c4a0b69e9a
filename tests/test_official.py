"""The original's weights: read whole, without running what their pickle asks for; damage is named."""

import os
import pickle
import sys
import zipfile
from types import ModuleType

import pytest
import torch
from support import Trap
from test_weights import OFFICIAL

from yolop.network import official, yolov5
from yolop.network.official import CheckpointError
from yolop.specs import MODELS, ModelSpec

needs_weights = pytest.mark.skipif(not OFFICIAL.exists(), reason="the official weights are not beside the project")


@needs_weights
def test_official_weights_fit_the_model_completely():
    tensors, model = official.read_official(OFFICIAL), yolov5.build(MODELS["n"], 80)
    own = model.state_dict()
    assert len(tensors) == 350 and set(own) <= set(tensors)
    assert all(tensors[name].shape == value.shape for name, value in own.items())
    assert {value.dtype for value in tensors.values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(tensors["model.24.anchors"], own["model.24.anchors"])
    with pytest.raises(CheckpointError, match="another size or number of classes"):
        official.load_official(yolov5.build(MODELS["n"], 3), tensors)


def test_ema_weights_come_first_in_float32(tmp_path, monkeypatch):
    module = ModuleType("models.yolo")
    module.Model = type("Model", (torch.nn.Module,), {"__module__": "models.yolo"})
    for name in ("models", "models.yolo"):
        monkeypatch.setitem(sys.modules, name, module)
    content = {"ema": module.Model(), "model": module.Model()}
    for value, model in zip((2.0, 3.0), content.values(), strict=True):
        model.conv = torch.nn.Conv2d(3, 4, 1)
        torch.nn.init.constant_(model.conv.weight, value)
        model.half()
    torch.save(content | {"epoch": -1, "date": "2021-10-12"}, tmp_path / "a.pt")
    tensors = official.read_official(tmp_path / "a.pt")
    assert tensors["conv.weight"].dtype == torch.float32 and (tensors["conv.weight"] == 2).all()
    torch.save(content | {"ema": None}, tmp_path / "b.pt")
    assert (official.read_official(tmp_path / "b.pt")["conv.weight"] == 3).all()


@needs_weights
def test_a_damaged_file_is_named(tmp_path):
    data = OFFICIAL.read_bytes()
    place = len(data) // 2  # inside some tensor, whose other bytes stay as they are
    flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    damaged = {"cut.pt": data[:place], "empty.pt": b"", "text.pt": b"hello" * 100, "flipped.pt": flipped}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            official.read_official(tmp_path / name)


def test_a_file_that_would_run_code_is_refused_by_the_name_it_asks_for(tmp_path):
    torch.save({"model": Trap(os.mkdir, str(tmp_path / "canary"))}, tmp_path / "evil.pt")
    with pytest.raises(
        CheckpointError, match=r"the file asks for \w+.mkdir: only tensors and plain containers are read"
    ):
        official.read_official(tmp_path / "evil.pt")
    torch.save({"model": Trap(os.mkdir, str(tmp_path / "canary"))}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="old.pt is no zip archive"):
        official.read_official(tmp_path / "old.pt")
    assert not (tmp_path / "canary").exists()
    with zipfile.ZipFile(tmp_path / "evil.pt") as archive:  # what an unpickler does with it
        pickle.loads(archive.read("evil/data.pkl"))
    assert (tmp_path / "canary").exists()


CASES = OFFICIAL.parents[1] / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="no cases beside the project")


def test_a_file_of_the_ultralytics_package_is_named(tmp_path):
    from ultralytics.nn.tasks import DetectionModel

    torch.save({"model": DetectionModel("yolov8n.yaml", verbose=False)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt holds a network of the ultralytics package \(YOLOv5u, YOLOv8"):
        official.read_official(tmp_path / "a.pt")


@needs_cases
@pytest.mark.parametrize("case", ["15-checkpoint-with-a-path", "16-checkpoint-not-stripped-numpy2"])
def test_checkpoints_as_the_original_writes_them_today_are_read(case):
    """A path among the settings and numbers of NumPy 2 are inert, and nothing that we need."""
    model = yolov5.build(ModelSpec(0.2, 0.125), 3)
    tensors = official.read_official(CASES / case / "best.pt")
    official.load_official(model, tensors)
    assert len(tensors) == 325 and all(torch.equal(v, tensors[name]) for name, v in model.state_dict().items())


@needs_cases
def test_a_state_dict_is_read_where_one_says_what_it_is(tmp_path):
    path = CASES / "18-checkpoint-of-a-state-dict" / "best.pt"
    with pytest.raises(CheckpointError, match=r"best\.pt is a state dict, .* read_official\(path, state_dict=True\)"):
        official.read_official(path)
    official.load_official(yolov5.build(ModelSpec(0.2, 0.125), 3), official.read_official(path, state_dict=True))


class Stranger(torch.nn.Module):
    """What a class of another code looks like in a file; its name is given to each subclass."""


def saved(path, monkeypatch, spoil, whole=lambda network: network):
    """A checkpoint of our n as the original's classes would have written it, after `spoil` has changed its layers."""
    module = ModuleType("models.yolo")
    for name in ("models", "models.yolo"):
        monkeypatch.setitem(sys.modules, name, module)

    def stranger(kind, **buffers):
        if not hasattr(module, kind):
            setattr(module, kind, type(kind, (Stranger,), {"__module__": "models.yolo", "__qualname__": kind}))
        made = getattr(module, kind)()
        for name, value in buffers.items():
            setattr(made, name, value)
        return made

    layers = [stranger(kind) for kind in official.LAYERS]
    layers[0].bn, layers[1].act, layers[-1].nl = torch.nn.BatchNorm2d(4), torch.nn.SiLU(), 3
    spoil(layers, stranger)
    network = stranger("Model", model=torch.nn.Sequential(*layers))
    torch.save({"model": whole(network)}, path)
    return path


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda layers, stranger: setattr(layers[1], "act", torch.nn.LeakyReLU(0.1)), "a YOLOv5 with LeakyReLU in place of SiLU"),
    (lambda layers, stranger: setattr(layers[-1], "nl", 4), r"a network with 4 outputs \(P6 or P2\)"),
    (lambda layers, stranger: layers.__setitem__(0, stranger("Focus")), "of before v6.0, whose first layer is Focus"),
    (lambda layers, stranger: layers.__setitem__(4, stranger("C2f")), r"another network \(25 layers, the last Detect\)"),
    (lambda layers, stranger: delattr(layers[0], "bn"), r"fused \(its batch norm is folded away\)"),
    (lambda layers, stranger: layers[1].register_buffer("weight_mask", torch.ones(1)), r"masks that are still on \(model\.1"),
])  # fmt: skip
def test_a_network_that_we_do_not_build_is_refused_by_its_name(tmp_path, monkeypatch, spoil, words):
    with pytest.raises(CheckpointError, match=rf"a\.pt is .*{words}.*this project builds"):
        official.read_official(saved(tmp_path / "a.pt", monkeypatch, spoil))


def test_a_network_of_ours_is_read_also_from_several_devices(tmp_path, monkeypatch):
    plain = official.read_official(saved(tmp_path / "a.pt", monkeypatch, lambda layers, stranger: None))
    wrapped = official.read_official(
        saved(tmp_path / "b.pt", monkeypatch, lambda layers, stranger: None, lambda network: torch.nn.DataParallel(network))
    )
    assert plain.keys() == wrapped.keys() and "model.0.bn.weight" in plain
