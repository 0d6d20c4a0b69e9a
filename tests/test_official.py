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
from yolop.specs import MODELS

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
