"""A trained model of a study as files for another runtime."""

from __future__ import annotations

from pathlib import Path

from yolop.data.load import dataset_of
from yolop.files import StoreError
from yolop.network import yolov5
from yolop.network.weights import model_of
from yolop.run.status import graph_of, opened
from yolop.specs import require
from yolop.speed import runtimes
from yolop.speed.configurations import calibration_images
from yolop.speed_specs import FORMATS
from yolop.study.graph import trainings_of


def export(
    study: str, settings: list[str], model: str, seed: int | None, form: str, out: str,
    sparsity: float = 0.0, channels_removed: float = 0.0,
) -> None:  # fmt: skip
    """Write a model that this machine has trained, and `model.json`, which says how to feed it and read what it gives.

    Args:
        study, settings: whose training it is.
        model: a label of `graph.trainings`; with `sparsity` or `channels_removed`, n fine-tuned that way instead.
        seed: of the training; None: the study's first.
        form: one of speed_specs.FORMATS.
        out: a folder that is new or empty.

    Raises:
        SpecError: an unknown name or value, or a folder in use.
        StoreError: the model was not trained here yet.
    """
    folder, asked = Path(out), opened(study, settings)
    chosen, labels = asked.settings, trainings_of(asked.settings)
    seed = chosen.seeds[0] if seed is None else seed
    require(model in labels, "model", model, "one of " + ", ".join(labels))
    require(form in FORMATS, "format", form, "one of " + ", ".join(FORMATS))
    for name, value, known in (
        ("seed", seed, chosen.seeds),
        ("sparsity", sparsity, (0.0, *chosen.trained_zeros)),
        ("channels-removed", channels_removed, (0.0, *chosen.channels_removed)),
    ):
        require(value in known, name, value, "one of " + ", ".join(map(str, known)))
    require(not (sparsity and channels_removed), "sparsity", sparsity, "zeros or removed channels, not both")
    require(not folder.exists() or not any(folder.iterdir()), "out", out, "a folder that is new or empty")
    graph = graph_of(asked, ("computed",))
    if graph is None:
        raise StoreError(f"the data set of {study} was not computed on this machine yet: python -m yolop run {study}")
    tuned = sparsity or channels_removed
    node = graph.fine_tuned(seed, sparsity, channels_removed=channels_removed) if tuned else graph.training(model, seed)
    record, runtime, imgsz = asked.record(node), FORMATS[form], chosen.imgsz
    network = yolov5.fused(model_of(record))
    folder.mkdir(parents=True, exist_ok=True)
    photographs = calibration_images(dataset_of(asked.record(graph.data)), imgsz) if form == "openvino-int8" else None
    runtimes.export(network, runtime, imgsz, folder, photographs)
    runtimes.describe(folder, runtime, tuple(asked.data["names"]), imgsz, network.model[-1].anchors.tolist())
    print(f"{record.run_id}: {', '.join(sorted(path.name for path in folder.iterdir()))} in {folder}")
