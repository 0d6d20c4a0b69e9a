"""Our weights come back to the bit, and only into the model that they belong to."""

from pathlib import Path

import pytest
import torch

from yolop.network import channels, official, weights, yolov5
from yolop.network.weights import CheckpointError
from yolop.specs import MODELS, OfficialSpec, TrainSpec, identity, run_id
from yolop.store import Record

OFFICIAL = Path(__file__).resolve().parents[2] / "shared" / "weights" / "yolov5n-v6.0.pt"


def test_weights_come_back_to_the_bit(tmp_path):
    torch.manual_seed(0)
    model = yolov5.build(MODELS["p"], 3)
    weights.save_weights(model.to(memory_format=torch.channels_last), tmp_path / "w.safetensors")
    torch.manual_seed(1)
    again = weights.load_weights(yolov5.build(MODELS["p"], 3), tmp_path / "w.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_weights_of_another_model_are_refused(tmp_path):
    weights.save_weights(yolov5.build(MODELS["p"], 3), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="w.safetensors does not hold the weights of this model"):
        weights.load_weights(yolov5.build(MODELS["n"], 3), tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError):
        weights.load_weights(yolov5.build(MODELS["p"], 3), tmp_path / "w.safetensors")


def record(spec, folder: Path) -> Record:
    return Record(run_id(spec), {"kind": spec.kind} | identity(spec), {}, {}, 1.0, {}, {}, folder, spec)


def test_the_model_of_a_record_is_the_one_that_was_saved_with_its_own_widths(tmp_path):
    torch.manual_seed(0)
    spec = TrainSpec(MODELS["p"], "p", "0" * 16, 3, 64, 1, init="narrowed-0.5:train-p")
    model = channels.remove_channels(yolov5.build(spec.model, spec.nc), 0.5).eval()
    weights.save_weights(model, tmp_path / "weights.safetensors")
    again, x = weights.model_of(record(spec, tmp_path)), torch.rand(1, 3, 64, 64)
    assert not again.training and sum(p.numel() for p in again.parameters()) < sum(
        p.numel() for p in yolov5.build(spec.model, spec.nc).parameters()
    )
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the official weights are not beside the project")
def test_the_official_weights_become_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr("yolop.data.public.official_weights", lambda: OFFICIAL)
    spec = OfficialSpec(MODELS["n"], 80, "yolov5n-v6.0", "0" * 64)
    assert weights.compute(spec, {}, tmp_path) == {
        "tensors": 350,
        "parameters": 1_872_157,
    }  # as counted by the original
    tensors, model = official.read_checkpoint(OFFICIAL).tensors, weights.model_of(record(spec, tmp_path))
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
