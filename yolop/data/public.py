"""Public data sets and weights by name: bccd, raccoon, coco128, and the official YOLOv5n of release v6.0.

Each is known file by file before it is here (`downloads`), so its identity needs no data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import yaml

from yolop.data import Dataset, DatasetError
from yolop.data.downloads import DownloadError, Source, fetch, read_manifest, wrong_files
from yolop.data.folder import read
from yolop.data.images import image_size
from yolop.data.written import Labelled, made, write_yolo
from yolop.files import write_atomically
from yolop.specs import canonical, require

GITHUB = "https://github.com"
COCO128 = f"{GITHUB}/lightly-ai/coco128_yolo/releases/download/v0.0.2"
BCCD = f"{GITHUB}/Shenggan/BCCD_Dataset/archive/d272fb14cdff6e473fafeeeba32aba5f560e9e43.zip"
RACCOON = f"{GITHUB}/datitran/raccoon_dataset/archive/93938849301895fb73909842ba04af9b602f677a.zip"
YOLOV5N = f"{GITHUB}/ultralytics/yolov5/releases/download/v6.0/yolov5n.pt"
SOURCES = {
    "bccd": Source("bccd", (BCCD,), "data/BCCD_Dataset"),
    "raccoon": Source("raccoon", (RACCOON,), "data/raccoon_dataset"),
    "coco128": Source("coco128", (f"{COCO128}/images.zip", f"{COCO128}/object_detection.zip"), "data/coco128"),
    "yolov5n-v6.0": Source("yolov5n-v6.0", (YOLOV5N,), "weights"),
}
DATASETS = ("bccd", "raccoon", "coco128")
CONVERSION = 1  # raise it when the same files become other images, boxes or splits
VOC = {  # sets of Pascal VOC files: names of classes, folders of photographs and of annotations
    "bccd": (("RBC", "WBC", "Platelets"), "BCCD/JPEGImages", "BCCD/Annotations"),
    "raccoon": (("raccoon",), "images", "annotations"),
}
RACCOON_VAL = 40  # photographs, the last by number of those that the authors train on; none of them repeats another
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def digest(name: str) -> str:
    """Identity of a public data set, as 64 hex digits: its files and what is made of them. Needs none of the files."""
    _check(name)
    content = {"name": name, "conversion": CONVERSION, "files": read_manifest(name)}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def load(name: str, folder: Path) -> Dataset:
    """A public data set, checked; what has to be written for it goes into `folder`.

    `bccd`: 364 photographs of blood cells and their own split, 205 / 87 / 72; Pascal VOC turned into a YOLO folder in
    `folder`, made once. Boxes without area are left out and reported in `warnings`.

    `raccoon`: 200 photographs from the web, 120 / 40 / 40. The authors' own 40 test photographs; they have no val, so the
    last 40 of their 160 others by number are. Turned into a YOLO folder like bccd.

    `coco128`: the images stay where they are; `folder` gets the yaml alone. As in the tutorial of YOLOv5, train and
    val are the same 128 images of train2017; test is 128 images of val2017 that no training sees. What else lies in a
    copy (two labels without an image, caches) is not reported: other copies do not have it.

    Raises:
        SpecError: an unknown name.
        DownloadError: the files are not here and cannot be had.
        DatasetError: the files are not what they should be.
        StoreError: `folder` holds something else, or could not be written.
    """
    _check(name)
    return made(folder, f"{name}.yaml", digest(name), partial(_convert, name)) if name in VOC else _coco128(folder)


def official_weights(path: Path | None = None) -> Path:
    """The official yolov5n of release v6.0, a file verified by content: `path` if given, else found or downloaded.

    It is a pickle: read it with `checkpoints`, which runs no code of it.
    """
    source = SOURCES["yolov5n-v6.0"]
    ((name, entry),) = read_manifest(source.name).items()
    if path is None:
        return fetch(source) / name
    if wrong_files(path.parent, {path.name: entry}):
        raise DownloadError(f"{path} is not {source.urls[0]}: SHA-256 must be {entry[1]}; get it anew, or give no path")
    return path


def voc_boxes(path: Path, names: tuple[str, ...], size: tuple[int, int]) -> tuple[list[tuple], list[int]]:
    """Boxes (class, left, top, right, bottom) in px of a Pascal VOC file for an image of `size` = (width, height).

    Also the numbers, from 1, of the objects without area, which are left out. Corners are edges in the image's pixel
    grid, 0 to width and height: BCCD's reach 640 and 480, and its boxes without area have equal corners. The
    conversion for VOC2007 that comes with YOLOv5 moves centres by one pixel; that is for files that count from 1.

    Raises:
        DatasetError: anything else that is wrong, with file and object.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can blow up, and none are needed
            raise DatasetError("declares a document type; remove that")
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DatasetError(f"{path}: not readable as Pascal VOC: {error}") from error
    stated = [root.findtext(f"size/{side}") for side in ("width", "height")]
    if stated != [str(side) for side in size]:
        raise DatasetError(f"{path}: written for an image of {'x'.join(map(str, stated))} px, not {size[0]}x{size[1]}")
    boxes, without_area = [], []
    for number, item in enumerate(root.iter("object"), 1):
        name, corners = item.findtext("name"), [item.findtext(f"bndbox/{key}") for key in CORNERS]
        if name not in names:
            raise DatasetError(f"{path}: object {number}: class {name!r}, must be one of {', '.join(names)}")
        try:
            left, top, right, bottom = map(float, corners)
        except (TypeError, ValueError):
            left = top = right = bottom = float("nan")
        if not (0 <= left <= right <= size[0] and 0 <= top <= bottom <= size[1]):
            raise DatasetError(
                f"{path}: object {number}: {dict(zip(CORNERS, corners, strict=True))} is no box in the image"
            )
        if left == right or top == bottom:
            without_area.append(number)
        else:
            boxes.append((names.index(name), left, top, right, bottom))
    return boxes, without_area


