"""Data sets: handwritten digits on photographs, made here, and anybody's YOLO data.yaml, checked before it is used.

Both come back as the same `Dataset`, whose digest is over content, so that a copy in another folder is the same data.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
import shutil
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import combinations
from math import cos, radians, sin
from pathlib import Path

import numpy as np
import psutil
import yaml
from filelock import FileLock
from PIL import ExifTags, Image, ImageOps

from yolop.specs import DigitsSpec, canonical, printable, require, run_id
from yolop.store import sha256

SPLITS = ("train", "val", "test")


class DatasetError(ValueError):
    """A data set that cannot be used; the message names file, line, what is wrong and the way out."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and, one for one, their boxes: (n, 5) float32 of class, centre x, y, width, height in 0..1; n may be 0."""

    images: tuple[Path, ...]
    labels: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A checked data set. `digest` is over names, images and labels by split; `warnings` says what was put up with."""

    name: str
    root: Path
    names: tuple[str, ...]
    splits: dict[str, Split]  # train, val, test
    digest: str
    warnings: tuple[str, ...]

    @property
    def nc(self) -> int:
        return len(self.names)


# --- digits, made here ------------------------------------------------------------------------------------------------

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PARTS = ("digits", "corpus")
MARKER = "made.json"  # written last: a folder without it was not finished, or not made here

# No photograph is in two splits. Left out: drawings, scans of text (which hold digits of their own), and
# motorcycle_right, the same scene as motorcycle_left. The bus carries printed digits, so nobody is tested on it.
PHOTOGRAPHS = {
    "train": (
        "skimage/data/astronaut.png",
        "skimage/data/brick.png",
        "skimage/data/camera.png",
        "skimage/data/chelsea.png",
        "skimage/data/grass.png",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/ihc.png",
        "skimage/data/motorcycle_left.png",
        "skimage/data/retina.jpg",
        "sklearn/datasets/images/china.jpg",
        "ultralytics/assets/bus.jpg",
    ),
    "val": ("skimage/data/coffee.png", "skimage/data/gravel.png", "skimage/data/rocket.jpg"),
    "test": (
        "skimage/data/coins.png",
        "skimage/data/moon.png",
        "sklearn/datasets/images/flower.jpg",
        "ultralytics/assets/zidane.jpg",
    ),
}

PAPER = 80  # of 255: grey of a sample up to which nothing is drawn; ink thickens fast above, like a pen's edge
STAND_OUT = 80  # of 255: least difference in brightness between ink and what it is drawn on, before the blend
OVERLAP = 0.05  # two digits share at most this part of the smaller box
TRIES = 50  # places that a digit may try; one that finds no room is left out


def generate(spec: DigitsSpec, folder: Path) -> Dataset:
    """The digits data set of a spec in `folder`, YOLO layout: read if it is whole there, else made.

    Real handwriting (scikit-learn's 1,797 digits) on crops of real photographs. The digits data set has neither a
    sample of handwriting nor a photograph in two splits; with `part="corpus"` every split draws from the train
    material, so its own val and test say nothing about new handwriting. Image i of a split depends on (seed, part,
    split, i) and the looks asked for, not on how many images there are. Equal specs give equal bytes for equal
    versions of numpy, Pillow and the packages that the material comes from.

    It is made in a sibling folder, renamed, and marked with its digest last: what a killed run leaves is not taken for
    whole, and made anew.

    Raises:
        SpecError: a field of the spec out of its range.
        DatasetError: `folder` holds something that was not made here, or could not be written.
    """
    _check_spec(spec)
    folder = Path(os.path.abspath(folder))
    dataset = _whole(spec, folder)
    if dataset is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f".{folder.name}.lock")):  # another process may make it while we wait
                dataset = _whole(spec, folder) or _make(spec, folder)
        except OSError as error:
            reason = error.strerror or error
            raise DatasetError(f"could not write {folder}: {reason}; make room there and start again") from error
    return replace(dataset, name=spec.part)


def handwriting(seed: int) -> dict[str, list[np.ndarray]]:
    """Indices into scikit-learn's digits that a split may use, one array per digit 0..9; about 60 / 15 / 25 %."""
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    targets = _handwriting()[1]
    for digit in range(10):
        order = np.random.default_rng([seed, digit]).permutation(np.flatnonzero(targets == digit))
        cuts = [round(0.6 * len(order)), round(0.75 * len(order))]
        for split, indices in zip(SPLITS, np.split(order, cuts), strict=True):
            parts[split].append(indices)
    return parts


def render(spec: DigitsSpec, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One picture: (imgsz, imgsz, 3) uint8 RGB, and its (n, 5) int boxes: class, left, top, right, bottom in px.

    Right and bottom are exclusive: a box is the tightest around the pixels that the digit is drawn on.
    """
    rng = np.random.default_rng([spec.seed, PARTS.index(spec.part), SPLITS.index(split), index])
    source = "train" if spec.part == "corpus" else split
    pixels = _background(rng, PHOTOGRAPHS[source], spec.imgsz)
    samples = _samples(spec.seed, source)
    boxes = np.zeros((0, 5), np.int64)
    for label in rng.integers(len(spec.classes), size=rng.integers(*spec.per_image, endpoint=True)):
        mask = _digit(rng, samples[spec.classes[label]], spec)
        place = _place(rng, boxes, mask.shape, spec.imgsz)
        if place is not None:
            left, top, right, bottom = place
            _blend(rng, pixels[top:bottom, left:right], mask, spec.contrast)
            boxes = np.vstack([boxes, [label, *place]])
    return pixels, boxes


def _check_spec(spec: DigitsSpec) -> None:
    low, high = spec.size_px
    require(
        spec.classes and set(spec.classes) <= set(range(10)) and len(set(spec.classes)) == len(spec.classes),
        "classes",
        spec.classes,
        "different digits from 0 to 9",
    )
    for name in SPLITS:
        require(getattr(spec, name) >= 1, name, getattr(spec, name), "at least 1 image")
    require(32 <= spec.imgsz <= 1280, "imgsz", spec.imgsz, "32 to 1280 px")
    require(
        8 <= low <= high <= spec.imgsz * 2 // 3,
        "size_px",
        spec.size_px,
        f"(low, high) from 8 to two thirds of imgsz, {spec.imgsz * 2 // 3} px",
    )
    require(0 < spec.contrast[0] <= spec.contrast[1] <= 1, "contrast", spec.contrast, "(low, high) within (0, 1]")
    require(0 <= spec.turn_deg <= 180, "turn_deg", spec.turn_deg, "0 to 180")
    require(0 <= spec.per_image[0] <= spec.per_image[1] <= 20, "per_image", spec.per_image, "(low, high) from 0 to 20")
    require(spec.part in PARTS, "part", spec.part, " or ".join(PARTS))
    require(spec.seed >= 0, "seed", spec.seed, "a whole number from 0")


@cache
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) uint8 ink, 0 none to 255 full, and the digit that each shows."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images * 255 / 16).round().astype(np.uint8), digits.target


@cache
def _samples(seed: int, split: str) -> list[np.ndarray]:
    return handwriting(seed)[split]


@cache
def _photograph(name: str) -> Image.Image:
    package, _, inside = name.partition("/")
    found = find_spec(package)  # finds the folder without importing the package
    if found is None:
        raise DatasetError(f"photograph {name} needs the package {package}: install what requirements.lock lists")
    return Image.open(Path(found.submodule_search_locations[0]) / inside).convert("RGB")


def _background(rng: np.random.Generator, names: tuple[str, ...], imgsz: int) -> np.ndarray:
    """A square crop of one of the photographs, from full detail to the whole picture, maybe mirrored, tinted."""
    photograph = _photograph(names[rng.integers(len(names))])
    largest = min(photograph.size)
    side = int(rng.integers(min(imgsz, largest), largest, endpoint=True))
    left, top = (int(rng.integers(length - side, endpoint=True)) for length in photograph.size)
    box = (left, top, left + side, top + side)
    crop = photograph.resize((imgsz, imgsz), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
    gains = rng.integers(88, 160, size=3, dtype=np.uint16)  # of 128; untinted, colour gives digits away on grey
    tinted = (np.array(crop, np.uint16) * gains >> 7).clip(0, 255).astype(np.uint8)
    return tinted[:, :: rng.choice([-1, 1])]


def _digit(rng: np.random.Generator, samples: np.ndarray, spec: DigitsSpec) -> np.ndarray:
    """(height, width) uint8 ink of one sample at random size and turn, cut to the pixels that are drawn."""
    ink = _handwriting()[0][rng.choice(samples)]
    ink = np.pad(ink[:, (ink > PAPER).any(axis=0)], 1)  # samples fill their height, not their width
    scale = int(rng.integers(*spec.size_px, endpoint=True)) / 8  # a sample is 8 pixels high
    size = [round(length * scale) for length in ink.shape[::-1]]
    upright = Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC)
    turned = np.asarray(_turn(upright, rng.uniform(-spec.turn_deg, spec.turn_deg)))
    drawn = (3 * (turned.astype(int) - PAPER)).clip(0, 255).astype(np.uint8)
    rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
    return drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _turn(image: Image.Image, degrees: float) -> Image.Image:
    """The image turned about its middle, on a canvas that holds any turn.

    Sine and cosine are rounded to 1/4096: all products of the bilinear interpolation are then exact in doubles, and
    no processor rounds them differently.
    """
    c, s = (round(f(radians(degrees)) * 4096) / 4096 for f in (cos, sin))
    side = int((image.width**2 + image.height**2) ** 0.5) + 2
    x, y, middle = image.width / 2, image.height / 2, side / 2
    matrix = (c, s, x - (c + s) * middle, -s, c, y - (c - s) * middle)
    return image.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _place(rng: np.random.Generator, boxes: np.ndarray, shape: tuple[int, int], imgsz: int) -> np.ndarray | None:
    """The first of some random places (left, top, right, bottom) that overlaps no box by much; None if all do."""
    size = np.array(shape[::-1])
    corners = rng.integers(imgsz - size, size=(TRIES, 1, 2), endpoint=True)
    shared = np.minimum(boxes[:, 3:], corners + size) - np.maximum(boxes[:, 1:3], corners)
    smaller = np.minimum((boxes[:, 3:] - boxes[:, 1:3]).prod(axis=1), size.prod())
    free = np.flatnonzero((shared.clip(0).prod(axis=2) <= OVERLAP * smaller).all(axis=1))
    return np.concatenate([corners[free[0], 0], corners[free[0], 0] + size]) if len(free) else None


def _blend(rng: np.random.Generator, under: np.ndarray, mask: np.ndarray, contrast: tuple[float, float]) -> None:
    """Draw the mask onto `under`, in place, in one random colour; whole numbers only, so it is exact."""
    brightness = np.array([299, 587, 114])
    ground = under.sum(axis=(0, 1), dtype=int) @ brightness // mask.size
    colour = rng.integers(256, size=3, dtype=np.int32)
    while abs(colour @ brightness - ground) < STAND_OUT * 1000:
        colour = rng.integers(256, size=3, dtype=np.int32)
    full = 255 * 256
    share = mask[..., None].astype(np.int32) * round(rng.uniform(*contrast) * 256)
    under[:] = (under * (full - share) + colour * share + full // 2) // full


def _whole(spec: DigitsSpec, folder: Path) -> Dataset | None:
    """The data set of this spec in the folder; None if it is absent, unfinished, damaged or another one."""
    try:
        made = json.loads((folder / MARKER).read_bytes())
        dataset = read(folder / "data.yaml") if made["spec"] == run_id(spec) else None
        return dataset if dataset and made["digest"] == dataset.digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(spec: DigitsSpec, folder: Path) -> Dataset:
    if folder.exists() and not (folder / MARKER).exists() and any(folder.iterdir()):
        raise DatasetError(f"{folder} holds something that was not made here: name another folder, or empty this one")
    unfinished, old = (folder.with_name(f".{folder.name}.{word}") for word in ("unfinished", "old"))
    for leftover in (unfinished, old):  # of a killed run
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _write(spec, unfinished)
        (unfinished / MARKER).write_text(canonical({"spec": run_id(spec)}))  # ours, but not whole before the digest
        if folder.exists():
            folder.rename(old)
        unfinished.rename(folder)
    finally:
        for leftover in (unfinished, old):
            shutil.rmtree(leftover, ignore_errors=True)
    dataset = read(folder / "data.yaml")
    (folder / MARKER).write_text(canonical({"spec": run_id(spec), "digest": dataset.digest}))
    return dataset


def _write(spec: DigitsSpec, folder: Path) -> None:
    for split in SPLITS:
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(getattr(spec, split)):
            pixels, boxes = render(spec, split, index)
            (images / f"{index:05d}.png").write_bytes(_png(pixels))
            (labels / f"{index:05d}.txt").write_bytes(yolo_lines(boxes, (spec.imgsz, spec.imgsz)).encode())
    config = {split: f"images/{split}" for split in SPLITS} | {"names": [NAMES[digit] for digit in spec.classes]}
    text = f"# {run_id(spec)}: handwritten digits on photographs, made by yolop\n"
    (folder / "data.yaml").write_text(text + yaml.safe_dump(config, sort_keys=False))


def _png(pixels: np.ndarray) -> bytes:
    """(h, w, 3) uint8 as a PNG file, not compressed: what zlib makes of the same pixels differs between its builds."""
    height, width, _ = pixels.shape
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0))).tobytes()  # each row begins with its filter, 0: none
    blocks = [rows[start : start + 65535] for start in range(0, len(rows), 65535)]
    sizes = [struct.pack("<?HH", block is blocks[-1], len(block), len(block) ^ 65535) for block in blocks]
    stored = b"".join(size + block for size, block in zip(sizes, blocks, strict=True))
    chunks = {
        b"IHDR": struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0),  # 8 bits a channel, RGB
        b"IDAT": b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(rows)),
        b"IEND": b"",
    }
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def yolo_lines(boxes: np.ndarray, size: tuple[int, int]) -> str:
    """One `class cx cy w h` line per box of (class, left, top, right, bottom) in px, of an image of (width, height)."""
    centres, sizes = (boxes[:, 1:3] + boxes[:, 3:]) / 2 / size, (boxes[:, 3:] - boxes[:, 1:3]) / size
    rows = zip(boxes[:, 0], centres, sizes, strict=True)
    return "".join(f"{label:.0f} {x:.7f} {y:.7f} {w:.7f} {h:.7f}\n" for label, (x, y), (w, h) in rows)


# --- anybody's data.yaml ----------------------------------------------------------------------------------------------

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")  # never those that Pillow hands to another program
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS, MAX_SIDE = 80_000_000, 65_535  # more is a mistake or an attack, and 320 MB each; one decoder works in rows
LARGE_PIXELS = 8_000_000  # of those only one at a time is decoded
MAX_IMAGE, MAX_LABEL, MAX_LIST, MAX_YAML = 2**29, 2**21, 2**27, 2**20  # bytes of a file
MAX_NAME = 100  # characters of a class
_ONE_LARGE = threading.Lock()
JOINERS = str.maketrans("", "", "\u200c\u200d")  # not shown themselves, but part of words and emoji
ROUNDING = 1e-6  # coordinates may leave 0..1 by this much and are put back
BEYOND = 0.01  # of the image: a box that reaches further over an edge is kept, with a warning
SHOWN = 10  # problems in one message
KEPT_BYTES = 4 * 10**9  # of a split's images that stay in memory at most, where that much is free


def read(data_yaml: Path) -> Dataset:
    """Anybody's YOLO data set, every file of it checked before any is used.

    As in YOLOv5: `train`, `val` and, if there, `test` are a folder, a .txt list of images, or a list of these; `names`
    is a list or a mapping from 0; the label file of an image is found by turning the last /images/ of its path into
    /labels/; an image without one is background; repeated label lines are dropped, with a warning; boxes that reach
    over an edge stay as they are, with a warning if by more than 1 % of the image.

    Otherwise than there: `path` is relative to the yaml, the splits to `path`, lines of a list to that list or to
    `path`. Nothing is downloaded or run; no label cache is opened or written; no file is changed; an image or label
    that is wrong is not left out but refused. `path` may name any folder for a data set, but all files must lie below it
    or beside the yaml, links followed: a stranger's list or link must not bring private files into a report.

    Raises:
        DatasetError: with up to ten problems as file:line, and how many there are.
    """
    data_yaml = Path(os.path.abspath(data_yaml))
    config, names = _config(data_yaml)
    root = Path(os.path.abspath(data_yaml.parent / config.get("path", ".")))
    homes = tuple(Path(os.path.realpath(folder)) for folder in (data_yaml.parent, root))
    user = Path(os.path.realpath(os.path.expanduser("~")))
    problems = [f"path: {root} holds more than a data set"] * (homes[0] != homes[1] and user.is_relative_to(homes[1]))
    _refuse(data_yaml, problems)
    paths = {split: _images(split, config[split], root, homes, problems) for split in SPLITS if config.get(split)}
    _refuse(data_yaml, problems)

    files = list(dict.fromkeys(image for images in paths.values() for image in images))
    with ThreadPoolExecutor() as pool:
        samples = dict(
            zip(files, pool.map(partial(_sample, root=root, homes=homes, nc=len(names)), files), strict=True)
        )
    _refuse(data_yaml, [problem for sample in samples.values() for problem in sample.problems])
    _refuse(
        data_yaml,
        [
            f"{split}: no box in any of its {len(images)} images; the first one's belong in {_label_path(images[0])}"
            for split, images in paths.items()
            if not any(len(samples[image].boxes) for image in images)
        ],
    )

    warnings = _warnings(paths, samples, root)
    paths.setdefault("test", paths["val"])
    lines = [f"{split}/{_name(image, root)} {samples[image].digest}" for split in paths for image in paths[split]]
    digest = hashlib.sha256("\n".join([canonical(names), *sorted(lines)]).encode(errors="surrogateescape")).hexdigest()
    splits = {split: Split(tuple(images), tuple(samples[i].boxes for i in images)) for split, images in paths.items()}
    return Dataset(_dataset_name(data_yaml), root, tuple(names), splits, digest, tuple(warnings))


def summary(dataset: Dataset) -> dict:
    """What is in a data set, ready for JSON: counts per split, and quantiles of image and box sizes in px."""
    splits = {}
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
        }
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "names": list(dataset.names),
        "splits": splits,
        "warnings": list(dataset.warnings),
    }


def read_image(path: Path) -> np.ndarray:
    """An image as (height, width, 3) uint8 RGB at its own size; DatasetError if the file is not a whole image."""
    try:
        return np.asarray(_decode(path))
    except DatasetError as error:
        raise DatasetError(f"{printable(path, 1000)}: {error}") from None


def load_image(
    path: Path, imgsz: int, shape: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[float, int, int]]:
    """An image letterboxed to `shape` (height, width; square if None), uint8 RGB, and (ratio, pad_x, pad_y).

    x_out = x_in * ratio + pad_x. As YOLOv5's validation: the longer side becomes imgsz, by OpenCV's area filter where that
    shrinks it, the rest is grey 114, half on each side.

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


@dataclass
class _Sample:
    """What one image and its label file hold, and what is wrong with them."""

    image_digest: str = ""
    digest: str = ""  # of image and label
    boxes: np.ndarray | None = None
    problems: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)  # file:line of each
    beyond: list[str] = field(default_factory=list)


def _refuse(data_yaml: Path, problems: list[str]) -> None:
    if problems:
        shown = [printable(problem, 1000) for problem in problems[:SHOWN]]
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        head = f"{printable(data_yaml, 1000)}: {count}; nothing was used"
        raise DatasetError("\n  ".join([head, *shown, *more]))


class _Yaml(yaml.SafeLoader):
    """YAML without what only attacks need: aliases, which can stand for billions of values, and endless numbers."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name): write out what that stands for")
        return super().compose_node(parent, index)

    def construct_scalar(self, node):
        if len(node.value) > MAX_NAME and not node.tag.endswith(":str"):
            raise yaml.YAMLError(f"a number of {len(node.value)} characters")
        return super().construct_scalar(node)


def _small(path: Path, limit: int) -> bytes:
    """The content of a file that has no reason to be large; DatasetError if it is."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DatasetError(f"larger than {limit // 2**20} MB")
    return data


def _config(data_yaml: Path) -> tuple[dict, list[str]]:
    """The parsed yaml and the names of the classes; DatasetError with all that is wrong with them."""
    if not os.path.isfile(data_yaml):
        raise DatasetError(f"{printable(data_yaml, 1000)}: no such file; give the path of a YOLO data.yaml")
    try:
        config = yaml.load(_small(data_yaml, MAX_YAML), _Yaml)  # noqa: S506  safer than SafeLoader
    except Exception as error:  # the parser raises nearly anything on odd input
        text = f"{data_yaml}: not readable as YAML: {' '.join(str(error).split())}"
        raise DatasetError(printable(text, 1000)) from error
    if not isinstance(config, dict):
        raise DatasetError(f"{printable(data_yaml, 1000)}: not a YAML mapping with train, val and names")
    problems = [f"{key}: missing" for key in ("train", "val", "names") if not config.get(key)]
    if config.get("download"):
        problems.append("download: ultralytics would run it; fetch the images yourself, then remove this entry")
    for key in ("path", *SPLITS):
        value = config.get(key) or ""
        items = value if isinstance(value, list) and key != "path" else [value]
        if not all(isinstance(item, str) and "\0" not in item for item in items):
            problems.append(f"{key}: {_shown(value)} is not a path")
    names = _class_names(config.get("names") or [], problems)
    nc = config.get("nc")
    if nc is not None and (isinstance(nc, bool) or nc != len(names)):
        problems.append(f"nc: {_shown(nc)}, but there are {len(names)} names; correct one, or leave nc out")
    _refuse(data_yaml, problems)
    return {key: value for key, value in config.items() if value}, names


def _class_names(value, problems: list[str]) -> list[str]:
    if isinstance(value, dict):
        by_id = {str(key): name for key, name in value.items()}
        if set(by_id) != {str(index) for index in range(len(value))}:
            problems.append(f"names: the keys {_shown(list(by_id))} are not 0 to {len(value) - 1}")
            return list(by_id)
        value = [by_id[str(index)] for index in range(len(value))]
    if not isinstance(value, list):
        problems.append(f"names: {_shown(value)} is neither a list nor a mapping from 0")
        return []
    if not all(isinstance(name, (str, int)) and not isinstance(name, bool) and str(name).strip() for name in value):
        problems.append(f"names: {_shown(value)} holds something that is not text; put it in quotes")
        return value
    names = [str(name).strip() for name in value]
    problems += [f"names: {_shown(name)} stands for two classes" for name, n in Counter(names).items() if n > 1]
    for name in names:
        if len(name) > MAX_NAME or not name.translate(JOINERS).isprintable():
            problems.append(f"names: {_shown(name)} has more than {MAX_NAME} characters, or some that cannot be shown")
    return names


def _shown(value) -> str:
    return reprlib.repr(value)[:80]


def _images(split: str, entry: str | list[str], root: Path, homes: tuple[Path, ...], problems: list[str]) -> list[Path]:
    """The images of one split, sorted within a folder, in the order of a list, each once."""
    found, before = [], len(problems)
    for item in entry if isinstance(entry, list) else [entry]:
        path = _find(item, homes, root)
        if outside := _outside(path, homes):
            problems.append(f"{split}: {outside}")
        elif os.path.isdir(path):
            files = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
            found += sorted((file for file in files if file.is_file()), key=Path.as_posix)
        elif os.path.isfile(path) and path.suffix == ".txt":
            found += _listed(path, root, homes, problems)
        else:
            problems.append(f"{split}: {item} leads to {path}, neither a folder nor a .txt list of images")
    if not found and len(problems) == before:
        problems.append(f"{split}: no images in {_shown(entry)}; looked for {' '.join(SUFFIXES)}")
    return list(dict.fromkeys(found))


def _find(item: str, homes: tuple[Path, ...], *bases: Path) -> Path:
    """Where a path of a yaml or list leads: below the first base where it exists, rather inside the data set."""
    places = [Path(os.path.abspath(base / item)) for base in bases]
    if item.startswith("../"):  # common exports write ../train/images and mean the yaml's own folder
        places += [Path(os.path.abspath(base / item[3:])) for base in bases]
    there = [place for place in places if os.path.exists(place)]
    return next((place for place in there if not _outside(place, homes)), [*there, *places][0])


def _outside(path: Path, homes: tuple[Path, ...]) -> str:
    """What is wrong with a path that leads out of the data set, by its name or over a link; else empty."""
    real = Path(os.path.realpath(path)) if os.path.exists(path) else homes[0]
    if any(real.is_relative_to(home) for home in homes):
        return ""
    return f"{path} leads out of the data set, to {real}; move that into it, or let path name the folder that holds all"


def _listed(list_file: Path, root: Path, homes: tuple[Path, ...], problems: list[str]) -> list[Path]:
    found, where = [], _name(list_file, root)
    try:
        lines = _small(list_file, MAX_LIST).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError, DatasetError) as error:
        problems.append(f"{where}: not readable as UTF-8 text: {error}")
        return found
    for number, line in enumerate(lines, 1):
        path = _find(line.strip(), homes, list_file.parent, root)
        if not line.strip():
            continue
        elif not os.path.isfile(path):
            problems.append(f"{where}:{number}: no image {path}")
        elif path.suffix.lower() not in SUFFIXES:
            problems.append(f"{where}:{number}: {path.name} is none of {' '.join(SUFFIXES)}")
        else:
            found.append(path)
    return found


def _label_path(image: Path) -> Path:
    head, images, tail = image.as_posix().rpartition("/images/")
    return Path(f"{head}/labels/{tail}" if images else image).with_suffix(".txt")


def _name(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _sample(image: Path, root: Path, homes: tuple[Path, ...], nc: int) -> _Sample:
    """Decode one image and parse its labels: problems are collected, not raised."""
    sample, label = _Sample(), _label_path(image)
    sample.problems = [outside for outside in (_outside(path, homes) for path in (image, label)) if outside]
    if sample.problems:
        return sample
    try:
        _decode(image)
        sample.image_digest = sha256(image)
    except (OSError, DatasetError) as error:
        sample.problems.append(f"{_name(image, root)}: {error}")
    try:
        data = _small(label, MAX_LABEL) if os.path.isfile(label) else b""
        _parse(sample, data.decode("utf-8-sig").splitlines(), _name(label, root), nc)
        sample.digest = f"{sample.image_digest} {hashlib.sha256(data).hexdigest()}"
    except (OSError, UnicodeDecodeError, DatasetError) as error:
        sample.problems.append(f"{_name(label, root)}: not readable as UTF-8 text: {error}")
    return sample


def _parse(sample: _Sample, lines: list[str], where: str, nc: int) -> None:
    boxes = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            box = _box(line, nc)
        except ValueError as error:
            sample.problems.append(f"{where}:{number}: {error}")
            continue
        if box in boxes:
            sample.repeated.append(f"{where}:{number}")
        boxes[box] = None
        if any(abs(centre - 0.5) + side / 2 > 0.5 + BEYOND for centre, side in (box[1::2], box[2::2])):
            sample.beyond.append(f"{where}:{number}")
    sample.boxes = np.array(list(boxes), np.float32).reshape(-1, 5)


def _box(line: str, nc: int) -> tuple[float, ...]:
    """(class, cx, cy, w, h) of a label line; ValueError says what is wrong with it."""
    columns, shown = line.split(), line.strip()[:60]
    if len(columns) != 5:
        raise ValueError(f"{len(columns)} columns, must be 5: class cx cy w h ({shown})")
    try:
        label, *coordinates = map(float, columns)
    except ValueError:
        raise ValueError(f"not numbers: {shown}") from None
    if not (0 <= label < nc and label.is_integer()):
        raise ValueError(f"class {columns[0]}, must be a whole number from 0 to {nc - 1}")
    if not all(-ROUNDING <= value <= 1 + ROUNDING for value in coordinates):
        raise ValueError(f"coordinates must be 0 to 1, as shares of width and height, not px: {shown}")
    cx, cy, w, h = (min(max(value, 0.0), 1.0) for value in coordinates)
    if w == 0 or h == 0:
        raise ValueError(f"a box without area: {shown}")
    return label, cx, cy, w, h


def _decode(path: Path) -> Image.Image:
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
            if image.mode[0] in "IF":
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
        raise DatasetError(f"not a whole image ({error}); replace it, or remove it and its label") from error


def _warnings(paths: dict[str, list[Path]], samples: dict[Path, _Sample], root: Path) -> list[str]:
    found = []
    for one, other in combinations(paths, 2):
        seen = {samples[image].image_digest for image in paths[one]}
        shared = sum(samples[image].image_digest in seen for image in paths[other])
        if shared:
            found.append(f"{shared} of {len(paths[other])} images of {other} are in {one} too: not unseen data")
    if "test" not in paths:
        found.append("no test split: val stands in for it, so what was chosen on val is judged on val")
    kinds = {"repeated": "repeated label lines dropped", "beyond": f"boxes reach over an edge by > {BEYOND:.0%}, kept"}
    for kind, text in kinds.items():
        places = [place for sample in samples.values() for place in getattr(sample, kind)]
        if places:
            found.append(f"{len(places)} {text}; the first: {places[0]}")
    labels = {_label_path(image) for image in samples}
    folders = {label.parent for label in labels}
    orphans = sorted({label for folder in folders for label in folder.glob("*.txt")} - labels)
    if orphans:
        found.append(f"{len(orphans)} label files belong to no image; the first: {_name(orphans[0], root)}")
    caches = {cache for folder in folders for place in (folder, folder.parent) for cache in place.glob("*.cache")}
    found += [f"{_name(file, root)} ignored: a label cache is a pickle, never opened" for file in sorted(caches)]
    return [printable(text) for text in found]


def _dataset_name(data_yaml: Path) -> str:
    """A readable name that is safe in file names: the yaml's, or its folder's where all are called data.yaml."""
    stem = data_yaml.parent.name if data_yaml.stem in ("data", "dataset") else data_yaml.stem
    return re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-")[:60] or "dataset"


def image_size(image: Path) -> tuple[int, int]:
    """(width, height) in px as `load_image` sees it, from the header alone."""
    with Image.open(image, formats=FORMATS) as header:
        turned = header.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return header.size[::-1] if turned else header.size


def _quantiles(values: np.ndarray) -> dict[str, float]:
    shares = {"min": 0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1}
    return {name: round(float(np.quantile(values, share)), 1) for name, share in shares.items()}
