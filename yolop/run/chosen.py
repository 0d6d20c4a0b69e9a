"""The one network that a command works with: anybody's file, or a model of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from yolop.data import Dataset, DatasetError, digits
from yolop.data.folder import read
from yolop.data.load import dataset_of
from yolop.files import StoreError
from yolop.measure.evaluation import RESAMPLES, Validation, evaluate
from yolop.network.official import CheckpointError
from yolop.network.weights import load_network, model_of
from yolop.report.scores import Score
from yolop.run.status import graph_of, opened
from yolop.specs import SpecError, TrainSpec, require, require_known
from yolop.speed.configurations import calibration_images
from yolop.study.graph import Graph, Node, trainings_of
from yolop.study.names import NAMES
from yolop.study.plan import all_nodes

FILES = (".pt", ".pth", ".safetensors")
IMGSZ = 320  # px, where nothing says otherwise


@dataclass(frozen=True)
class Chosen:
    """A network in evaluation mode and not fused, unless its file holds it so, and what is known of it.

    `source` is the file that it was read from; None for a model of a study.
    """

    text: str
    network: nn.Module
    names: tuple[str, ...]
    imgsz: int
    dataset: Dataset | None = None
    source: Path | None = None

    def score(self, network: nn.Module, square: bool = False) -> Score:
        """mAP of a fused network on the test images of the data set, in rectangles as the original, or in squares."""
        images = Validation(self.dataset, "test", self.imgsz, square=square)
        return Score((evaluate(network, images, RESAMPLES),), sum(len(boxes) > 0 for boxes in images.targets))

    def photographs(self) -> list[np.ndarray]:
        """Pictures for the calibration of 8 bits, (3, imgsz, imgsz) uint8: of the train split, else those of the digits."""
        if self.dataset:
            return calibration_images(self.dataset, self.imgsz)
        pictures = (digits.photograph(name) for name in digits.PHOTOGRAPHS["train"])
        return [np.asarray(picture.resize((self.imgsz, self.imgsz))).transpose(2, 0, 1).copy() for picture in pictures]

    def picture(self) -> torch.Tensor:
        """One photograph, (1, 3, imgsz, imgsz) float32 in 0..1."""
        return torch.from_numpy(self.photographs()[0])[None].float() / 255


def chosen(
    network: str, settings: list[str], model: str | None = None, seed: int | None = None, sparsity: float = 0.0,
    channels_removed: float = 0.0, imgsz: int | None = None, dataset: str = "",
) -> Chosen:  # fmt: skip
    """The network of a file (.pt, .safetensors), or of a study, by its name or that of its report.

    Args:
        settings, model, seed, sparsity, channels_removed: which model of a study, as of `_of_study`.
        imgsz: px; None: the study's, or what the file says it was trained at, else 320.
        dataset: path of a data.yaml; "": the study's, or none.

    Raises:
        SpecError: an unknown name or value, or a file or data set that cannot be used.
        StoreError: the model was not trained here yet.
    """
    require(imgsz is None or (32 <= imgsz <= 1280 and imgsz % 32 == 0), "imgsz", imgsz, "a multiple of 32 from 32 to 1280 px")
    path = Path(network).expanduser()
    try:
        data = read(Path(dataset)) if dataset else None
        if path.suffix in FILES:
            asked = {"--set": settings, "--model": model, "--seed": seed}
            asked |= {"--sparsity": sparsity, "--channels-removed": channels_removed}
            for option, value in asked.items():
                require(not value, option, value, "it with the name of a study: a file holds one network")
            found = _of_file(path, imgsz, data)
        else:
            found = _of_study(network, settings, model or "p-best", seed, sparsity, channels_removed, imgsz, data)
        for warning in data.warnings if data else ():
            print(f"data set {data.name}: {warning}", flush=True)
    except (CheckpointError, DatasetError) as error:
        raise SpecError(str(error)) from None
    _require_fitting(found)
    return found


def _of_file(path: Path, imgsz: int | None, data: Dataset | None) -> Chosen:
    network, said = load_network(path)
    for note in said.notes:
        print(f"{path.name}: {note}", flush=True)
    width = "widths of its own" if hasattr(network, "own_widths") else f"width {network.spec.width:g}"
    parameters = sum(p.numel() for p in network.parameters())
    text = f"{path.name}: YOLOv5, depth {network.spec.depth:g}, {width}, {network.nc} classes, {parameters:,} parameters"
    return Chosen(text, network, said.names, imgsz or said.imgsz or IMGSZ, data, path)


def _of_study(
    study: str, settings: list[str], model: str, seed: int | None, sparsity: float, removed: float, imgsz: int | None,
    data: Dataset | None,
) -> Chosen:  # fmt: skip
    """A training by its label, its run id or the name that reports show; with `sparsity` or `removed` n fine-tuned that way."""
    asked = opened(study, settings)
    settled = asked.settings
    seed = settled.seeds[0] if seed is None else seed
    for name, value, known in (
        ("seed", seed, settled.seeds),
        ("sparsity", sparsity, (0.0, *settled.trained_zeros)),
        ("channels-removed", removed, (0.0, *settled.channels_removed)),
    ):
        require(value in known, name, value, "one of " + ", ".join(map(str, known)))
    require(not (sparsity and removed), "sparsity", sparsity, "zeros or removed channels, not both")
    graph = graph_of(asked, ("computed",))
    if graph is None:
        require_known("model", model, trainings_of(settled))
        raise StoreError(f"the data set of {study} was not computed on this machine yet: python -m yolop run {study}")
    if sparsity or removed:
        node = graph.fine_tuned(seed, sparsity, channels_removed=removed)
    else:
        known = _trainings(graph, seed)
        if model not in known:
            require_known("model", model, [name for name in known if not name.startswith("train-")])
        node = known[model]
    elsewhere = asked.corpus and node.spec.data == asked.corpus["digest"]  # trained on what is pretrained on
    record, source = asked.record(node), asked.record(graph.corpus if elsewhere else graph.data)
    names = tuple(source.metrics["names"])
    return Chosen(record.run_id, model_of(record), names, imgsz or settled.imgsz, data or dataset_of(source))


def _trainings(graph: Graph, seed: int) -> dict[str, Node]:
    """Every training of a study by its label and the name that reports show, for one seed, and by run id for all seeds."""
    found = {label: graph.training(label, seed) for label in graph.trainings}
    found |= {NAMES[label]: node for label, node in found.items() if label in NAMES}
    for node in (node for node in all_nodes(graph) if isinstance(node.spec, TrainSpec)):
        found.setdefault(node.id, node)
        if node.spec.seed == seed:
            found.setdefault(node.spec.label, node)
    return found


def _require_fitting(found: Chosen) -> None:
    """SpecError unless the classes of the network are those of the data set."""
    if found.dataset is None:
        return
    own, theirs = found.names, found.dataset.names
    require(len(own) == len(theirs), "dataset", f"{len(theirs)} classes", f"one with the {len(own)} classes of the network")
    moved = set(own) == set(theirs) and own != theirs
    require(not moved, "names", ", ".join(theirs), f"the order of the network's classes: {', '.join(own)}")
