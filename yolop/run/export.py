"""A network as files for another runtime."""

from __future__ import annotations

from pathlib import Path

from yolop.network import yolov5
from yolop.run.chosen import chosen
from yolop.specs import require
from yolop.speed import runtimes
from yolop.speed_specs import CALIBRATED, FORMATS


def export(form: str, out: str, *which) -> None:
    """Write a network for a runtime, and `model.json`, which says how to feed it and read what it gives.

    Args:
        form: one of speed_specs.FORMATS.
        out: a folder that is new or empty.
        which: as of `chosen.chosen`.

    Raises:
        SpecError: an unknown name or value, or a folder in use.
        StoreError: the model was not trained here yet.
    """
    folder = new_folder(out)
    require(form in FORMATS, "format", form, "one of " + ", ".join(FORMATS))
    own, runtime = chosen(*which), FORMATS[form]
    folder.mkdir(parents=True, exist_ok=True)
    network = yolov5.fused(own.network)
    runtimes.export(network, runtime, own.imgsz, folder, own.photographs() if runtime in CALIBRATED else None)
    runtimes.describe(folder, runtime, own.names, own.imgsz, network.model[-1].anchors.tolist())
    print(f"{own.text}: {', '.join(sorted(path.name for path in folder.iterdir()))} in {folder}")
    if runtime in CALIBRATED and own.dataset is None:
        print("8 bits were calibrated on a few photographs: give --dataset data.yaml for those that the network will see")


def new_folder(out: str) -> Path:
    """The folder that a command writes to; SpecError unless it is new or empty."""
    folder = Path(out).expanduser()
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    require(free, "out", out, "a folder that is new or empty")
    return folder
