"""The same seed gives the same records, weights, tables and figures: in another process, clone, folder, order, environment.

Two processes work through one small study, each from its own copy of the package and in its own project folder: the second in
the opposite order, with another hash seed, locale, time zone and home. Seconds are all that may differ.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import yolop
from yolop.settings import Study
from yolop.specs import TrainSpec

SETTINGS = "models=n,p epochs=1"  # of smoke: 32 images, 2 steps, 13 trainings
WORK = """
import hashlib, json, sys
from pathlib import Path
import yolop
from yolop.report import diagrams, plots, show, tables
from yolop.report.opened import open_study
from yolop.specs import METHODS, points

study = open_study("smoke", sys.argv[1], "fresh", "reports")
graph, best = study.graph, study.model("p-best")
everywhere = lambda: best.pruned(points(METHODS, study.settings.ratios))
own = lambda: [study.layers()[label] for label in ("n", "p")]
zeros = [(0.0, "global"), (0.9, "global"), (0.9, "layer"), (0.9, "random")]
asked = [lambda label=label: show.keep(study.model(label).curves(), f"curves-{label}") for label in graph.trainings]
asked += [lambda: show.keep(tables.dataset(study.data), "dataset"), lambda: show.keep(tables.pretraining(study), "pretraining")]
asked += [lambda label=label: study.record(graph.training(label, 1)) for label in ("p", "n")]
asked += [lambda how=how: study.record(graph.fine_tuned(0, *how)) for how in (*zeros, (0.0, "global", 0.5))]
asked += [lambda: show.keep(tables.by_module(n=own()[0], p=own()[1]), "modules")]
asked += [lambda: show.keep(tables.sweeps(everywhere()), "sweeps"), lambda: plots.sweeps(everywhere(), best.score())]
asked += [lambda: plots.learning_curves(best.curves()), lambda: diagrams.architecture(tables.side_by_side(*own()))]
asked += [lambda: diagrams.pictures(study.pictures())]
for ask in asked[:: int(sys.argv[2])]:
    ask()

from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_dataloader
from ultralytics.utils.torch_utils import init_seeds
from yolop.data.load import dataset_of
from yolop.train import trainer

def seen_by_workers(seed):
    settings = get_cfg(overrides=trainer.arguments(graph.training("p", seed).spec, Path("nowhere")))
    dataset = dataset_of(study.record(graph.data))
    images = trainer.CheckedImages(dataset, "train", imgsz=96, augment=True, hyp=settings, batch_size=8)
    init_seeds(seed + 1, deterministic=True)  # as ultralytics' trainer does
    loader = build_dataloader(images, batch=8, workers=2, shuffle=True, device="cpu")
    assert loader.num_workers > 0
    return [hashlib.sha256(image.numpy()).hexdigest() for batch in loader for image in batch["img"]]

print(json.dumps({"package": yolop.__file__, "workers": [seen_by_workers(seed) for seed in (0, 0, 1)]}))
"""
PLACES = {
    "one": {"PYTHONHASHSEED": "0", "LC_ALL": "C", "TZ": "UTC"},
    "another {place} für 'us'": dict(
        PYTHONHASHSEED="12345", LC_ALL="tr_TR.UTF-8", TZ="Asia/Seoul", HOME="/proc/nowhere"
    ),
}


@pytest.fixture(scope="module")
def twice(tmp_path_factory) -> list[tuple[Path, dict]]:
    """Two project folders in which the same study was computed, and what the processes printed last."""

    def computed(place: tuple[int, str]) -> tuple[Path, dict]:
        order, name = place
        root = tmp_path_factory.mktemp("clone") / name
        shutil.copytree(Path(yolop.__file__).parent, root / "yolop", ignore=shutil.ignore_patterns("__pycache__"))
        done = subprocess.run(
            [sys.executable, "-c", WORK, SETTINGS, str(order)], cwd=root, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(root), "YOLOP_ROOT": str(root)} | PLACES[name],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout.splitlines()[-1])
        assert said["package"] == str(root / "yolop" / "__init__.py")
        return root, said

    return [computed(place) for place in zip((1, -1), PLACES, strict=True)]  # not side by side: threads would only wait


def records(root: Path) -> dict[str, dict]:
    """Run id -> record without its seconds (and the checksum over them)."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in root.glob("data/runs/*/record.json"))
    return {body["run_id"]: {k: v for k, v in body.items() if k not in ("seconds", "checksum")} for body in found}


def test_same_records_in_another_process_clone_folder_and_order(twice, seen):
    (one, _), (two, _) = twice
    here, there = records(one), records(two)
    differing = [name for name in here.keys() | there if here.get(name) != there.get(name)]
    assert len(here) > 20 and not differing
    weights = [path.relative_to(one) for path in one.rglob("weights.safetensors")]
    assert len(weights) == 13 and all((one / path).read_bytes() == (two / path).read_bytes() for path in weights)
    what = "other process, clone, folder, order, hash seed, locale, zone, home"
    seen(what, len(here), f"records equal, {len(weights)} trained weights to the bit", len(differing))


def test_same_tables_and_figures(twice, seen):
    files = [sorted(path.relative_to(root) for path in (root / "reports").glob("*/*.*")) for root, _ in twice]
    differing = [path for path in files[0] if len({(root / path).read_bytes() for root, _ in twice}) > 1]
    assert files[0] == files[1] and {path.suffix for path in files[0]} == {".csv", ".svg", ".jpg"}
    assert not differing
    seen("the same: tables (CSV) and figures (SVG, JPEG)", len(files[0]), "equal bytes", len(differing))


def test_other_seeds_give_other_weights(twice, seen):
    found = {}
    for record in records(twice[0][0]).values():
        if record["spec"]["kind"] == "train" and record["spec"]["label"] in ("n", "p"):
            weights, loss = record["metrics"]["weights_sha256"], record["metrics"]["curve"][0]["box"]
            found[record["spec"]["label"], record["spec"]["seed"]] = weights, loss
    equal = [label for label in ("n", "p") for i in (0, 1) if found[label, 0][i] == found[label, 1][i]]
    assert len(found) == 4 and not equal
    seen("another seed", len(found) // 2, "other weights, other losses", len(equal))


def test_seeds_reach_the_workers_although_we_use_none(twice, seen):
    """Trainings read their images in their own process, and nobody can ask for workers: so no seed has to reach any. It would:
    ultralytics' workers shuffle and augment by the seed."""
    names = {item.name for kind in (Study, TrainSpec) for item in fields(kind)}
    assert "workers" not in names
    (_, here), (_, there) = twice
    first, again, other = here["workers"]
    assert here["workers"] == there["workers"] and first == again and len(set(first)) == 32
    common = set(first) & set(other)
    assert not common  # each image is augmented otherwise, not only shuffled
    what = "two workers: same seed, other process; other seed"
    seen(what, 2, "same images in the same order; no image the same", len(common))
