"""Data sets that are written here, in YOLO layout: made once, marked with their digest, checked at each use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from yolop.data import SPLITS, Dataset
from yolop.data.folder import read
from yolop.files import MARKER, made_once
from yolop.specs import canonical

# Name of an image, its file, its boxes in px as of `yolo_lines`, its size.
Labelled = tuple[str, bytes, np.ndarray, tuple[int, int]]
Images = Callable[[str], Iterable[Labelled]]  # of a split


def made(folder: Path, data_yaml: str, identity: str, write: Callable[[Path], list[str]]) -> Dataset:
    """The data set in `folder`, which `write` fills once and returns what it left out for, as warnings.

    It is written anew where it is not whole, was changed, or is of another `identity`.

    Raises:
        StoreError: `folder` holds something that was not made here, or could not be written.
    """

    def check(place: Path) -> Dataset | None:
        try:
            marker = json.loads((place / MARKER).read_bytes())
            dataset = read(place / data_yaml) if marker["identity"] == identity else None
            whole = dataset is not None and dataset.digest == marker["digest"]
            return replace(dataset, warnings=(*dataset.warnings, *marker["warnings"])) if whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def make(place: Path) -> None:
        warnings = write(place)
        marker = {"identity": identity, "digest": read(place / data_yaml).digest, "warnings": warnings}
        (place / MARKER).write_text(canonical(marker))

    return made_once(Path(os.path.abspath(folder)), make, check)


def write_yolo(data_yaml: Path, names: Iterable[str], images: Images, head: str = "") -> None:
    """A data set beside its yaml: what `images(split)` gives for each split, in images/<split> and labels/<split>."""
    for split in SPLITS:
        pictures, labels = (data_yaml.parent / kind / split for kind in ("images", "labels"))
        pictures.mkdir(parents=True)
        labels.mkdir(parents=True)
        for name, data, boxes, size in images(split):
            (pictures / name).write_bytes(data)
            (labels / name).with_suffix(".txt").write_bytes(yolo_lines(boxes, size).encode())
    config = {split: f"images/{split}" for split in SPLITS} | {"names": list(names)}
    data_yaml.write_text(head + yaml.safe_dump(config, sort_keys=False))


def yolo_lines(boxes: np.ndarray, size: tuple[int, int]) -> str:
    """One `class cx cy w h` line per box of (class, left, top, right, bottom) in px, of an image of (width, height)."""
    centres, sizes = (boxes[:, 1:3] + boxes[:, 3:]) / 2 / size, (boxes[:, 3:] - boxes[:, 1:3]) / size
    rows = zip(boxes[:, 0], centres, sizes, strict=True)
    return "".join(f"{label:.0f} {x:.7f} {y:.7f} {w:.7f} {h:.7f}\n" for label, (x, y), (w, h) in rows)
