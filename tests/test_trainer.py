"""The trainer: the same seed gives the same weights to the bit, different seeds differ, and nothing wrong passes as a result."""

import copy
import math
import os
import pickle

import numpy as np
import pytest
import torch
from support import tiny_spec

from yolop import shapes
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


# --- what a training does with its spec -------------------------------------------------------------------------------

STILL = {"scale": 0.0, "translate": 0.0, "fliplr": 0.0, "hsv": (0.0, 0.0, 0.0)}


def batches_of(data, folder, monkeypatch, **changes) -> list[dict]:
    """The batches that a training of one epoch sees, images 0..1."""
    seen, prepare = [], trainer.Trainer.preprocess_batch
    monkeypatch.setattr(trainer.Trainer, "preprocess_batch", lambda self, b: seen.append(prepare(self, b)) or seen[-1])
    trainer.train(tiny_spec(data, epochs=1, **changes), data, folder)
    return seen


def test_images_and_labels_reach_the_network_as_they_are(data, tmp_path, monkeypatch):
    """Without augmentation a batch holds the photographs of train, in RGB, and the boxes and classes of their own labels."""
    split = data.splits["train"]
    labels = dict(zip(map(str, split.images), split.labels, strict=True))
    for batch in batches_of(data, tmp_path, monkeypatch, **STILL, imgsz=96):
        for i, file in enumerate(batch["im_file"]):
            own = batch["batch_idx"] == i
            found = torch.cat((batch["cls"][own], batch["bboxes"][own]), 1).numpy()
            np.testing.assert_allclose(found[np.lexsort(found.T)], labels[file][np.lexsort(labels[file].T)], atol=2e-3)
            expected = trainer.cv2.imread(file)[..., ::-1].transpose(2, 0, 1)
            np.testing.assert_allclose(batch["img"][i].numpy() * 255, expected, atol=0.51)
    assert {len(np.unique(label[:, 0])) for label in labels.values()} > {1}  # classes differ, else this says little


def test_weights_order_and_augmentation_follow_the_seed(data, tmp_path, monkeypatch):
    first, other = (trainer.initial_model(tiny_spec(data, seed=seed), data, None).state_dict() for seed in (0, 1))
    assert not torch.equal(first["model.0.conv.weight"], other["model.0.conv.weight"])
    seen = [batches_of(data, tmp_path / str(i), monkeypatch, seed=seed)[0] for i, seed in enumerate((0, 0, 1))]
    assert seen[0]["im_file"] == seen[1]["im_file"] and torch.equal(seen[0]["img"], seen[1]["img"])
    by_file = [dict(zip(batch["im_file"], batch["img"], strict=True)) for batch in seen]
    both = by_file[0].keys() & by_file[2].keys()
    assert both and not any(torch.equal(by_file[0][file], by_file[2][file]) for file in both)


def test_every_field_of_the_spec_reaches_ultralytics(data, tmp_path):
    own = {"scale": 0.31, "translate": 0.07, "fliplr": 0.4, "mosaic": 0.9, "lr0": 0.003, "lrf": 0.02, "momentum": 0.8,
           "weight_decay": 0.001, "warmup_epochs": 2.0, "warmup_bias_lr": 0.05, "cos_lr": False, "optimizer": "SGD", "epochs": 7,
           "batch": 4, "imgsz": 96, "seed": 3}  # fmt: skip
    given = trainer.arguments(tiny_spec(data, **own, hsv=(0.01, 0.2, 0.3), nominal_batch=64), tmp_path)
    assert {name: given[name] for name in own} == own and given["nbs"] == 64
    assert (given["hsv_h"], given["hsv_s"], given["hsv_v"]) == (0.01, 0.2, 0.3)
    assert trainer.arguments(tiny_spec(data), tmp_path)["nbs"] == 8  # as the batch


