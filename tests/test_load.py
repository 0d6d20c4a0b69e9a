"""From records to data sets: the same content or a refusal, and what a record says of it."""

import json

import numpy as np
import pytest
from PIL import Image
from support import configure, yolo_set

from yolop.data import DatasetError, load, public
from yolop.data.folder import read
from yolop.data.load import compute, dataset_of, summary
from yolop.files import StoreError
from yolop.specs import DigitsSpec, FolderSpec, SpecError, run_id
from yolop.store import Record


def record(spec, metrics, folder) -> Record:
    return Record(run_id(spec), {}, metrics, {}, 0.0, {}, {}, folder, spec)


def test_a_record_leads_back_to_its_digits(tmp_path):
    spec = DigitsSpec(train=2, val=1, test=1, imgsz=96)
    metrics = compute(spec, {}, tmp_path)
    dataset = dataset_of(record(spec, metrics, tmp_path))
    assert dataset.root == tmp_path / "dataset" and summary(dataset) == metrics
    with pytest.raises(StoreError, match="committed without dataset"):
        dataset_of(record(spec, metrics, None))


def test_a_record_leads_back_to_the_folder_that_was_asked_for_and_notices_a_change(tmp_path):
    root = yolo_set(tmp_path / "set")
    digest = read(root / "data.yaml").digest
    spec = FolderSpec("set", digest, str(root / "data.yaml"))
    metrics = compute(spec, {}, tmp_path / "run")
    assert (metrics["name"], metrics["digest"], metrics["splits"]["train"]["images"]) == ("set", digest, 3)
    root.rename(tmp_path / "moved")
    moved = record(FolderSpec("set", digest, str(tmp_path / "moved/data.yaml")), metrics, tmp_path / "run")
    assert dataset_of(moved).digest == digest and moved.run_id == run_id(spec)
    configure(tmp_path / "moved", names=["dog", "cat"])
    with pytest.raises(DatasetError, match="its content has changed since data-set-[0-9a-f]{8} was recorded"):
        dataset_of(moved)


def test_images_of_other_splits_that_are_trained_on_are_counted_by_content(tmp_path):
    root = yolo_set(tmp_path / "set")
    assert all("seen_in_train" not in facts for facts in summary(read(root / "data.yaml"))["splits"].values())
    first = sorted((root / "images/val").iterdir())[0]
    first.write_bytes(sorted((root / "images/train").iterdir())[0].read_bytes())
    found = summary(read(root / "data.yaml"))["splits"]
    assert found["val"]["seen_in_train"] == 1 and "seen_in_train" not in found["train"]


def test_a_name_without_a_path_is_a_public_set(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        load.public, "load", lambda *given: asked.append(given) or read(yolo_set(tmp_path / "set") / "data.yaml")
    )
    compute(FolderSpec("bccd", public.digest("bccd")), {}, tmp_path)
    assert asked == [("bccd", tmp_path / "dataset")]


def test_a_set_for_pretraining_holds_no_picture_that_is_tested_on(tmp_path):
    data, corpus = (yolo_set(tmp_path / name) / "data.yaml" for name in ("data", "corpus"))
    with pytest.raises(SpecError, match="corpus = .*corpus/data.yaml, with 1 of the 1 images of val"):
        load.require_unseen(corpus, data)
    for i, path in enumerate(sorted((tmp_path / "corpus/images").rglob("*.png"))):
        Image.new("RGB", (30, 20 + i)).save(path)
    load.require_unseen(corpus, data)
    (tmp_path / "data/images/test/0.png").replace(tmp_path / "corpus/images/train/0.png")
    Image.open(tmp_path / "corpus/images/train/0.png").save(tmp_path / "data/images/test/0.png")
    with pytest.raises(SpecError, match="1 of the 1 images of test"):
        load.require_unseen(corpus, data)


def test_summary_counts_what_is_there(tmp_path):
    root = yolo_set(tmp_path / "set")
    image = Image.new("RGB", (20, 40), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # taken with the camera on its side
    image.save(root / "images/val/1.jpg", exif=exif)
    assert list(load._quantiles(np.arange(101)).values()) == [0, 10, 50, 90, 100]
    found = summary(read(root / "data.yaml"))
    assert found == json.loads(json.dumps(found)) and found["names"] == ["cat", "dog"]
    train, val = found["splits"]["train"], found["splits"]["val"]
    assert (train["images"], train["boxes"], train["background_images"]) == (3, 6, 0)
    assert train["boxes_per_class"] == {"cat": 2, "dog": 4}
    assert train["box_width_px"] == {"min": 2.0, "p10": 2.0, "median": 3.0, "p90": 4.0, "max": 4.0}
    assert train["box_height_px"]["max"] == 6.4 and train["image_height_px"]["median"] == 16
    assert (val["background_images"], val["image_width_px"]["max"], val["image_height_px"]["max"]) == (1, 40, 20)
