"""The trainer: the same seed gives the same weights to the bit, different seeds differ, and nothing wrong passes as a result."""

import os
import pickle

import numpy as np
import pytest
import torch
from support import tiny_spec

from yolop import quiet, shapes
from yolop.network import weights, yolov5
from yolop.specs import MODELS
from yolop.train import trainer


def trained(data, folder, **changes) -> dict:
    folder.mkdir()
    return trainer.train(tiny_spec(data, **changes), data, folder)


def test_same_seed_same_weights_other_seed_other_weights(data, tmp_path):
    one, two = trained(data, tmp_path / "1"), trained(data, tmp_path / "2")
    assert one == two
    assert (tmp_path / "1/weights.safetensors").read_bytes() == (tmp_path / "2/weights.safetensors").read_bytes()
    assert trained(data, tmp_path / "3", seed=1)["weights_sha256"] != one["weights_sha256"]


def test_the_record_tells_the_whole_run(data, tmp_path, capsys):
    metrics = trained(data, tmp_path / "run", epochs=3)
    assert [row["epoch"] for row in metrics["curve"]] == [1, 2, 3]
    assert metrics["steps"] == 3 * 3  # 20 images in batches of 8
    assert [("mAP50" in row) for row in metrics["curve"]] == [False, True, True]
    assert metrics["best_epoch"] in (2, 3)
    assert metrics["parameters"] == sum(shapes.parameters(MODELS["p"], data.nc))
    assert {"mAP50", "mAP50_95", "per_class", "mAP50_resampled"} <= set(metrics["test"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "left" in lines[0]  # one line per validation, readable in a saved notebook
    again = weights.load_weights(yolov5.build(MODELS["p"], data.nc), tmp_path / "run/weights.safetensors")
    assert all(torch.isfinite(p).all() for p in again.parameters())


def test_mosaic_draws_from_all_images(data, tmp_path, monkeypatch):
    """One epoch reads each image once as the first of a mosaic, and three more for each, drawn from all of train."""
    reads, load = [], trainer.CheckedImages.load_image
    monkeypatch.setattr(trainer.CheckedImages, "load_image", lambda self, i, *a, **k: reads.append(i) or load(self, i, *a, **k))
    for mosaic, times in ((0.0, 1), (1.0, 4)):
        reads.clear()
        trained(data, tmp_path / f"{mosaic}", mosaic=mosaic, epochs=1)
        assert len(reads) == times * 20 and set(reads) == set(range(20))


def test_learning_happens(data, tmp_path):
    curve = trained(data, tmp_path / "run", epochs=12, val_every=100)["curve"]
    assert np.mean([row["box"] for row in curve[-3:]]) < np.mean([row["box"] for row in curve[:3]])


def test_threads_and_global_state_are_as_before(data, tmp_path):
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    trained(data, tmp_path / "run", epochs=1)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path):
    with pytest.raises(trainer.TrainingError, match="not finite.*lower lr0"):
        trained(data, tmp_path / "run", box=1e39)
    assert not (tmp_path / "run/weights.safetensors").exists()


def test_a_label_cache_is_never_opened(data, tmp_path):
    canary = tmp_path / "canary"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    for place in (data.root / "labels/train.cache", data.root / "labels.cache"):
        place.write_bytes(pickle.dumps(Trap()))
    try:
        trained(data, tmp_path / "run", epochs=1)
    finally:
        for place in data.root.rglob("*.cache"):
            place.unlink()
    assert not canary.exists()


def test_nothing_is_reported_and_the_users_settings_stay(tmp_path):
    from ultralytics.utils import SETTINGS, SETTINGS_FILE

    assert not any(SETTINGS[name] for name in quiet.INTEGRATIONS)
    assert str(SETTINGS_FILE).startswith(os.environ["YOLO_CONFIG_DIR"])


def test_every_argument_is_ultralytics_own_and_explicit(tmp_path, data):
    from ultralytics.cfg import get_cfg

    given = trainer.arguments(tiny_spec(data), tmp_path)
    get_cfg(overrides=given)  # refuses names that do not exist
    assert given["optimizer"] != "auto" and given["batch"] > 0 and given["amp"] is False and given["val"] is True


def test_gains_scale_as_in_the_original(data):
    assert trainer.gains(tiny_spec(data, imgsz=640, nc=80)) == {"box": 0.05, "obj": 1.0, "cls": 0.5}
    assert trainer.gains(tiny_spec(data, imgsz=320, nc=8)) == pytest.approx({"box": 0.05, "obj": 0.25, "cls": 0.05})


@pytest.mark.parametrize("init", ["matching", "largest-l1"])
def test_starting_from_another_model(data, init):
    torch.manual_seed(7)
    parent = yolov5.build(MODELS["n"], data.nc)
    started = trainer.initial_model(tiny_spec(data, init=f"{init}:some-run"), data, parent)
    fresh = trainer.initial_model(tiny_spec(data), data, None)
    changed = [
        name for name, p in started.named_parameters() if not torch.equal(p, dict(fresh.named_parameters())[name])
    ]
    own, theirs = started.state_dict(), parent.state_dict()
    assert changed  # something was carried over
    if init == "matching":
        assert all(torch.equal(own[name], theirs[name]) for name in changed)
    else:  # the stem keeps the filters of largest L1 norm, in their order
        stem, wide = own["model.0.conv.weight"], theirs["model.0.conv.weight"]
        kept = wide.abs().sum((1, 2, 3)).topk(len(stem)).indices.sort().values
        assert torch.equal(stem, wide[kept])
