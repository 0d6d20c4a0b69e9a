"""The public data sets by name: a stand-in for BCCD, and the real files where they lie beside the project."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import manifest_text

from yolop import files
from yolop.data import SPLITS, DatasetError, downloads, public
from yolop.data.downloads import DownloadError, fetch, read_manifest
from yolop.data.images import image_size
from yolop.data.public import DATASETS, SOURCES, VOC, digest, load, official_weights, voc_boxes
from yolop.specs import SpecError

BCCD_NAMES = VOC["bccd"][0]
SHARED = Path(__file__).resolve().parents[2] / "shared"
beside = pytest.mark.skipif(not (SHARED / "data" / "BCCD_Dataset").is_dir(), reason="no data sets beside the project")


def voc(*objects: tuple, width: int = 64, height: int = 48) -> str:
    found = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(public.CORNERS, corners, strict=True))
        + "</bndbox></object>"
        for name, *corners in objects
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{found}</annotation>"


def described(folder: Path, manifests: Path) -> None:
    """Make what lies in `folder` the known content of bccd."""
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    (manifests / "bccd.json").write_text(manifest_text(folder, paths))


@pytest.fixture
def bccd(project, tmp_path, monkeypatch):
    """A copy of a BCCD of one image per split, beside an empty project, with a manifest."""
    folder = project.parent / "shared" / "data" / "BCCD_Dataset"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / "BCCD" / name).mkdir(parents=True)
    for index, split in enumerate(SPLITS):
        (folder / f"BCCD/ImageSets/Main/{split}.txt").write_text(f"cell_{split}\n")
        Image.new("RGB", (64, 48), (50 * index, 0, 0)).save(folder / f"BCCD/JPEGImages/cell_{split}.jpg")
        objects = [("RBC", 0, 0, 64, 48), ("WBC", 8, 12, 8, 30), ("Platelets", 16, 12, 48, 24)]
        (folder / f"BCCD/Annotations/cell_{split}.xml").write_text(voc(*objects))
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    monkeypatch.setattr(downloads, "MANIFESTS", manifests)
    monkeypatch.setattr(files, "DATA", None)
    described(folder, manifests)
    return folder


# --- Pascal VOC -------------------------------------------------------------------------------------------------------


def read_voc(tmp_path, text: str | bytes):
    path = tmp_path / "cell.xml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return voc_boxes(path, BCCD_NAMES, (64, 48))


def test_boxes_come_through_and_those_without_area_are_named(tmp_path):
    boxes, without_area = read_voc(
        tmp_path, voc(("WBC", 1, 2, 64, 48), ("RBC", 3, 4, 3, 9), ("RBC", 0, 0, 2.5, 9), ("RBC", 5, 7, 9, 7))
    )
    assert boxes == [(1, 1, 2, 64, 48), (0, 0, 0, 2.5, 9)] and without_area == [2, 4]


@pytest.mark.parametrize(("text", "message"), [
    (voc(("RBC", 1, 2, 3, 4), ("cat", 1, 2, 3, 4)), r"cell\.xml: object 2: class 'cat', must be one of RBC, WBC"),
    (voc(("RBC", 1, 2, 65, 4)), r"object 1: .*'xmax': '65'.* is no box in the image"),
    (voc(("RBC", 1, -2, 3, 4)), "object 1: .* is no box"),
    (voc(("RBC", 3, 2, 1, 4)), "object 1: .* is no box"),
    (voc(("RBC", "nan", 2, 3, 4)), "object 1: .* is no box"),
    (voc(("RBC", "", 2, 3, 4)), "object 1: .* is no box"),
    (voc(("RBC", 1, 2, 3, 4)).replace("ymax", "top"), "object 1: .*'ymax': None.* is no box"),
    (voc(width=48, height=64), "written for an image of 48x64 px, not 64x48"),
    ("<annotation/>", "written for an image of NonexNone px"),
    (voc()[:-3], "not readable as Pascal VOC"),
    (b"\xff\xfe" + voc().encode("utf-16-le"), "not readable as Pascal VOC"),
    ('<!DOCTYPE a [<!ENTITY b "RBC">]>' + voc(("&b;", 1, 2, 3, 4)), "declares a document type"),
    ('<?xml version="1.0"?><!DOCTYPE a SYSTEM "file:///etc/passwd">' + voc(), "declares a document type"),
])  # fmt: skip
def test_anything_else_is_refused(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        read_voc(tmp_path, text)


# --- bccd -------------------------------------------------------------------------------------------------------------


def test_bccd_becomes_a_yolo_folder(bccd, tmp_path):
    found = load("bccd", tmp_path / "made")
    assert (found.name, found.names, found.root) == ("bccd", BCCD_NAMES, tmp_path / "made")
    for split in SPLITS:
        ((image,), (boxes,)) = found.splits[split].images, found.splits[split].labels
        assert image.read_bytes() == (bccd / "BCCD/JPEGImages" / image.name).read_bytes() and split in image.name
        np.testing.assert_allclose(boxes, [[0, 0.5, 0.5, 1, 1], [2, 0.5, 0.375, 0.5, 0.25]], atol=1e-6)
    assert found.warnings == (
        "3 boxes without area left out: " + ", ".join(f"cell_{split}.xml object 2" for split in SPLITS),
    )


def test_bccd_is_made_once_and_needs_its_source_once(bccd, tmp_path):
    first = load("bccd", tmp_path / "made")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")}
    bccd.rename(bccd.with_name("gone"))
    again = load("bccd", tmp_path / "made")
    assert (again.digest, again.warnings) == (first.digest, first.warnings)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")} == before


def test_another_conversion_of_the_same_source_is_made_anew(bccd, tmp_path, monkeypatch):
    first = load("bccd", tmp_path / "made")
    monkeypatch.setattr(public, "CONVERSION", 2)
    again = load("bccd", tmp_path / "made")
    assert (again.digest, again.warnings) == (first.digest, first.warnings)
    assert json.loads((tmp_path / "made/made.json").read_text())["identity"] == digest("bccd")


def test_a_conversion_that_fails_leaves_nothing(bccd, tmp_path):
    (bccd / "BCCD/Annotations/cell_test.xml").write_text(voc(("cat", 1, 2, 3, 4)))
    with pytest.raises(DownloadError, match=r"1 of 9 files .*BCCD/Annotations/cell_test\.xml"):
        load("bccd", tmp_path / "made")
    described(bccd, tmp_path / "manifests")  # as if it had always been so
    with pytest.raises(DatasetError, match=r"cell_test\.xml: object 1: class 'cat'"):
        load("bccd", tmp_path / "made")
    assert not (tmp_path / "made").exists() and not list(tmp_path.glob(".made.[!l]*"))


# --- identity ---------------------------------------------------------------------------------------------------------


def test_identity_is_known_without_data_and_follows_content(bccd, tmp_path, monkeypatch):
    before = digest("bccd")
    assert re.fullmatch("[0-9a-f]{64}", before)
    monkeypatch.setattr(public, "CONVERSION", 2)
    assert digest("bccd") != before
    monkeypatch.setattr(public, "CONVERSION", 1)
    (bccd / "BCCD/Annotations/cell_val.xml").write_text(voc())
    described(bccd, tmp_path / "manifests")
    assert digest("bccd") != before


def test_identities_do_not_move():
    """If one of them moves, every committed record of its study is out of reach."""
    assert {name: digest(name)[:8] for name in DATASETS} == {"bccd": "b455446d", "raccoon": "eb45f2f1", "coco128": "91b614ac"}


def test_sources_and_manifests_belong_together():
    assert {path.stem for path in downloads.MANIFESTS.glob("*.json")} == set(SOURCES) > set(DATASETS)
    for name, source in SOURCES.items():
        assert source.name == name and all(url.startswith("https://github.com/") for url in source.urls)
    files = read_manifest("coco128")
    for split in ("train2017", "val2017"):
        images = {Path(path).stem for path in files if path.startswith(f"images/{split}/")}
        labels = {Path(path).stem for path in files if path.startswith(f"labels/{split}/")}
        assert len(images) == 128 and labels <= images
    photographs = {name: sum(path.endswith(".jpg") for path in read_manifest(name)) for name in VOC}
    assert photographs == {"bccd": 364, "raccoon": 200}


def test_unknown_names(tmp_path):
    for call in (lambda: digest("coco"), lambda: load("yolov5n-v6.0", tmp_path)):
        with pytest.raises(SpecError, match="use one of bccd, raccoon, coco128"):
            call()


def test_readers_of_records_load_nothing_heavy():
    heavy = ["torch", "ultralytics", "requests", "pooch"]
    code = f"import sys, yolop.data.public as p; p.digest('bccd'); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# --- the real ones ----------------------------------------------------------------------------------------------------


def counts(found):
    return {name: (len(split.images), sum(map(len, split.labels))) for name, split in found.splits.items()}


@beside
def test_the_real_bccd(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DATA", None)
    found = load("bccd", tmp_path / "made")
    assert counts(found) == {"train": (205, 2804), "val": (87, 1137), "test": (72, 945)}  # 4,888 objects less two
    (warning,) = found.warnings
    assert "BloodImage_00338.xml object 13" in warning and "BloodImage_00343.xml object 4" in warning
    boxes = np.vstack([boxes for split in found.splits.values() for boxes in split.labels])
    assert np.bincount(boxes[:, 0].astype(int)).tolist() == [4153, 372, 361]
    assert {image_size(image) for image in found.splits["val"].images} == {(640, 480)}
    assert found.root == tmp_path / "made" and found.digest.startswith("3b9a4962")


@beside
def test_the_real_raccoons(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DATA", None)
    found = load("raccoon", tmp_path / "made")
    assert counts(found) == {"train": (120, 131), "val": (40, 42), "test": (40, 44)} and found.names == ("raccoon",)
    listed = (SHARED / "data/raccoon_dataset/data/test_labels.csv").read_text().split()
    assert {path.name for path in found.splits["test"].images} == {line.split(",")[0] for line in listed[1:]}
    contents = {name: {path.read_bytes() for path in split.images} for name, split in found.splits.items()}
    assert not contents["train"] & (contents["val"] | contents["test"]) and not contents["val"] & contents["test"]
    (image,) = (i for i, path in enumerate(found.splits["train"].images) if path.stem == "raccoon-17")
    np.testing.assert_allclose(found.splits["train"].labels[image], [[0, 131 / 259, 89 / 194, 72 / 259, 58 / 194]], atol=1e-6)


@beside
def test_the_real_coco128_is_used_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DATA", None)
    found = load("coco128", tmp_path / "made")
    assert counts(found) == {"train": (128, 929), "val": (128, 929), "test": (128, 898)}
    assert found.name == "coco128" and found.nc == 80 and found.names[0] == "person" and found.names[79] == "toothbrush"
    assert found.warnings == ("128 of 128 images of val are in train too: not unseen data", *(
        f"2 of 128 images of {split} have no box: they are backgrounds" for split in ("train", "val")))  # fmt: skip
    assert found.root == SHARED / "data/coco128" and [p.name for p in (tmp_path / "made").iterdir()] == ["coco128.yaml"]


@beside
def test_the_official_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DATA", None)
    path = official_weights()
    assert path == SHARED / "weights/yolov5n-v6.0.pt" and official_weights(path) == path
    assert files.sha256(path) == "edd2e5cc4e3caa4b508168b51d9dc529da58b37813e0d2c8b49aba06aa3472dc"
    other = tmp_path / path.name
    other.write_bytes(path.read_bytes()[:-1] + b"x")
    for wrong in (other, tmp_path / "absent.pt"):
        with pytest.raises(DownloadError, match=f"{wrong.name} is not https://.*edd2e5cc"):
            official_weights(wrong)


@beside
@pytest.mark.parametrize("name", SOURCES)
def test_copies_beside_the_project_are_whole(name, monkeypatch):
    monkeypatch.setattr(files, "DATA", None)
    assert fetch(SOURCES[name]) == SHARED / SOURCES[name].beside
