"""Networks in runtimes: rows in the order of their configurations, the same scores in each, errors that name one."""

from pathlib import Path

import pytest
import torch
from support import InThisProcess, tiny_digits

from yolop.measure import latency
from yolop.network import channels, weights, yolov5
from yolop.specs import MODELS, DigitsSpec, run_id
from yolop.speed import configurations, in_turns
from yolop.speed_specs import Configuration, ConfigurationScoresSpec, ConfigurationTimesSpec, ExportSpec
from yolop.store import Record

SIZE = 64


def record(folder: Path, metrics: dict, spec=None) -> Record:
    return Record("", {}, metrics, {}, 0.0, {}, {}, folder, spec)


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """A tiny data set, p, and p without half of its channels, both with random weights."""
    folder = tmp_path_factory.mktemp("parents")
    data = tiny_digits(folder)
    data.root.rename(folder / "dataset")
    found = {"data": record(folder, {"digest": data.digest}, DigitsSpec(train=20, val=6, test=6, imgsz=96))}
    torch.manual_seed(1)  # others than a configuration without weights gets
    whole = yolov5.build(MODELS["p"], 3).eval()
    for name, network in (("whole", whole), ("half", channels.remove_channels(whole, 0.5))):
        weights.save_weights(network, folder / name / "weights.safetensors")
        found[name] = record(folder / name, {})
    return found


def with_files(parents: dict, configuration: Configuration, folder: Path) -> dict:
    spec = ExportSpec(configuration, 3, parents["data"].metrics["digest"])
    return parents | {run_id(spec): record(folder, configurations.compute_export(spec, parents, folder))}


def test_scores_are_the_same_in_every_runtime(parents, tmp_path):
    asked = [
        Configuration(MODELS["p"], "whole", None, runtime, SIZE) for runtime in ("onnxruntime", "sparse", "pytorch")
    ]
    asked.append(Configuration(MODELS["p"], "half", None, "openvino", SIZE))
    for i, runtime in ((0, "onnx"), (3, "vino")):
        (tmp_path / runtime).mkdir()
        parents = with_files(parents, asked[i], tmp_path / runtime)
    spec = ConfigurationScoresSpec(tuple(asked), 3, parents["data"].metrics["digest"])
    rows = configurations.compute_scores(spec, parents, tmp_path)["rows"]
    names = {"label", "mAP50", "mAP50_95", "mAP50_resampled", "mAP50_95_resampled", "groups"}
    assert all(set(row) == names | {"file_mb", "compressed_mb", "max_difference"} for row in rows)
    assert [row["label"] for row in rows] == [configuration.text for configuration in asked]
    assert all(row["max_difference"] < 1e-4 for row in rows) and rows[2]["max_difference"] < 1e-6
    assert rows[0]["mAP50"] == pytest.approx(rows[2]["mAP50"], abs=1e-3)
    assert [row["file_mb"] is None for row in rows] == [False, True, True, False]
    assert rows[3]["file_mb"] < rows[0]["file_mb"] / 2  # half of the channels


def test_calibration_images_are_spread_over_train(parents):
    data = configurations.dataset_of(parents["data"])
    images = configurations.calibration_images(data, SIZE, 5)
    train = configurations.Validation(data, "train", SIZE, square=True).images
    assert len(images) == 5 and [(i.shape, i.dtype.name) for i in images] == [((3, SIZE, SIZE), "uint8")] * 5
    assert all((image == train[4 * i].numpy()).all() for i, image in enumerate(images))


@pytest.mark.parametrize("apart", [True, False])
def test_times_are_to_the_first_configuration_in_their_order(apart, parents, tmp_path, monkeypatch):
    """On a clock that says a millisecond for each pixel of a side, whatever the machine does."""
    monkeypatch.setattr(configurations, "running", lambda setup, *_: lambda: setup.imgsz)
    monkeypatch.setattr(latency, "block", lambda call, n, *_: [float(call())] * n)
    monkeypatch.setattr(in_turns, "Worker", InThisProcess)
    runtimes = {64: "pytorch", 32: "sparse", 192: "pytorch"}  # timed one runtime after the other, in another order
    asked = tuple(Configuration(MODELS["p"], imgsz=imgsz, runtime=runtime) for imgsz, runtime in runtimes.items())
    spec = ConfigurationTimesSpec("", asked, 3, rounds=5, calls=3, starts=2, apart=apart, threads=1)
    rows = configurations.compute_times(spec, parents, tmp_path)["rows"]
    assert [(row["label"], row["latency_ms"]) for row in rows] == [(setup.text, setup.imgsz) for setup in asked]
    assert [row["ratio"] for row in rows] == pytest.approx([1, 0.5, 3])  # the first is timed against itself


def test_networks_are_timed_in_processes_of_their_own(parents, tmp_path):
    asked = (Configuration(MODELS["p"], "whole", imgsz=32), Configuration(MODELS["p"], "half", imgsz=32))
    spec = ConfigurationTimesSpec("", asked, 3, rounds=5, calls=3, starts=1, apart=True, threads=1)
    rows = configurations.compute_times(spec, parents, tmp_path)["rows"]
    assert [(row["label"], row["n_calls"]) for row in rows] == [(setup.text, 5 * 3) for setup in asked]
    assert all(set(row) == {"label", "latency_ms", "p90_ms", "fps", "n_calls", *latency.ratio_of([1.0] * 5)} for row in rows)


def test_a_configuration_that_cannot_run_is_named(parents, tmp_path, monkeypatch):
    asked = (Configuration(MODELS["p"], imgsz=SIZE), Configuration(MODELS["p"], runtime="onnxruntime", imgsz=SIZE))
    parents = parents | {run_id(ExportSpec(asked[1], 3, parents["data"].metrics["digest"])): record(tmp_path, {})}
    spec = ConfigurationTimesSpec("", asked, 3, rounds=5, calls=1, starts=1, threads=1)
    monkeypatch.setattr(configurations.in_turns, "Worker", InThisProcess)
    with pytest.raises(RuntimeError, match=f"^{asked[1].text} could not be timed: "):
        configurations.compute_times(spec, parents, tmp_path)