def test_learning_rates_follow_the_schedule(data, tmp_path):
    rates = {}
    for cos_lr in (True, False):
        spec = tiny_spec(data, epochs=5, val_every=9, warmup_epochs=0.0, lr0=0.01, lrf=0.1, cos_lr=cos_lr)
        rates[cos_lr] = [row["lr"] for row in trainer.train(spec, data, tmp_path / str(cos_lr))["curve"]]
    done = np.arange(5) / 5
    np.testing.assert_allclose(rates[False], 0.01 * (1 - 0.9 * done), rtol=1e-6)
    np.testing.assert_allclose(rates[True], 0.01 * (1 - 0.9 * (1 - np.cos(np.pi * done)) / 2), rtol=1e-6)


def test_gradients_of_a_nominal_batch_make_one_step(data, tmp_path, monkeypatch):
    steps, step = [], trainer.Trainer.optimizer_step
    monkeypatch.setattr(trainer.Trainer, "optimizer_step", lambda self: steps.append(1) or step(self))
    for nominal, expected in ((0, 9), (24, 3)):  # nine batches of eight
        steps.clear()
        spec = tiny_spec(data, epochs=3, nominal_batch=nominal, warmup_epochs=0.0, val_every=9)
        trainer.train(spec, data, tmp_path / str(nominal))
        assert abs(len(steps) - expected) <= 1


def test_gains_reach_the_loss(data, tmp_path):
    """Without learning, a loss is its gain times what the network does wrong."""
    rows = []
    for i, gains in enumerate(({}, {"box": 0.1, "obj": 3.0, "cls": 1.0})):
        spec = tiny_spec(data, epochs=1, lr0=1e-12, precision="float32", **gains)
        rows.append(trainer.train(spec, data, tmp_path / str(i))["curve"][0])
    for name, times in (("box", 2), ("obj", 3), ("cls", 2)):
        assert rows[1][name] == pytest.approx(times * rows[0][name], rel=1e-3)


def test_the_average_of_the_best_epoch_is_kept_and_scored_on_both_splits(data, tmp_path, monkeypatch):
    """Best is 0.1 mAP50 + 0.9 mAP50-95 on val: here epoch 2; by mAP50 alone it would be 3, and 4 is the last and worst."""
    scripted, averages, raw = iter([(0.5, 0.1), (0.2, 0.3), (0.9, 0.15), (0.1, 0.1)]), [], []

    def scripted_scores(model, validation, resamples=0):
        split = next(s for s in ("val", "test") if all(map(np.array_equal, validation.targets, targets[s])))
        if resamples:
            return {"mAP50": 0.0, "mAP50_95": 0.0, "split": split}
        assert split == "val"
        return dict(zip(("mAP50", "mAP50_95"), next(scripted), strict=True))

    targets = {s: trainer.Validation(data, s, 64).targets for s in ("val", "test")}
    validate = trainer.Trainer.validate

    def remembered(self):
        averages.append(copy.deepcopy(self.ema.ema.state_dict()))
        raw.append(copy.deepcopy(self.model.state_dict()))
        return validate(self)

    monkeypatch.setattr(trainer, "evaluate", scripted_scores)
    monkeypatch.setattr(trainer.Trainer, "validate", remembered)
    metrics = trainer.train(tiny_spec(data, epochs=4, val_every=1), data, tmp_path)
    assert metrics["best_epoch"] == 2 and (metrics["val"]["split"], metrics["test"]["split"]) == ("val", "test")
    kept = weights.load_weights(yolov5.build(MODELS["p"], data.nc), tmp_path / "weights.safetensors").state_dict()
    name = "model.1.conv.weight"
    assert torch.equal(kept[name], averages[1][name]) and not torch.equal(averages[1][name], raw[1][name])


def test_a_new_head_expects_as_many_objects_as_the_originals(data):
    """Of 640 px: 8 objects an image, spread evenly over the cells of each map, and 0.6 of each class."""
    torch.manual_seed(0)
    head = yolov5.build(MODELS["n"], 3).model[-1]
    for conv, stride in zip(head.m, (8, 16, 32), strict=True):
        bias, untouched = conv.bias.view(3, 8), 1 / math.sqrt(conv.in_channels)  # how far PyTorch's own start may lie off
        assert (bias[:, 4] - math.log(8 / (640 / stride) ** 2)).abs().max() <= untouched
        assert (bias[:, 5:] - math.log(0.6 / 2)).abs().max() <= untouched + 1e-4
