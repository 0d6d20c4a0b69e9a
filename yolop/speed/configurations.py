"""Networks in runtimes: their files, what they score, and how fast they are against dense n in PyTorch."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from yolop.data import Dataset
from yolop.data.load import dataset_of
from yolop.measure import latency
from yolop.measure.evaluation import Validation, evaluate
from yolop.measure.pruning import subject
from yolop.progress import progress
from yolop.specs import run_id
from yolop.speed import in_turns, runtimes
from yolop.speed_specs import (
    CALIBRATED,
    RUNTIMES,
    Configuration,
    ConfigurationScoresSpec,
    ConfigurationTimesSpec,
    ExportSpec,
)
from yolop.store import Record


def compute_export(spec: ExportSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Write the files of a configuration for its runtime into the folder; returns their sizes."""
    setup = spec.configuration
    calibration = None
    if setup.runtime in CALIBRATED:
        calibration = calibration_images(dataset_of(parents["data"]), setup.imgsz)
    network = subject(setup, spec.nc, _weights(setup, parents))
    runtimes.export(network, setup.runtime, setup.imgsz, folder, calibration)
    return runtimes.sizes(folder)


def calibration_images(dataset: Dataset, imgsz: int, images: int = 128) -> list[np.ndarray]:
    """Photographs of the train split, (3, imgsz, imgsz) uint8, spread over it, that show which values occur."""
    train = Validation(dataset, "train", imgsz, square=True).images
    return [train[i].numpy() for i in range(0, len(train), max(len(train) // images, 1))][:images]


def compute_scores(spec: ConfigurationScoresSpec, parents: dict[str, Record], folder: Path) -> dict:
    """A row per configuration: mAP on the split, file sizes, and the largest difference to PyTorch's scores of boxes."""
    dataset, rows = dataset_of(parents["data"]), []
    sizes = {setup.imgsz for setup in spec.configurations}
    splits = {size: Validation(dataset, spec.split, size, square=True) for size in sizes}
    for setup in progress(spec.configurations, "mAP in other runtimes"):
        network, exported = subject(setup, spec.nc, _weights(setup, parents)), _exported(setup, spec, parents)
        split = splits[setup.imgsz]
        image = split.images[0][None].float() / 255
        with latency.threads(1):  # two would wait for each other by spinning, whatever else is computed beside this
            with torch.inference_mode():
                expected = network(image)
            files = exported.path("record.json").parent if exported else None
            call = runtimes.load(setup.runtime, files, network, setup.imgsz, threads=1)
            difference = float((call(image) - expected)[..., 4:].abs().max())
            scores = evaluate(runtimes.OneByOne(call), split, 100)
        row = {"label": setup.text} | {k: v for k, v in scores.items() if k.startswith("mAP") or k == "groups"}
        row |= exported.metrics if exported else {"file_mb": None, "compressed_mb": None}
        rows.append(row | {"max_difference": difference})
    return {"rows": rows}


def compute_times(spec: ConfigurationTimesSpec, parents: dict[str, Record], folder: Path) -> dict:
    """A timing row per configuration against the first, whose own row is the A/A control; processes start anew each time."""
    jobs = [(setup.text, _job(setup, spec, parents)) for setup in spec.configurations]
    by_runtime = sorted(range(len(jobs)), key=lambda i: RUNTIMES.index(spec.configurations[i].runtime))
    parts = [[] for _ in jobs]
    timed = in_turns.apart if spec.apart else in_turns.together
    for start in range(spec.starts):
        waiting = iter(progress(by_runtime, f"timing in turns, start {start + 1} of {spec.starts}"))
        groups = groupby(waiting, key=lambda i: spec.configurations[i].runtime)
        named = ((jobs[i] for i in group) for _, group in groups)
        for i, times_ms in zip(by_runtime, timed(jobs[0], named, spec, start), strict=True):
            parts[i].append(times_ms)
    pairs = zip(spec.configurations, parts, strict=True)
    return {"rows": [latency.pooled(part, "baseline")[1] | {"label": setup.text} for setup, part in pairs]}


def _job(setup: Configuration, spec: ConfigurationTimesSpec, parents: dict[str, Record]) -> in_turns.Job:
    exported = _exported(setup, spec, parents)
    files = exported.path("record.json").parent if exported else None
    return running, setup, spec.nc, _weights(setup, parents), files, spec.threads


def running(setup: Configuration, nc: int, weights: Path | None, files: Path | None, threads: int):
    """A call without arguments that runs a configuration on one fixed random image."""
    call = runtimes.load(setup.runtime, files, subject(setup, nc, weights), setup.imgsz, threads)
    image = torch.rand(1, 3, setup.imgsz, setup.imgsz, generator=torch.Generator().manual_seed(0))
    return lambda: call(image)


def _weights(setup: Configuration, parents: dict[str, Record]) -> Path | None:
    return parents[setup.weights].path("weights.safetensors") if setup.weights else None


def _exported(setup: Configuration, spec, parents: dict[str, Record]) -> Record | None:
    """The record of a configuration's files, or None for the runtimes that need none."""
    if setup.runtime in ("pytorch", "sparse"):
        return None
    return parents[run_id(ExportSpec(setup, spec.nc, parents["data"].metrics["digest"]))]
