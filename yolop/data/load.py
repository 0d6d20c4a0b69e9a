"""From a record to its data set, and from a data set to what its record says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from yolop.data import Dataset, DatasetError, digits, public
from yolop.data.folder import read
from yolop.data.images import image_size
from yolop.specs import DigitsSpec, FolderSpec, require
from yolop.store import Record


def compute(spec: DigitsSpec | FolderSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Metrics of a data set's record, as of `summary`; what has to be made for it lies in `folder`/dataset.

    Says on the console what was found, before anything is trained on it.
    """
    dataset = _load(spec, folder)
    for warning in dataset.warnings:
        print(f"data set {dataset.name}: {warning}", flush=True)
    return summary(dataset)


def dataset_of(record: Record) -> Dataset:
    """The data set of a record, checked: it is the one that was recorded, or it is not used.

    Raises:
        StoreError: the record is committed evidence, which comes without data.
        DatasetError: files are wrong, or others than when the record was made.
    """
    dataset = _load(record.asked, record.path("dataset").parent)
    if dataset.digest != record.metrics["digest"]:
        raise DatasetError(
            f"{dataset.root}: its content has changed since {record.run_id} was recorded: bring the files back, "
            "or start again, and the data set as it is now is taken for another one"
        )
    return dataset


def require_unseen(corpus: Path, data: Path) -> None:
    """SpecError if a set for pretraining has pictures, by content, that the data set is validated or tested on."""
    known, tested = {d for split in read(corpus).splits.values() for d in split.digests}, read(data).splits
    for name in ("val", "test"):
        digests = tested[name].digests
        seen = sum(digest in known for digest in digests)
        require(not seen, "corpus", f"{corpus}, with {seen} of the {len(digests)} images of {name}", "a set without them")


def summary(dataset: Dataset) -> dict:
    """What is in a data set, ready for JSON: counts per split, and quantiles of image and box sizes in px."""
    splits, trained = {}, set(dataset.splits["train"].digests)
    for name, split in dataset.splits.items():
        sizes = np.array([image_size(image) for image in split.images])
        boxes = np.vstack(split.labels)
        boxes_px = np.vstack([label[:, 3:] * size for label, size in zip(split.labels, sizes, strict=True)])
        counts = np.bincount(boxes[:, 0].astype(int), minlength=dataset.nc)
        splits[name] = {
            "images": len(split.images),
            "background_images": sum(len(label) == 0 for label in split.labels),
            "boxes": len(boxes),
            "boxes_per_class": dict(zip(dataset.names, counts.tolist(), strict=True)),
            "image_width_px": _quantiles(sizes[:, 0]),
            "image_height_px": _quantiles(sizes[:, 1]),
            "box_width_px": _quantiles(boxes_px[:, 0]),
            "box_height_px": _quantiles(boxes_px[:, 1]),
        } | ({"material": list(split.material)} if split.material else {})
        leaked = sum(digest in trained for digest in split.digests) if name != "train" else 0
        splits[name] |= {"seen_in_train": leaked} if leaked else {}
    own = {"name": dataset.name, "digest": dataset.digest, "names": list(dataset.names)}
    return own | {"splits": splits, "warnings": list(dataset.warnings)}


def _quantiles(values: np.ndarray) -> dict[str, float]:
    shares = {"min": 0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1}
    return {name: round(float(np.quantile(values, share)), 1) for name, share in shares.items()}


def _load(spec: DigitsSpec | FolderSpec, folder: Path) -> Dataset:
    if isinstance(spec, DigitsSpec):
        return digits.generate(spec, folder / "dataset")
    return read(Path(spec.path)) if spec.path else public.load(spec.name, folder / "dataset")
