"""Data sets: generated digits, anybody's data.yaml, public sets by name. All come back as the same `Dataset`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test")


class DatasetError(ValueError):
    """A data set that cannot be used; the message names file, line, what is wrong and the way out."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and, one for one, their boxes: (n, 5) float32 of class, centre x, y, width, height in 0..1; n may be 0.

    `groups`: what each image is made from, where several are made from one photograph and so are not independent.
    `digests`: SHA-256 of the files of images, where they were read from a folder.
    `material`: hashes of all that the images may be made from, where they are generated.
    """

    images: tuple[Path, ...]
    labels: tuple[np.ndarray, ...]
    groups: tuple[str, ...] = ()
    material: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A checked data set. `digest` is over names, images and labels by split, not over where they lie.

    `warnings` says what was put up with.
    """

    name: str
    root: Path
    names: tuple[str, ...]
    splits: dict[str, Split]  # train, val, test
    digest: str
    warnings: tuple[str, ...]

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)
