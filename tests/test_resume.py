"""An interrupted training goes on from its last kept epoch: the same weights, curve and scores, to the bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from support import tiny_spec

from yolop.files import StoreError
from yolop.network import yolov5
from yolop.specs import MODELS, SparseTrainSpec, TrainSpec
from yolop.store import UNFINISHED
from yolop.train import resume
from yolop.train.trainer import train

EPOCHS = 4


class Interrupted(Exception):
    """Stands for a kill: nothing of the process is left."""


def a_run(data, folder, spec=TrainSpec, **changes) -> dict:
    torch.manual_seed(0)
    teacher = yolov5.build(MODELS["p"], data.nc).eval() if spec is SparseTrainSpec else None
    return train(tiny_spec(data, spec, **{"epochs": EPOCHS} | changes), data, folder, teacher)


def interrupted(data, folder, monkeypatch, after: int, how: dict) -> None:
    """A run that ends right after it has kept its state at the end of epoch `after`."""
    keep = resume.keep

    def keep_and_stop(trainer, path):
        keep(trainer, path)
        if trainer.epoch + 1 >= after:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(resume, "keep", keep_and_stop)
        with pytest.raises(Interrupted):
            a_run(data, folder, **how)
    random.random(), np.random.rand(), torch.rand(1)  # another process would not stand where this one does


WAYS = {
    "plain": {},
    "mosaic": {"mosaic": 1.0},
    "gradients wait": {
        "nominal_batch": 40,
        "warmup_epochs": 0.5,
        "optimizer": "SGD",
        "momentum": 0.9,
    },  # of five batches
    "zeros": {"spec": SparseTrainSpec, "init": "matching:x", "sparsity": 0.8, "mosaic": 1.0},
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_an_interrupted_run_ends_as_one_that_never_was(data, tmp_path, monkeypatch, how):
    whole, folder = tmp_path / "whole", tmp_path / "interrupted"
    whole.mkdir(), folder.mkdir()
    expected = a_run(data, whole, **how)
    assert not (whole / UNFINISHED).exists()  # a short run keeps nothing
    monkeypatch.setattr(resume, "EVERY_S", 0.0)
    interrupted(data, folder, monkeypatch, 2, how)
    interrupted(data, folder, monkeypatch, 3, how)  # and once more
    found = a_run(data, folder, **how)
    assert [row["after_epoch"] for row in found.pop("resumed")] == [2, 3]
    assert found == expected
    assert (folder / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("trouble", ["a flipped byte", "cut", "empty", "other threads", "another spec"])
def test_what_is_damaged_or_of_another_run_is_not_gone_on_with(data, tmp_path, monkeypatch, capsys, trouble):
    monkeypatch.setattr(resume, "EVERY_S", 0.0)
    interrupted(data, tmp_path, monkeypatch, 2, {})
    path = tmp_path / UNFINISHED
    whole = path.read_bytes()
    assert len(whole) > 1_000_000
    if trouble == "other threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    elif trouble != "another spec":
        changed = {"a flipped byte": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], "cut": whole[:-9], "empty": b""}
        path.write_bytes(changed[trouble])
    metrics = a_run(data, tmp_path, seed=1 if trouble == "another spec" else 0)
    assert "starting over" in capsys.readouterr().out
    assert "resumed" not in metrics and len(metrics["curve"]) == EPOCHS


def test_a_full_disk_ends_no_training(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resume, "EVERY_S", 0.0)

    def full(path, blob):
        raise StoreError(f"could not write {path}: No space left on device")

    monkeypatch.setattr(resume.store, "write_atomically", full)
    assert len(a_run(data, tmp_path)["curve"]) == EPOCHS
    assert "No space left" in capsys.readouterr().out
