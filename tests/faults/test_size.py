"""Size: memory does not grow with a data set that is larger than it, and a record of 10,000 points is read once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolop import files, store
from yolop.data import digits, images
from yolop.measure import evaluation
from yolop.network import yolov5
from yolop.report import plots, show, tables
from yolop.report.opened import OpenStudy
from yolop.settings import named_study
from yolop.specs import METHODS, MODELS, DigitsSpec, TrainSpec, canonical, identity, run_id
from yolop.train import trainer

ROOT = Path(__file__).resolve().parents[2]
FEW, MANY = 2_000, 20_000  # images
GROWTH_KB = 6  # of peak memory for each image more: its path, its label and what was detected in it, not its pixels
RATIOS = 1_700  # asked of six kinds of modules: 10,200 points in a record


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process")
def test_twenty_thousand_images_take_the_memory_of_two_thousand(seen):
    options = f"--images {FEW} {MANY} --kept-mb 0".split()
    command = [sys.executable, ROOT / "benchmarks/memory_by_images.py", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    few, many = (dict(zip(head.split(","), map(float, line.split(",")), strict=True)) for line in lines)
    assert (few["images"], many["images"]) == (FEW, MANY)
    grown = many["peak_mb"] - few["peak_mb"]
    assert grown * 1000 < GROWTH_KB * (MANY - FEW), f"{done.stdout} (default settings keep images, so they show more)"
    print(done.stdout)
    outcome = f"checked and one epoch with {grown:.0f} MB more than {FEW:,} images ({few['peak_mb']:.0f} MB)"
    seen(f"{MANY:,} images, none of which may stay in memory", 1, outcome)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny data set of digits."""
    return digits.generate(DigitsSpec(train=20, val=12, test=6, imgsz=96), tmp_path_factory.mktemp("data") / "digits")


def test_room_in_memory_changes_no_weight_and_no_score(data, tmp_path, monkeypatch, seen):
    """The hardest case for it: mosaic draws from all images, and colours are changed in place."""
    spec = TrainSpec(MODELS["p"], "p", data.digest, data.nc, 64, 3, 8, val_every=1, mosaic=0.5, fliplr=0.5)
    found, reads = [], []

    def counted(function):
        return lambda *arguments: reads.append(None) or function(*arguments)

    monkeypatch.setattr(trainer.CheckedImages, "read", counted(trainer.CheckedImages.read))
    monkeypatch.setattr(evaluation, "load_image", counted(evaluation.load_image))
    for budget in (0, 100_000, images.KEPT_BYTES):  # bytes for a split; all of train are 20 x 64 x 64 x 3 = 245,760
        monkeypatch.setattr(images, "KEPT_BYTES", budget)
        reads.clear()
        folder = tmp_path / str(budget)
        folder.mkdir()
        metrics = trainer.train(spec, data, folder)
        found.append((metrics, (folder / "weights.safetensors").read_bytes(), len(reads)))
    none, some, everything = (many for *_, many in found)
    assert none > some > everything == 20 + 12 + 12 + 6  # each image of train, val, and at the end val and test, once
    other = sum(result[:2] != found[-1][:2] for result in found)
    assert not other
    seen(
        "room in memory for none, some or all of the images",
        len(found),
        "the same weights and scores, to the bit",
        other,
    )


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(0, 300), st.randoms())
@settings(max_examples=200)
def test_no_more_stays_in_memory_than_there_is_room_for(sizes, budget, random):
    reads = []
    kept = images.Kept(lambda i: reads.append(i) or np.full(sizes[i], i, np.uint8), len(sizes))
    kept.left = budget
    order = [random.randrange(len(sizes)) for _ in range(60)]
    for i in order:
        assert (kept[i] == np.full(sizes[i], i, np.uint8)).all()
        held = sum(item.nbytes for item in kept.items if item is not None)
        assert held <= budget and held + kept.left == budget
    for i in set(order):
        assert reads.count(i) == (1 if kept.items[i] is not None else order.count(i))


def test_a_quarter_of_the_free_memory_is_the_most(monkeypatch):
    class Free:
        available = 4_000

    monkeypatch.setattr(images.psutil, "virtual_memory", Free)
    kept = images.Kept(lambda i: np.zeros(300, np.uint8), 10)
    assert [len(kept[i]) for i in range(10)] == [300] * 10
    assert sum(item is not None for item in kept.items) == 3


def test_bootstrap_samples_in_pieces_equal_all_at_once(data, monkeypatch, seen):
    """All at once they took 1 GB for every 2,000 images."""
    torch.manual_seed(0)
    model = yolov5.fused(yolov5.build(MODELS["p"], data.nc))
    found = []
    for numbers in (1, 50_000, 10**12):
        monkeypatch.setattr(evaluation, "WEIGHTS", numbers)
        found.append(evaluation.evaluate(model, evaluation.Validation(data, "val", 96), resamples=50))
    assert found[0] == found[1] == found[2] and len(found[0]["mAP50_resampled"]) == 50
    seen("bootstrap intervals of mAP in pieces", len(found), "the same numbers as all at once")


def test_ten_thousand_sweep_points_are_read_once_and_drawn(tmp_path, monkeypatch, seen):
    shutil.copytree(files.ROOT / "data" / "records", tmp_path / "data" / "records")
    folder, rng, most = tmp_path / "data" / "records", np.random.default_rng(0), 0
    ratios = tuple(round(i / RATIOS, 6) for i in range(1, RATIOS + 1))
    study = OpenStudy(named_study("digits", ratios=ratios), store.Store("committed", tmp_path))
    for method in METHODS:
        spec = study.graph.sweep(method, 0).spec
        scores = rng.random((len(spec.points), 3)).tolist()
        names = ("sparsity", "mAP50", "mAP50_95")
        rows = [asdict(p) | dict(zip(names, s, strict=True)) for p, s in zip(spec.points, scores, strict=True)]
        body = json.loads(canonical({"kind": spec.kind} | identity(spec)))
        record = store.Record(run_id(spec), body, {"rows": rows}, {}, 1.0, store.host(), store.versions())
        (folder / f"{record.run_id}.json").write_text(record.to_json(), encoding="utf-8")
        most = max(most, len(rows))
    assert most >= 10_000

    reads, read = [], store.Record.from_json
    monkeypatch.setattr(store.Record, "from_json", lambda *of: reads.append(read(*of)) or reads[-1])
    began = time.perf_counter()
    best = study.model("p-best")
    found = best.pruned([p for method in METHODS for p in study.graph.sweep(method, 0).spec.points])
    table = tables.sweeps(found)
    text = table.to_csv(), show.to_markdown(table)
    figures = [plots.sweeps(found[found["modules"] == "all"], best.score()).svg(), plots.sweeps_by_module(found).svg()]
    seconds = time.perf_counter() - began
    assert len(table) == sum(len(study.graph.sweep(method, 0).spec.points) for method in METHODS) > 3 * 10_000
    assert all(lines.count("\n") > len(table) for lines in text) and all(len(svg) > 10_000 for svg in figures)
    assert len(reads) == len({record.run_id for record in reads}) < 20  # not a time for each point
    seen(f"{len(table):,} sweep points, {most:,} in one record", 1, f"read, tabulated and drawn in {seconds:.0f} s")
