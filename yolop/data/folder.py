"""Anybody's YOLO data.yaml, every file of it checked before any is used."""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import yaml

from yolop.data import SPLITS, Dataset, DatasetError, Split
from yolop.data.images import decode
from yolop.files import sha256
from yolop.specs import canonical, printable

# Every name of a format that `images.decode` reads.
SUFFIXES = tuple(".jpg .jpeg .jpe .jif .jfif .pjpeg .pjp .mpo .bmp .dib .png .tif .tiff .webp".split())
MAX_LABEL, MAX_LIST, MAX_YAML = 2**21, 2**27, 2**20  # bytes of a file
MAX_NAME = 100  # characters of a class
JOINERS = str.maketrans("", "", "\u200c\u200d")  # not shown themselves, but part of words and emoji
ROUNDING = 1e-6  # coordinates may leave 0..1 by this much and are put back
BEYOND = 0.01  # of the image: a box that reaches further over an edge is kept, with a warning
SHOWN = 10  # problems in one message
FLAT, FLAT_SHARE = 3, 0.2  # boxes without area, in number and as a share of all, above which a set is taken for corrupt


def read(data_yaml: Path, surplus: bool = True) -> Dataset:
    """Anybody's YOLO data set, every file of it checked before any is used.

    As in YOLOv5: `train`, `val` and, if there, `test` are a folder, a .txt list of images, or a list of these; `names`
    is a list or a mapping from 0; the label file of an image is found by turning the last /images/ of its path into
    /labels/; an image without one is background; polygons become the boxes around them; a `test` that is not there is
    left out. With a warning: repeated lines and boxes without area are dropped, boxes that reach over an edge by more than
    1 % of the image stay as they are, files that are no images are not read. Hidden folders are no data.

    Otherwise than there: `path` is relative to the yaml, the splits to `path`, lines of a list to that list or to `path`.
    Nothing is downloaded, run or written, no label cache is opened, and a wrong image or label is refused. All files must lie
    below `path` or beside the yaml, links followed: a stranger's list or link must not bring private files into a report.

    The digest is over content and names inside the data set, the same for a copy elsewhere and every spelling of the path.
    `surplus=False` does not warn of labels and caches that belong to no image.

    Raises:
        DatasetError: with up to ten problems as file:line, and how many there are.
    """
    try:
        data_yaml = Path(os.path.realpath(os.path.expanduser(data_yaml)))
    except ValueError:  # a NUL, or half a character
        raise DatasetError(f"{printable(data_yaml, 1000)}: not a path; give the path of a YOLO data.yaml") from None
    config, names = _config(data_yaml)
    place = _Place.of(data_yaml, config.get("path", "."))
    problems, told = [], []
    items = config["test"] if isinstance(config.get("test"), list) else [config.get("test") or "."]
    if not any(os.path.exists(place.find(item, place.root)) for item in items):
        told.append(f"test: {_shown(config.pop('test'))} is not there")
    paths = {split: _images(split, config[split], place, problems, told) for split in SPLITS if config.get(split)}
    _refuse(data_yaml, problems)

    files = list(dict.fromkeys(image for images in paths.values() for image in images))
    with ThreadPoolExecutor() as pool:
        samples = dict(zip(files, pool.map(partial(_sample, place=place, nc=len(names)), files), strict=True))
    _refuse(data_yaml, [problem for sample in samples.values() for problem in sample.problems])
    empty = {split: images for split, images in paths.items() if not any(len(samples[i].boxes) for i in images)}
    text = "{}: no box in any of its {} images; the first one's belong in {}"
    _refuse(data_yaml, [text.format(split, len(images), _label_path(images[0])) for split, images in empty.items()])

    flat, lines = (sum(map(len, parts)) for parts in zip(*((s.flat, s.boxes) for s in samples.values()), strict=True))
    if flat > FLAT and flat > FLAT_SHARE * (flat + lines):
        _refuse(data_yaml, [f"{flat} of {flat + lines} boxes have no area: the labels are damaged; export them again"])
    warnings = told + _warnings(paths, samples) + (_surplus(samples, place) if surplus else [])
    paths.setdefault("test", paths["val"])
    lines = [f"{split}/{place.name(image)} {samples[image].digest}" for split in paths for image in paths[split]]
    digest = hashlib.sha256("\n".join([canonical(names), *sorted(lines)]).encode(errors="surrogateescape")).hexdigest()
    splits = {}
    for split, images in paths.items():
        found = [samples[image] for image in images]
        splits[split] = Split(tuple(images), tuple(s.boxes for s in found), digests=tuple(s.image_digest for s in found))
    return Dataset(_dataset_name(data_yaml), place.root, tuple(names), splits, digest, tuple(map(printable, warnings)))


