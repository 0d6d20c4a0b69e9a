"""Other runtimes give what PyTorch gives; each is timed in a process of its own; what cannot run says so."""

import json

import numpy as np
import pytest
import torch

from yolop.measure import latency
from yolop.network import yolov5
from yolop.specs import MODELS, SpecError
from yolop.speed import runtimes, tiles
from yolop.speed_specs import RUNTIMES, Configuration

IMGSZ = 64
TOLERANCE = {"openvino-bf16": 0.05, "openvino-int8": 0.2, "sparse-int8": 0.05}  # of scores and objectness, 0..1; others are float32


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return yolov5.fused(yolov5.build(MODELS["p"], 3))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_predictions_are_pytorchs(model, tmp_path, runtime, capsys):
    if runtime == "sparse-int8" and not tiles.VNNI:
        pytest.skip("this processor has no AVX-512 VNNI")
    pixels = torch.rand(1, IMGSZ, IMGSZ, 3, generator=torch.Generator().manual_seed(1))
    image = pixels.permute(0, 3, 1, 2)  # as pictures come out of a file: not contiguous
    if runtime in runtimes.FILES:
        calibration = np.random.default_rng(0).integers(0, 256, (8, 3, IMGSZ, IMGSZ), np.uint8)
        runtimes.export(model, runtime, IMGSZ, tmp_path, calibration)
        assert not capsys.readouterr().out, "progress bars between the lines of a run"
        assert {path.name for path in tmp_path.iterdir()} == set(runtimes.FILES[runtime])
        sizes = runtimes.sizes(tmp_path)
        assert 0 < sizes["compressed_mb"] < sizes["file_mb"]
    with latency.threads(1):
        found = runtimes.load(runtime, tmp_path, model, IMGSZ, 1)(image)
    with torch.no_grad():
        expected = model(image)
    assert found.shape == expected.shape
    torch.testing.assert_close(found[..., 4:], expected[..., 4:], rtol=0, atol=TOLERANCE.get(runtime, 1e-5))
    if runtime not in TOLERANCE:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_a_batch_is_scored_image_by_image(model):
    images = torch.rand(3, 3, IMGSZ, IMGSZ)
    with torch.no_grad():
        torch.testing.assert_close(runtimes.OneByOne(model)(images), model(images))


def test_unknown_runtimes_and_missing_calibration_are_refused(model, tmp_path):
    with pytest.raises(SpecError, match="runtime = 'tflite'"):
        runtimes.export(model, "tflite", IMGSZ, tmp_path)
    with pytest.raises(SpecError, match="calibration"):
        runtimes.export(model, "openvino-int8", IMGSZ, tmp_path, [])
    with pytest.raises(SpecError, match="calibration"):
        runtimes.export(model, "sparse-int8", IMGSZ, tmp_path)
    with pytest.raises(SpecError, match="runtime"):
        Configuration(MODELS["p"], runtime="tflite")


def test_exported_files_come_with_what_a_program_needs_to_know(tmp_path):
    for runtime in runtimes.FILES:
        runtimes.describe(tmp_path, runtime, ("a", "b"), 64, [[[1, 2]]])
        content = json.loads((tmp_path / "model.json").read_text())
        assert content["input"]["shape"] == [1, 3, 64, 64] and content["names"] == ["a", "b"]
        assert ("anchors" in content["output"]) == (runtime == "ncnn")
    assert "NMS" in content["postprocessing"] and "114" in content["preprocessing"]
