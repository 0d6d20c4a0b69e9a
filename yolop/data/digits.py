"""Digits: real handwriting on photographs, made here. Equal specs give equal bytes."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from math import cos, radians, sin
from pathlib import Path

import numpy as np
from PIL import Image

from yolop.data import SPLITS, Dataset, DatasetError
from yolop.data.written import Labelled, made, write_yolo
from yolop.specs import DigitsSpec, require, run_id

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PARTS = ("digits", "corpus")

CUT = 0  # seed of the one cut of the handwriting into splits, for the data set and for every corpus
# No photograph is in two splits. Left out: drawings, scans of text (which hold digits of their own), and
# motorcycle_right, the same scene as motorcycle_left. The bus carries printed digits, so nobody is tested on it.
PHOTOGRAPHS = {
    "train": (
        "skimage/data/astronaut.png", "skimage/data/brick.png", "skimage/data/camera.png", "skimage/data/chelsea.png",
        "skimage/data/grass.png", "skimage/data/hubble_deep_field.jpg", "skimage/data/ihc.png",
        "skimage/data/motorcycle_left.png", "skimage/data/retina.jpg", "sklearn/datasets/images/china.jpg",
        "ultralytics/assets/bus.jpg",
    ),
    "val": ("skimage/data/coffee.png", "skimage/data/gravel.png", "skimage/data/rocket.jpg"),
    "test": (
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg", "skimage/data/cell.png", "skimage/data/coins.png",
        "skimage/data/moon.png", "sklearn/datasets/images/flower.jpg", "ultralytics/assets/zidane.jpg",
    ),
}  # fmt: skip

PAPER = 80  # of 255: grey of a sample up to which nothing is drawn; ink thickens fast above, like a pen's edge
STAND_OUT = 80  # of 255: least difference in brightness between ink and what it is drawn on, before the blend
OVERLAP = 0.05  # two digits share at most this part of the smaller box
TRIES = 50  # places that a digit may try; one that finds no room is left out


def generate(spec: DigitsSpec, folder: Path) -> Dataset:
    """The digits data set of a spec in `folder`, YOLO layout: read if it is whole there, else made.

    Real handwriting (scikit-learn's 1,797 digits) on crops of real photographs. Neither a sample of handwriting nor a
    photograph is in two splits, whatever the seed; with `part="corpus"` every split draws from the train material, so its
    own val and test say nothing about new handwriting. The 13 writers are not told apart by the source, so a writer may be
    in two splits. Images of one photograph are not independent: `Split.groups` names it. Image i of a split depends on
    (seed, part, split, i) and the looks asked for, not on how many images there are. Equal specs give equal bytes for
    equal versions of numpy, Pillow and the packages that the material comes from.

    Raises:
        SpecError: a field of the spec out of its range.
        StoreError: `folder` holds something that was not made here, or could not be written.
    """
    _check(spec)
    dataset = made(folder, "data.yaml", run_id(spec), partial(_write, spec))
    splits = {
        name: replace(split, groups=tuple(_groups(spec, name)), material=tuple(_material(_source(spec, name))))
        for name, split in dataset.splits.items()
    }
    return replace(dataset, name=spec.part, splits=splits)


@cache
def handwriting() -> dict[str, list[np.ndarray]]:
    """Indices into scikit-learn's digits that a split may use, one array per digit 0..9; about 60 / 15 / 25 %."""
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    targets = _handwriting()[1]
    for digit in range(10):
        order = np.random.default_rng([CUT, digit]).permutation(np.flatnonzero(targets == digit))
        cuts = [round(0.6 * len(order)), round(0.75 * len(order))]
        for split, indices in zip(SPLITS, np.split(order, cuts), strict=True):
            parts[split].append(indices)
    return parts


def render(spec: DigitsSpec, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One picture: (imgsz, imgsz, 3) uint8 RGB, and its (n, 5) int boxes: class, left, top, right, bottom in px.

    Right and bottom are exclusive: a box is the tightest around the pixels that the digit is drawn on.
    """
    rng, source = _random(spec, split, index), _source(spec, split)
    pixels = _background(rng, _pick(rng, source), spec.imgsz)
    samples = handwriting()[source]
    boxes = np.zeros((0, 5), np.int64)
    for label in rng.integers(len(spec.classes), size=rng.integers(*spec.per_image, endpoint=True)):
        mask = _digit(rng, samples[spec.classes[label]], spec)
        place = _place(rng, boxes, mask.shape, spec.imgsz)
        if place is not None:
            left, top, right, bottom = place
            _blend(rng, pixels[top:bottom, left:right], mask, spec.contrast)
            boxes = np.vstack([boxes, [label, *place]])
    return pixels, boxes


def _source(spec: DigitsSpec, split: str) -> str:
    """The split whose handwriting and photographs a split is made from."""
    return "train" if spec.part == "corpus" else split


def _random(spec: DigitsSpec, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([spec.seed, PARTS.index(spec.part), SPLITS.index(split), index])


def _pick(rng: np.random.Generator, source: str) -> str:
    """The photograph of an image, its first draw."""
    return PHOTOGRAPHS[source][rng.integers(len(PHOTOGRAPHS[source]))]


def _groups(spec: DigitsSpec, split: str) -> Iterator[str]:
    """The photograph of each image of a split."""
    return (_pick(_random(spec, split, index), _source(spec, split)) for index in range(getattr(spec, split)))


@cache
def _material(source: str) -> list[str]:
    """Hashes of the pixels of every sample of handwriting and every photograph of a split."""
    ink = _handwriting()[0]
    samples = [ink[index].tobytes() for indices in handwriting()[source] for index in indices]
    photographs = [photograph(name).tobytes() for name in PHOTOGRAPHS[source]]
    return sorted(hashlib.sha256(pixels).hexdigest()[:8] for pixels in samples + photographs)


def _check(spec: DigitsSpec) -> None:
    (low, high), most, classes = spec.size_px, spec.imgsz * 2 // 3, spec.classes
    different = bool(classes) and set(classes) <= set(range(10)) and len(set(classes)) == len(classes)
    require(different, "classes", classes, "different digits from 0 to 9")
    for name in SPLITS:
        require(getattr(spec, name) >= 1, name, getattr(spec, name), "at least 1 image")
    require(32 <= spec.imgsz <= 1280, "imgsz", spec.imgsz, "32 to 1280 px")
    sizes = f"(low, high) from 8 to two thirds of imgsz, {most} px"
    require(8 <= low <= high <= most, "size_px", spec.size_px, sizes)
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
def photograph(name: str) -> Image.Image:
    """A photograph of PHOTOGRAPHS, RGB."""
    package, _, inside = name.partition("/")
    found = find_spec(package)  # finds the folder without importing the package
    if found is None:
        raise DatasetError(f"photograph {name} needs the package {package}: install what requirements.lock lists")
    return Image.open(Path(found.submodule_search_locations[0]) / inside).convert("RGB")


def _background(rng: np.random.Generator, name: str, imgsz: int) -> np.ndarray:
    """A square crop of a photograph, from full detail to the whole picture, maybe mirrored, tinted."""
    picture = photograph(name)
    largest = min(picture.size)
    side = int(rng.integers(min(imgsz, largest), largest, endpoint=True))
    left, top = (int(rng.integers(length - side, endpoint=True)) for length in picture.size)
    box = (left, top, left + side, top + side)
    crop = picture.resize((imgsz, imgsz), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
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


def _write(spec: DigitsSpec, folder: Path) -> list[str]:
    def images(split: str) -> Iterator[Labelled]:
        for index in range(getattr(spec, split)):
            pixels, boxes = render(spec, split, index)
            yield f"{index:05d}.png", _png(pixels), boxes, (spec.imgsz, spec.imgsz)

    head = f"# {run_id(spec)}: handwritten digits on photographs, made by yolop\n"
    write_yolo(folder / "data.yaml", [NAMES[digit] for digit in spec.classes], images, head)
    return []


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