@dataclass(frozen=True)
class _Place:
    """Where a data set lies: what its paths start from, and the two real folders below which all its files must lie."""

    root: Path
    homes: tuple[Path, Path]  # of `root` and of the yaml

    @classmethod
    def of(cls, data_yaml: Path, path: str) -> _Place:
        root = Path(os.path.abspath(data_yaml.parent / path))
        home, beside = (Path(os.path.realpath(folder)) for folder in (root, data_yaml.parent))
        if home != beside and Path(os.path.realpath(os.path.expanduser("~"))).is_relative_to(home):
            _refuse(data_yaml, [f"path: {root} holds more than a data set"])
        return cls(root, (home, beside))

    def find(self, item: str, *bases: Path) -> Path:
        """Where a path of a yaml or list leads: below the first base where it exists, rather inside the data set."""
        spellings = [item, item.replace("\\", "/")]  # the second as Windows writes it
        # common exports write ../train/images and mean the yaml's own folder
        spellings += [spelling[3:] for spelling in spellings if spelling.startswith("../")]
        places = [Path(os.path.abspath(base / spelling)) for spelling in dict.fromkeys(spellings) for base in bases]
        there = [place for place in places if os.path.exists(place)]
        return next((place for place in there if not self.outside(place)), [*there, *places][0])

    def outside(self, path: Path) -> str:
        """What is wrong with a path that leads out of the data set, by its name or over a link; else empty."""
        real = Path(os.path.realpath(path)) if os.path.exists(path) else self.homes[0]
        if any(real.is_relative_to(home) for home in self.homes):
            return ""
        return f"{path} leads out of the data set, to {real}; move that into it, or let path name the folder that holds all"

    def name(self, path: Path) -> str:
        """A file's path inside the data set, the same wherever that lies and however its folder is spelled."""
        if not path.is_relative_to(self.root):
            real = Path(os.path.realpath(path.parent), path.name)
            home = next((home for home in self.homes if real.is_relative_to(home)), self.root)
            return Path(os.path.relpath(real, home)).as_posix()
        return path.relative_to(self.root).as_posix()


@dataclass
class _Sample:
    """What one image and its label file hold, and what is wrong with them."""

    image_digest: str = ""
    digest: str = ""  # of image and label
    boxes: np.ndarray | None = None
    problems: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)  # file:line of each
    beyond: list[str] = field(default_factory=list)
    polygons: list[str] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)  # boxes without area


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

    def construct_mapping(self, node, deep=False):
        keys = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
        if twice := next((key for key, times in keys.items() if times > 1), None):
            raise yaml.YAMLError(f"{twice} stands there twice: keep one of them")
        return super().construct_mapping(node, deep)

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
    shown_path = printable(data_yaml, 1000)
    if not os.path.isfile(data_yaml):
        raise DatasetError(f"{shown_path}: no such file; give the path of a YOLO data.yaml")
    try:
        config = yaml.load(_small(data_yaml, MAX_YAML), _Yaml)  # noqa: S506  safer than SafeLoader
    except Exception as error:  # the parser raises nearly anything on odd input
        text = f"{data_yaml}: not readable as YAML: {' '.join(str(error).split())}"
        raise DatasetError(printable(text, 1000)) from error
    if not isinstance(config, dict):
        raise DatasetError(f"{shown_path}: not a YAML mapping with train, val and names")
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
    if isinstance(value, list) and value and all(isinstance(item, dict) and len(item) == 1 for item in value):
        value = {key: name for item in value for key, name in item.items()}  # "- 0: cat", one mapping a class
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


