"""Images: decoded with care, letterboxed, and kept in memory while there is room."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import psutil
from PIL import ExifTags, Image, ImageOps

from yolop.data import DatasetError
from yolop.files import LFS_POINTER
from yolop.specs import printable

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")  # never those that Pillow hands to another program
MAX_PIXELS, MAX_SIDE = 80_000_000, 65_535  # more is a mistake or an attack, and 320 MB each; one decoder works in rows
MAX_IMAGE = 2**29  # bytes of a file
LARGE_PIXELS = 8_000_000  # of those only one at a time is decoded
KEPT_BYTES = 4 * 10**9  # of a split's images that stay in memory at most, where that much is free
_ONE_LARGE = threading.Lock()


def decode(path: Path) -> Image.Image:
    """The whole image as RGB, turned as its EXIF says; DatasetError, without the path, if that cannot be."""
    try:
        if os.path.getsize(path) > MAX_IMAGE:
            raise DatasetError(f"larger than {MAX_IMAGE // 2**20} MB")
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS or min(width, height) < 10 or max(width, height) > MAX_SIDE:
                most = f"{MAX_PIXELS // 10**6} megapixels, {MAX_SIDE:,} px at most"
                raise DatasetError(f"{width}x{height} px; use 10 px a side to {most}")
            tile = [getattr(image, "tag_v2", {}).get(tag, 1) for tag in (322, 323)]  # a TIFF's may be larger than it
            if tile[0] * tile[1] > LARGE_PIXELS:
                raise DatasetError(f"tiles of {tile[0]}x{tile[1]} px; save it without tiles")
            packed = [tile.args if isinstance(tile.args, str) else str(tile.args[0]) for tile in image.tile]  # such as RGB;16B
            if image.mode[0] in "IF" or any(";16" in raw and not raw.startswith("BGR") for raw in packed):
                raise DatasetError(f"pixels of more than 8 bits ({image.mode}); save it with 8 bits a channel")
            with _ONE_LARGE if width * height > LARGE_PIXELS else nullcontext():
                ImageOps.exif_transpose(image, in_place=True)
                image.load()
                return image if image.mode == "RGB" else image.convert("RGB")
    except DatasetError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        if isinstance(error, ImportError):  # ultralytics makes Image.open look for a HEIF package that is not here
            error = error.__context__ or error
        with path.open("rb") as file:
            pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        what = f"not a whole image ({error}); replace it, or remove it and its label"
        raise DatasetError("a pointer of Git LFS: git lfs pull" if pointer else what) from error


def read_image(path: Path) -> np.ndarray:
    """An image as (height, width, 3) uint8 RGB at its own size; DatasetError if the file is not a whole image."""
    try:
        return np.asarray(decode(path))
    except DatasetError as error:
        raise DatasetError(f"{printable(path, 1000)}: {error}") from None


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in px as `read_image` gives them, from the header alone."""
    with Image.open(path, formats=FORMATS) as header:
        turned = header.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return header.size[::-1] if turned else header.size


def load_image(
    path: Path, imgsz: int, shape: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[float, int, int]]:
    """An image letterboxed to `shape` (height, width; square if None), uint8 RGB, and (ratio, pad_x, pad_y).

    x_out = x_in * ratio + pad_x. As in YOLOv5's validation, the longer side becomes imgsz (OpenCV's area filter shrinks,
    bilinear interpolation enlarges) and the rest is grey 114, half on each side.

    Raises:
        DatasetError: the file is not a whole image.
    """
    import cv2

    image = read_image(path)
    (width, height), (ratio, left, top) = placement(image.shape[1::-1], imgsz, shape)
    if ratio != 1:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    letterboxed = np.full((*(shape or (imgsz, imgsz)), 3), 114, np.uint8)
    letterboxed[top : top + height, left : left + width] = image
    return letterboxed, (ratio, left, top)


def placement(
    size: tuple[int, int], imgsz: int, shape: tuple[int, int] | None = None
) -> tuple[tuple[int, int], tuple[float, int, int]]:
    """Where `load_image` puts an image of (width, height): its size in there, and (ratio, pad_x, pad_y)."""
    ratio = imgsz / max(size)
    width, height = (max(1, round(side * ratio)) for side in size)
    rows, columns = shape or (imgsz, imgsz)
    return (width, height), (ratio, (columns - width) // 2, (rows - height) // 2)


class Kept(Sequence):
    """What `read(i)` gives for i below `count`: read when first asked for, then kept in memory, up to a budget.

    What is beyond the budget is read again each time: slower, and the same to the bit. So the budget is no part of any
    identity, and a set of any size fits any machine. It is a quarter of the memory that is free at the first read, so
    that splits which fill up one after the other never take all.
    """

    def __init__(self, read: Callable[[int], np.ndarray], count: int):
        self.read, self.items, self.left = read, [None] * count, None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int):
        item = self.items[i]
        if item is None:
            item = self.read(i)
            if self.left is None:
                self.left = min(KEPT_BYTES, psutil.virtual_memory().available // 4)
            if item.nbytes <= self.left:
                self.items[i], self.left = item, self.left - item.nbytes
        return item
