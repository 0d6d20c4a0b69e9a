"""Silent wrongness: what libraries only warn of, or mend by themselves, is an error here and leaves no record.

A table is made of records alone, so what leaves no record is in no table.
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import distribution
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from support import tiny_spec
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import nms
from ultralytics.utils.torch_utils import ModelEMA

from yolop import packages
from yolop.__main__ import main
from yolop.measure import evaluation
from yolop.measure.evaluation import Validation, evaluate
from yolop.network import weights, yolov5
from yolop.network.head import Loss
from yolop.network.weights import CheckpointError
from yolop.report.opened import open_study
from yolop.run import runner
from yolop.specs import MODELS, CensusSpec, EvaluationSpec, ModelSpec, SpecError
from yolop.store import Store, get_or_run
from yolop.train.trainer import TrainingError

ROOT = Path(__file__).resolve().parents[2]
CENSUS = CensusSpec("toy", (("p", MODELS["p"]),), nc=3, imgsz=64)
EPOCHS, STEPS = 3, 3  # in the trainings below; only the last epoch has a validation
NAN, INF = float("nan"), float("inf")


class Place:
    """A project folder with one finished record, in which work is tried that must fail."""

    def __init__(self, root: Path, parents: dict):
        self.root, self.parents, self.tries, self.lost = root, parents, 0, 0
        get_or_run(root, CENSUS, {})

    def refuses(self, spec, error: type[Exception], words: str) -> None:
        """The work fails with these words and leaves neither a record nor weights; what was finished is still there."""
        with pytest.raises(error, match=words) as caught:
            get_or_run(self.root, spec, self.parents)
        store = Store("computed", self.root)
        assert type(caught.value) is error
        assert store.get(spec) is None and not list(self.root.rglob("*.safetensors"))
        self.tries, self.lost = self.tries + 1, self.lost + (store.get(CENSUS) is None)


@pytest.fixture
def place(tmp_path, parents):
    return Place(tmp_path, {"data": parents["data"]})


def training_of(data, **changes):
    """A spec of a short training."""
    return tiny_spec(data, **{"epochs": EPOCHS, "val_every": EPOCHS} | changes)


def at_call(monkeypatch, owner, name: str, number: int, spoil) -> None:
    """Let one call of a method, the `number`th, end with `spoil(self, result)`."""
    real, calls = getattr(owner, name), count(1)

    def method(self, *args):
        result = real(self, *args)
        return spoil(self, result) if next(calls) == number else result

    monkeypatch.setattr(owner, name, method)


def test_a_loss_that_is_not_finite_is_never_recovered_from(data, place, monkeypatch, seen):
    """ultralytics would load its last checkpoint and go on. Steps: the first, one between validations, the last ones."""

    def everything(value):
        return lambda _, found: (found[0] * value, {name: part * value for name, part in found[1].items()})

    def hidden(_, found):
        return found[0] * NAN, found[1]  # as that of a teacher, which is in no part that is reported

    cases = [(step, everything(value)) for value in (NAN, INF) for step in (1, 5, 6, 9)]
    cases += [(step, hidden) for step in (1, 5, 6, 9)]
    for step, spoil in cases:
        with monkeypatch.context() as patch:
            at_call(patch, Loss, "__call__", step, spoil)
            patch.setattr(BaseTrainer, "_load_checkpoint_state", lambda *_: pytest.fail("it was recovered from"))
            epoch = (step - 1) // STEPS + 1
            place.refuses(training_of(data), TrainingError, f"not finite in epoch {epoch}: lower lr0 = 0.002")
    seen("Loss of NaN or infinity in a training", place.tries, "training error names the epoch, no record", place.lost)


def test_average_weights_that_are_not_finite_are_not_kept(data, place, monkeypatch, seen):
    """The weights that are kept are an average of those that train, which may be sound while it is not."""
    spoiled = ("model.0.conv.weight", "model.2.cv1.bn.running_var", "model.24.m.0.bias", "model.24.anchors")
    for name in spoiled:
        for value in (NAN, INF):  # a bias of infinity gives finite predictions
            with monkeypatch.context() as patch:

                def spoil(ema, _, name=name, value=value):
                    tensor = ema.ema.state_dict()[name]
                    tensor[(0,) * tensor.ndim] = value

                at_call(patch, ModelEMA, "update", EPOCHS * STEPS, spoil)
                place.refuses(training_of(data), TrainingError, f"weights are not finite in epoch {EPOCHS}: lower lr0")
    seen("NaN or infinity in the average of weights", place.tries, "training error, no record", place.lost)


def test_the_batch_is_never_halved_for_lack_of_memory(data, place, monkeypatch, seen):
    """ultralytics would go on with half the batch in the first epoch; a batch of 1 it would just begin again."""

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    for batch, step in ((8, 1), (8, 2), (8, 5), (1, 3)):
        with monkeypatch.context() as patch:
            at_call(patch, Loss, "__call__", step, out_of_memory)
            place.refuses(
                training_of(data, batch=batch), TrainingError, f"out of memory with batch = {batch}: lower it"
            )
    seen("Memory runs out in a training", place.tries, "training error says what to lower, no record", place.lost)


@pytest.mark.parametrize("head", ["anchor", "anchor-free"])
def test_a_model_that_predicts_nan_has_no_map(data, place, head, monkeypatch, seen):
    """Without the check NaN is simply below every confidence: mAP 0, as of a model that has learned nothing."""
    model, validation = yolov5.build(ModelSpec(0.16, 0.2, head), data.nc).eval(), Validation(data, "val", 64)
    spec = EvaluationSpec("train-p", data.digest, 64, "val")
    monkeypatch.setattr(evaluation, "model_of", lambda _: model)
    place.parents["weights"] = None
    sound = {name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for name in [name for name in sound if name.endswith((".conv.weight", ".running_var", ".bias"))][::5]:
        for value in (NAN, INF):
            spoiled = sound[name].clone()
            spoiled.view(-1)[0] = value
            model.load_state_dict(sound | {name: spoiled}, strict=False)
            with torch.no_grad():
                finite = all(part.isfinite().all() for part in _parts(model(validation.images[0][None] / 255)))
            if not finite:  # zeros and saturation can swallow it
                place.refuses(spec, ValueError, "NaN or infinity")
    model.load_state_dict(sound, strict=False)
    assert evaluate(yolov5.fused(model), validation)["mAP50"] >= 0
    seen(f"NaN or infinity predicted, {head} head", place.tries, "error instead of mAP 0, no record", place.lost)


def _parts(output):
    return [output] if isinstance(output, torch.Tensor) else [output[0]]


def test_weights_that_are_not_finite_are_not_loaded(tmp_path, seen):
    model, tries = yolov5.build(MODELS["p"], 3), 0
    sound = model.state_dict()
    for name in [name for name, tensor in sound.items() if tensor.is_floating_point()][::7]:
        for value in (NAN, INF, -INF):
            spoiled = sound[name].clone()
            spoiled.view(-1)[-1] = value
            save_file(sound | {name: spoiled}, tmp_path / "w.safetensors")
            with pytest.raises(CheckpointError, match=f"{name} is not finite"):
                weights.load_weights(yolov5.build(MODELS["p"], 3), tmp_path / "w.safetensors")
            tries += 1
    save_file(sound, tmp_path / "w.safetensors")
    weights.load_weights(yolov5.build(MODELS["p"], 3), tmp_path / "w.safetensors")
    seen("Weights of NaN or infinity in a file", tries, "checkpoint error names the tensor")


def test_suppression_knows_no_clock(data, monkeypatch, seen):
    """On a machine so slow that the clock is an hour on whenever it is read, every image keeps its detections."""
    model, validation = yolov5.fused(yolov5.build(MODELS["p"], data.nc)), Validation(data, "train", 64)
    with torch.no_grad():
        for conv in model.model[-1].m:
            conv.bias.view(3, -1)[:, 4:] = 4.0  # it sees something everywhere
    before = evaluate(model, validation)
    hours = count(0, 3600)
    monkeypatch.setattr(nms, "time", SimpleNamespace(time=lambda: next(hours)))
    images = torch.stack([validation.images[i] for i in validation.batches[0]])
    with torch.inference_mode():
        boxes, objectness, scores = model(images / 255).split((4, 1, data.nc), -1)
        theirs = nms.non_max_suppression(torch.cat((boxes, objectness * scores), -1).transpose(1, 2), 0.001, 0.6)
    ours = evaluation.detect(model, images, 0.001, 0.6, multi_label=True)
    assert [len(found) > 0 for found in theirs] == [True] + [False] * (len(images) - 1)  # the fault is real
    monkeypatch.setattr(nms, "non_max_suppression", lambda *_, **__: pytest.fail("it has a time limit"))
    lost = sum(not len(found) for found in ours)
    assert lost == 0 and evaluate(model, validation) == before
    seen("Time limit of NMS hit, images", len(images), "the same detections and mAP: ours has no limit", lost)


def test_operations_are_never_counted_as_none(place, monkeypatch, seen):
    """By a counter that counts nothing, by one that does not know convolutions, and with a `thop` that gives 0."""

    spec = CensusSpec("other", CENSUS.models, 3, 96)
    sound = yolov5.compute_census(spec, {}, place.root)
    with monkeypatch.context() as patch:
        patch.setattr(FlopCounterMode, "get_total_flops", lambda _: 0)
        place.refuses(spec, RuntimeError, r"layer 0: \d+ parameters, 0.0 GFLOPs.*yolop doctor")
    with monkeypatch.context() as patch:
        patch.delitem(flop_registry, torch.ops.aten.convolution)
        place.refuses(spec, RuntimeError, r"layer 0: \d+ parameters, 0.0 GFLOPs.*yolop doctor")
    monkeypatch.setitem(sys.modules, "thop", SimpleNamespace(profile=lambda *_, **__: (0.0, 0.0)))
    assert yolov5.compute_census(spec, {}, place.root) == sound  # it is not asked
    seen("Operations counted as 0", place.tries + 1, "error that names the layer, or not affected", place.lost)


ENGINE = packages.ENGINE
STRAYS = {  # files of a folder on the path -> what the refusal says
    "thop": ({"thop-0.1.1.dist-info/METADATA": "thop 0.1.1"}, "thop overwrites ultralytics-thop"),
    "a second cv2": ({"opencv_python-4.12.0.88.dist-info/METADATA": "opencv-python 4.12.0.88"}, "two packages own cv2"),
    "ultralytics itself": (
        {"ultralytics-8.4.190.dist-info/METADATA": "ultralytics 8.4.190"},
        "ultralytics has the same files",
    ),
    "an impostor": (
        {"ultralyticsheadless-8.3.33.dist-info/METADATA": "ultralyticsheadless 8.3.33"},
        "not made by Ultralytics",
    ),
    "an infected release": ({"ultralytics-8.3.41.dist-info/METADATA": "ultralytics 8.3.41"}, "ultralytics has the same files"),
    "another version of it": (
        {"ultralytics_opencv_headless-8.4.100.dist-info/METADATA": f"{ENGINE} 8.4.100"},
        f"{ENGINE} is installed more than once",
    ),
    "another torch": ({"torch-2.13.0.dist-info/METADATA": "torch 2.13.0"}, "torch is installed more than once"),
    "a folder of its name": ({"ultralytics/__init__.py": ""}, f"not from {ENGINE}: rename it"),
    "files of another version": (
        {
            "ultralytics_opencv_headless-8.4.190.dist-info/METADATA": f"{ENGINE} 8.4.190",
            "ultralytics_opencv_headless-8.4.190.dist-info/RECORD": "ultralytics/__init__.py,sha256=b3JpZ2luYWw,1\n",
            "ultralytics/__init__.py": "__version__ = '8.4.100'",
        },
        "another package has overwritten ultralytics/__init__.py",
    ),
}


def test_no_run_begins_beside_packages_that_overwrite_others(project, tmp_path, monkeypatch, capsys, seen):
    for path in ("requirements.lock", "notebooks/01_architecture.ipynb"):
        shutil.copy(ROOT / path, project / path)
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    before, tries = sorted(project.rglob("*")), 0
    for number, (what, (files, words)) in enumerate(STRAYS.items()):
        site = tmp_path / f"site{number}"
        for name, text in files.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("METADATA"):
                text = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n".format(*text.split())
            (site / name).write_text(text)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(site)
            patch.delitem(sys.modules, "ultralytics")  # as before it is imported
            assert main(["run", "smoke"]) == 2, what
            error = capsys.readouterr().err
            assert words in error and "Traceback" not in error, what
            with pytest.raises(SpecError, match=words.split(":")[0]):
                open_study("smoke", records="fresh")  # what every notebook calls first
            open_study("smoke")  # computes nothing
        tries += 1
    assert sorted(project.rglob("*")) == before
    assert [level for level, _ in packages.conflicts()] == ["ok"] and distribution(ENGINE).version == "8.4.190"
    seen("Packages that overwrite or double others", tries, "refused before anything starts, each by name")