def _images(split: str, entry: str | list[str], place: _Place, problems: list[str], told: list[str]) -> list[Path]:
    """The images of one split, sorted within a folder, in the order of a list, each once; `told`: what is not read."""
    images, before = [], len(problems)
    for item in entry if isinstance(entry, list) else [entry]:
        path = place.find(item, place.root)
        if outside := place.outside(path):
            problems.append(f"{split}: {outside}")
        elif os.path.isdir(path):
            found = (file for file in path.rglob("*") if not any(part[0] == "." for part in file.relative_to(path).parts))
            files = sorted((file for file in found if file.is_file()), key=Path.as_posix)
            images += [file for file in files if file.suffix.lower() in SUFFIXES]
            told += _unread(split, files)
        elif os.path.isfile(path) and path.suffix == ".txt":
            images += _listed(path, place, problems)
        else:
            hint = "" if place.root.is_dir() else f"; path: there is no {place.root}: correct it, or leave it out"
            problems.append(f"{split}: {item} leads to {path}, neither a folder nor a .txt list of images{hint}")
    if not images and len(problems) == before:
        problems.append(f"{split}: no images in {_shown(entry)}; looked for {' '.join(SUFFIXES)}")
    return list(dict.fromkeys(images))


def _unread(split: str, files: list[Path]) -> list[str]:
    """Which files of a folder of images are not read, by the end of their names."""
    rest = Counter(file.suffix for file in files if file.suffix.lower() not in (*SUFFIXES, ".cache"))
    if any(file.with_suffix(".txt") == _label_path(file) for file in files):  # labels belong beside the images
        rest.pop(".txt", None)
    kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(rest.items()))
    return [f"{split}: files among the images that are not read: {kinds}"] if rest else []


def _listed(list_file: Path, place: _Place, problems: list[str]) -> list[Path]:
    images, lines, where = [], [], place.name(list_file)
    try:
        lines = _small(list_file, MAX_LIST).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError, DatasetError) as error:
        problems.append(f"{where}: not readable as UTF-8 text: {error}")
    for number, line in _written(lines):
        path = place.find(line.strip(), list_file.parent, place.root)
        if not os.path.isfile(path):
            problems.append(f"{where}:{number}: no image {path}")
        elif path.suffix.lower() not in SUFFIXES:
            problems.append(f"{where}:{number}: {path.name} is none of {' '.join(SUFFIXES)}")
        else:
            images.append(path)
    return images


def _written(lines: list[str]) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _label_path(image: Path) -> Path:
    head, images, tail = image.as_posix().rpartition("/images/")
    return Path(f"{head}/labels/{tail}" if images else image).with_suffix(".txt")


def label_file(image: Path) -> Path:
    """The label file of an image, also where Windows wrote .TXT."""
    return next(filter(Path.is_file, (_label_path(image), _label_path(image).with_suffix(".TXT"))), _label_path(image))


def _sample(image: Path, place: _Place, nc: int) -> _Sample:
    """Decode one image and parse its labels: problems are collected, not raised."""
    sample, label = _Sample(), label_file(image)
    sample.problems = [outside for outside in map(place.outside, (image, label)) if outside]
    if sample.problems:
        return sample
    try:
        decode(image)
        sample.image_digest = sha256(image)
    except (OSError, DatasetError) as error:
        sample.problems.append(f"{place.name(image)}: {error}")
    try:
        data = _small(label, MAX_LABEL) if os.path.isfile(label) else b""
        _parse(sample, data.decode("utf-8-sig").splitlines(), place.name(label), nc)
        sample.digest = f"{sample.image_digest} {hashlib.sha256(data).hexdigest()}"
    except (OSError, UnicodeDecodeError, DatasetError) as error:
        sample.problems.append(f"{place.name(label)}: not readable as UTF-8 text: {error}")
    return sample