def _check(name: str) -> None:
    require(name in DATASETS, "data set", name, "one of " + ", ".join(DATASETS))


def _coco128(folder: Path) -> Dataset:
    package = Path(find_spec("ultralytics").submodule_search_locations[0])  # found without importing it
    names = yaml.safe_load((package / "cfg" / "datasets" / "coco128.yaml").read_text(encoding="utf-8"))["names"]
    places = {"train": "images/train2017", "val": "images/train2017", "test": "images/val2017"}
    config = {"path": str(fetch(SOURCES["coco128"]))} | places | {"names": names}
    write_atomically(folder / "coco128.yaml", yaml.safe_dump(config, sort_keys=False))
    return read(folder / "coco128.yaml", surplus=False)


def _convert(name: str, folder: Path) -> list[str]:
    """A set of Pascal VOC files as a YOLO folder; returns what was left out, as sentences."""
    root, (names, photographs, annotations), left_out = fetch(SOURCES[name]), VOC[name], []

    def images(split: str) -> Iterator[Labelled]:
        for stem in _stems(name, root, split):
            image = root / photographs / f"{stem}.jpg"
            size = image_size(image)
            boxes, numbers = voc_boxes(root / annotations / f"{stem}.xml", names, size)
            left_out.extend(f"{stem}.xml object {number}" for number in numbers)
            yield image.name, image.read_bytes(), np.array(boxes).reshape(-1, 5), size

    write_yolo(folder / f"{name}.yaml", names, images)
    return [f"{len(left_out)} boxes without area left out: {', '.join(left_out)}"] if left_out else []


def _stems(name: str, root: Path, split: str) -> list[str]:
    """Names of a split's photographs, without their ending."""
    if name == "bccd":
        return (root / "BCCD" / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8").split()
    listed = (root / "data" / f"{'test' if split == 'test' else 'train'}_labels.csv").read_text(encoding="utf-8")
    stems = {line.split(".jpg,")[0] for line in listed.splitlines()[1:]}  # a line per box
    ordered = sorted(stems, key=lambda stem: int(stem.removeprefix("raccoon-")))
    parts = {"train": ordered[:-RACCOON_VAL], "val": ordered[-RACCOON_VAL:], "test": ordered}
    return parts[split]
