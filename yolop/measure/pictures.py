"""Detections of several networks on the same few pictures, for people to look at."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from yolop.data.load import dataset_of
from yolop.measure.evaluation import Validation, detect
from yolop.measure.pruning import subject
from yolop.specs import PicturesSpec
from yolop.store import Record


def compute(spec: PicturesSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Pictures (JPEG, base64) with their true boxes, and the boxes that each variant detects in them.

    Boxes are class, x1, y1, x2, y2 in px for the truth; x1, y1, x2, y2, confidence, class for detections.
    """
    images = Validation(dataset_of(parents["data"]), spec.split, spec.imgsz)
    eligible = [i for i, targets in enumerate(images.targets) if len(targets) >= (2 if spec.variants else 1)]
    chosen = eligible[:: max(len(eligible) // spec.images, 1)][: spec.images]  # spread over the split
    if not spec.variants:  # the data themselves: first where the smallest and the largest object are
        areas = {i: (images.targets[i][:, 3:] - images.targets[i][:, 1:3]).prod(axis=1) for i in eligible}
        ends = [min(areas, key=lambda i: areas[i].min()), max(areas, key=lambda i: areas[i].max())]
        chosen = list(dict.fromkeys([*ends, *chosen]))[: spec.images]
    pictures = []
    for i in chosen:
        file = io.BytesIO()
        Image.fromarray(images.images[i].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=85)
        pictures.append({"jpeg": base64.b64encode(file.getvalue()).decode(), "truth": images.targets[i].tolist()})
    detections = []
    for variant in spec.variants:
        weights = parents[variant.weights].path("weights.safetensors") if variant.weights else None
        network = subject(variant, len(images.names), weights)
        boxes = [detect(network, images.images[i][None])[0].tolist() for i in chosen]
        detections.append({"label": variant.text, "boxes": boxes})
    return {"names": list(images.names), "pictures": pictures, "detections": detections}