def _parse(sample: _Sample, lines: list[str], where: str, nc: int) -> None:
    boxes = {}
    for number, line in _written(lines):
        try:
            box = _box(line, nc)
        except ValueError as error:
            sample.problems.append(f"{where}:{number}: {error}")
            continue
        if len(line.split()) > 5:
            sample.polygons.append(f"{where}:{number}")
        if not box[3] or not box[4]:
            sample.flat.append(f"{where}:{number}")
            continue
        if box in boxes:
            sample.repeated.append(f"{where}:{number}")
        boxes[box] = None
        if any(abs(centre - 0.5) + side / 2 > 0.5 + BEYOND for centre, side in (box[1::2], box[2::2])):
            sample.beyond.append(f"{where}:{number}")
    sample.boxes = np.array(list(boxes), np.float32).reshape(-1, 5)


def _box(line: str, nc: int) -> tuple[float, ...]:
    """(class, cx, cy, w, h) of a label line, of a polygon the box around it; ValueError says what is wrong with it."""
    columns, shown = line.split(), line.strip()[:60]
    polygon = len(columns) >= 7 and len(columns) % 2 == 1
    if len(columns) != 5 and not polygon:
        raise ValueError(f"{len(columns)} columns, must be 5: class cx cy w h, or a polygon: class x1 y1 x2 y2 x3 y3 ... ({shown})")
    try:
        label, *coordinates = map(float, columns)
    except ValueError:
        raise ValueError(f"not numbers: {shown}") from None
    if not (0 <= label < nc and label.is_integer()):
        raise ValueError(f"class {columns[0]}, must be a whole number from 0 to {nc - 1}")
    if not all(-ROUNDING <= value <= 1 + ROUNDING for value in coordinates):
        raise ValueError(f"coordinates must be 0 to 1, as shares of width and height, not px: {shown}")
    coordinates = [min(max(value, 0.0), 1.0) for value in coordinates]
    if polygon:
        (left, right), (top, bottom) = ((min(some), max(some)) for some in (coordinates[::2], coordinates[1::2]))
        coordinates = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return label, *coordinates


def _warnings(paths: dict[str, list[Path]], samples: dict[Path, _Sample]) -> list[str]:
    """What was put up with: leaks between splits, backgrounds, and what was done to label lines."""
    warnings = []
    for one, other in combinations(paths, 2):
        seen = {samples[image].image_digest for image in paths[one]}
        shared = sum(samples[image].image_digest in seen for image in paths[other])
        if shared:
            warnings.append(f"{shared} of {len(paths[other])} images of {other} are in {one} too: not unseen data")
    for split, images in paths.items():
        empty = sum(not len(samples[image].boxes) for image in images)
        if empty:
            warnings.append(f"{empty} of {len(images)} images of {split} have no box: they are backgrounds")
    if "test" not in paths:
        warnings.append("no test split: val stands in for it, so what was chosen on val is judged on val")
    kinds = {
        "repeated": "repeated label lines dropped", "beyond": f"boxes reach over an edge by > {BEYOND:.0%}, kept",
        "polygons": "polygons, taken as the boxes around them", "flat": "boxes without area left out",
    }  # fmt: skip
    for kind, text in kinds.items():
        places = [line for sample in samples.values() for line in getattr(sample, kind)]
        if places:
            warnings.append(f"{len(places)} {text}; the first: {places[0]}")
    return warnings


def _surplus(samples: dict[Path, _Sample], place: _Place) -> list[str]:
    """Of files beside the labels that belong to no image, or are not read."""
    labels = {label_file(image) for image in samples}
    folders, lists = {label.parent for label in labels}, {label.with_name("classes.txt") for label in labels}
    orphans = sorted({label for folder in folders for label in folder.glob("*.[tT][xX][tT]")} - labels - lists)
    warnings = []
    if orphans:
        warnings.append(f"{len(orphans)} label files belong to no image; the first: {place.name(orphans[0])}")
    caches = {cache for folder in folders for near in (folder, folder.parent) for cache in near.glob("*.cache")}
    return warnings + [f"{place.name(file)} ignored: a label cache is a pickle, never opened" for file in sorted(caches)]


def _dataset_name(data_yaml: Path) -> str:
    """A readable name that is safe in file names: the yaml's, or its folder's where all are called data.yaml."""
    stem = data_yaml.parent.name if data_yaml.stem in ("data", "dataset") else data_yaml.stem
    return re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-")[:60] or "dataset"
