"""Anybody's data.yaml: what is read, what is refused with which words, and what identifies a data set."""

import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import Trap, configure, yolo_set

from yolop.data import SPLITS, DatasetError, folder, images
from yolop.data.folder import read


@pytest.fixture
def root(tmp_path):
    return yolo_set(tmp_path / "set")


def label(root, text):
    """One good line, then `text`, in labels/train/1.txt."""
    data = text if isinstance(text, bytes) else text.encode()
    (root / "labels/train/1.txt").write_bytes(b"0 0.5 0.5 0.2 0.4\n" + data)


def yaml_of(data):
    return lambda root: (root / "data.yaml").write_bytes(data)


def config(**changes):
    return lambda root: configure(root, **changes)


def line(text):
    return lambda root: label(root, text)


def list_of(data):
    return lambda root: configure(root, val="v.txt") or (root / "v.txt").write_bytes(data)


def image(data):
    return lambda root: (root / "images/train/1.png").write_bytes(data)


def picture(pixels):
    return lambda root: Image.fromarray(pixels).save(root / "images/train/1.png")


def cut(suffix):
    def spoil(root):
        path = root / f"images/train/1{suffix}"
        Image.fromarray(np.random.default_rng(1).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return spoil


def png_header(side):
    chunk = b"IHDR" + struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


LABEL, BAD = "labels/train/1.txt", "images/train/1.png: not a whole image"
REFUSED = {
    "no yaml": (lambda root: (root / "data.yaml").unlink(), "no such file"),
    "yaml is a folder": (lambda root: (root / "data.yaml").unlink() or (root / "data.yaml").mkdir(), "no such file"),
    "broken yaml": (yaml_of(b"train: [images"), "not readable as YAML"),
    "yaml not UTF-8": (yaml_of(b"names: [caf\xe9]"), "not readable as YAML"),
    "deep yaml": (yaml_of(b"[" * 1200), "not readable as YAML"),
    "yaml is a list": (yaml_of(b"- train"), "not a YAML mapping with train, val and names"),
    "empty yaml": (yaml_of(b""), "not a YAML mapping with train, val and names"),
    "no train": (config(drop=["train"]), "train: missing"),
    "no val": (config(drop=["val"]), "val: missing"),
    "null val": (config(val=None), "val: missing"),
    "no names": (config(drop=["names"]), "names: missing"),
    "names with a gap": (config(names={0: "cat", 2: "dog"}), "names: the keys .* are not 0 to 1"),
    "names is text": (config(names="cat dog"), "names: .* neither a list nor a mapping"),
    "names holds no": (config(names=["yes", False]), "names: .* put it in quotes"),
    "names twice": (yaml_of(b"train: a\nval: b\nnames: [cat]\nnames: [dog]\n"), "names stands there twice: keep one"),
    "one name twice": (config(names=["cat", "cat"]), "names: 'cat' stands for two"),
    "nc differs": (config(nc=3), "nc: 3, but there are 2 names"),
    "nc is text": (config(nc="2"), "nc: '2', but there are 2 names"),
    "download": (config(download="https://example.org/a.zip"), "download: ultralytics would run it"),
    "path is a list": (config(path=["."]), "path: .* is not a path"),
    "train is a number": (config(train=7), "train: 7 is not a path"),
    "train holds a number": (config(train=["images/train", 7]), "train: .* is not a path"),
    "no such root": (config(path="gone"), "train: images/train leads to .*gone/images/train, neither"),
    "no such folder": (config(val="images/valid"), "val: images/valid leads to .*, neither"),
    "path is not here": (config(path="/kaggle/input/set"), "there is no /kaggle/input/set: correct it, or leave it out"),
    "split is an image": (config(val="images/val/0.png"), "neither a folder nor a .txt list"),
    "folder without images": (config(val="labels/val"), "val: no images in 'labels/val'"),
    "empty list": (list_of(b"\n"), "val: no images in 'v.txt'"),
    "list of nothing": (list_of(b"\nimages/a.png"), "v.txt:2: no image .*images/a.png"),
    "list of labels": (list_of(b"labels/val/0.txt"), "v.txt:1: 0.txt is none of"),
    "list not UTF-8": (list_of(b"caf\xe9.png"), "v.txt: not readable as UTF-8"),
    "four columns": (line("0 0.5 0.5 0.2"), f"{LABEL}:2: 4 columns"),
    "six columns": (line("0 0.5 0.5 0.2 0.2 0.9"), f"{LABEL}:2: 6 columns"),
    "a polygon's half point": (line("0 .1 .1 .2 .1 .2 .2 .3"), f"{LABEL}:2: 8 columns, .* or a polygon"),
    "words": (line("\ncat 0.5 0.5 0.2 0.2"), f"{LABEL}:3: not numbers: cat"),
    "commas": (line("0, 0.5, 0.5, 0.2, 0.2"), f"{LABEL}:2: not numbers"),
    "NaN": (line("0 0.5 nan 0.2 0.2"), f"{LABEL}:2: coordinates must be 0 to 1"),
    "class NaN": (line("nan 0.5 0.5 0.2 0.2"), f"{LABEL}:2: class nan"),
    "class infinite": (line("inf 0.5 0.5 0.2 0.2"), f"{LABEL}:2: class inf"),
    "class beyond nc": (line("2 0.5 0.5 0.2 0.2"), f"{LABEL}:2: class 2, must be a whole number from 0 to 1"),
    "class negative": (line("-1 0.5 0.5 0.2 0.2"), f"{LABEL}:2: class -1, must be"),
    "class not whole": (line("0.5 0.5 0.5 0.2 0.2"), f"{LABEL}:2: class 0.5, must be"),
    "pixels": (line("0 10 8 4 4"), f"{LABEL}:2: coordinates must be 0 to 1, as shares"),
    "just beyond 1": (line("0 1.00001 0.5 0.2 0.2"), f"{LABEL}:2: coordinates must be 0 to 1"),
    "negative": (line("0 0.5 0.5 -0.2 0.2"), f"{LABEL}:2: coordinates must be 0 to 1"),
    "many boxes without area": (line("0 .5 .5 0 .2\n" * 4), "4 of 13 boxes have no area: the labels are damaged"),
    "label not UTF-8": (line(b"0 0.5 0.5 0.2 0.2\xff"), f"{LABEL}: not readable as UTF-8"),
    "no box": (lambda root: (root / "labels/val/0.txt").unlink(), "val: no box .*labels/val/0.txt"),
    "cut PNG": (cut(".png"), BAD),
    "cut JPEG": (cut(".jpg"), BAD.replace(".png", ".jpg")),
    "empty image": (image(b""), BAD),
    "text as image": (image(b"hello"), BAD),
    "bomb of 3600 megapixels": (image(png_header(60000)), BAD),
    "100 megapixels": (image(png_header(10000)), "images/train/1.png: .*(pixels|10000x10000 px|cannot identify image)"),
    "16 bits": (picture(np.full((16, 20), 9999, np.uint16)), "images/train/1.png: pixels of more than 8 bits"),
    "16 bits in colour": (image(cv2.imencode(".png", np.full((16, 20, 3), 9999, np.uint16))[1].tobytes()), "more than 8 bits"),
    "speck": (picture(np.zeros((3, 20, 3), np.uint8)), "images/train/1.png: 20x3 px; use 10 px"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("spoil", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(root, spoil, words):
    read(root / "data.yaml")
    spoil(root)
    with pytest.raises(DatasetError, match=words) as caught:
        read(root / "data.yaml")
    assert "data.yaml" in str(caught.value)


def test_many_problems_come_in_one_message(root):
    label(root, "0 2 2 2 2\n" * 15)
    (root / "images/train/0.png").write_bytes(b"6af8213f909ad98d5453b55a892423f1c7e0712c052bde7f1709832cb69c81d2")
    with pytest.raises(DatasetError, match="16 problems; nothing was used") as caught:
        read(root / "data.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 12 and "images/train/0.png" in lines[1] and lines[-1].strip() == "... and 6 more"


def test_a_large_image_is_refused_by_its_header(root, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 300)
    with pytest.raises(DatasetError, match="images/train/0.png: 20x16 px"):
        read(root / "data.yaml")


def test_label_caches_are_never_opened(root, tmp_path):
    before = read(root / "data.yaml")
    for place in ("labels/train.cache", "labels/val/x.cache"):
        (root / place).write_bytes(pickle.dumps(Trap(os.mkdir, str(tmp_path / "canary"))))
    after = read(root / "data.yaml")
    assert not (tmp_path / "canary").exists() and after.digest == before.digest and before.warnings == ()
    assert [text.split()[0] for text in after.warnings] == ["labels/train.cache", "labels/val/x.cache"]
    assert all("never opened" in text for text in after.warnings)
    (root / "labels/train/7.txt").write_text("nonsense")
    assert len(read(root / "data.yaml").warnings) == 3 and read(root / "data.yaml", surplus=False).warnings == ()


def test_boxes_come_as_written(root):
    label(root, "1.0 1e-1 0.25 0.125 .5\r\n\r\n  0\t1.0000005 -0.0000005 0.5 0.5\n")
    dataset = read(root / "data.yaml")
    assert dataset.names == ("cat", "dog") and dataset.nc == 2 and dataset.name == "set" and dataset.root == root
    assert dataset.splits["train"].images[1] == root / "images/train/1.png"
    boxes = dataset.splits["train"].labels[1]
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(
        boxes, np.float32([[0, 0.5, 0.5, 0.2, 0.4], [1, 0.1, 0.25, 0.125, 0.5], [0, 1, 0, 0.5, 0.5]])
    )


def test_repeated_lines_are_dropped_and_boxes_over_the_edge_kept_with_a_warning(root):
    label(root, "1 0.5 0.5 0.1 0.1\n0 0.50 0.5 0.2 0.4\n1 0.505 0.5 1 1\n0 0.1 0.5 0.5 0.2\n")
    dataset = read(root / "data.yaml")
    assert dataset.splits["train"].labels[1][:, 0].tolist() == [0, 1, 1, 0]
    assert dataset.warnings == (
        "1 repeated label lines dropped; the first: labels/train/1.txt:3",
        "1 boxes reach over an edge by > 1%, kept; the first: labels/train/1.txt:5",
    )


def test_an_image_without_label_file_is_background_and_a_label_without_image_is_reported(root):
    (root / "labels/train/1.txt").unlink()
    (root / "labels/train/0.txt").write_text("")
    (root / "labels/train/7.txt").write_text("nonsense")
    (root / "labels/train/classes.txt").write_text("cat\ndog\n")  # no label: programs write it beside them
    dataset = read(root / "data.yaml")
    assert [label.shape for label in dataset.splits["train"].labels] == [(0, 5), (0, 5), (2, 5)]
    assert dataset.warnings == (
        "2 of 3 images of train have no box: they are backgrounds",
        "1 label files belong to no image; the first: labels/train/7.txt",
    )


def test_polygons_become_the_boxes_around_them_and_boxes_without_area_are_left_out(root):
    label(root, "0 0.1 0.2 0.5 0.2 0.3 0.6\n1 0.5 0.5 0 0.2\n1 0.5 0.5 0.2 0.2\n")
    dataset = read(root / "data.yaml")
    np.testing.assert_allclose(dataset.splits["train"].labels[1][1:], [[0, 0.3, 0.4, 0.4, 0.4], [1, 0.5, 0.5, 0.2, 0.2]], atol=1e-6)
    assert dataset.warnings == (
        "1 polygons, taken as the boxes around them; the first: labels/train/1.txt:2",
        "1 boxes without area left out; the first: labels/train/1.txt:3",
    )


def test_what_is_not_read_is_told_and_hidden_folders_are_no_data(root):
    before = read(root / "data.yaml")
    for name in (".ipynb_checkpoints/0-checkpoint.png", ".hidden.png", "a.heic", "b.heic", "notes"):
        (root / "images/train" / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / "images/train/0.png", root / "images/train" / name)
    dataset = read(root / "data.yaml")
    assert dataset.digest == before.digest and len(dataset.splits["train"].images) == 3
    assert dataset.warnings == ("train: files among the images that are not read: 1 without a suffix, 2 .heic",)


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".pjpeg"])
def test_every_name_of_a_format_that_is_decoded_is_read(root, suffix):
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(root / "images/train/9.jpg")
    (root / "images/train/9.jpg").rename(root / f"images/train/9{suffix}")
    (root / "labels/train/9.TXT").write_text("0 0.5 0.5 0.2 0.4\n")  # as Windows may write it
    dataset = read(root / "data.yaml")
    assert [len(boxes) for boxes in dataset.splits["train"].labels] == [2, 2, 2, 1] and dataset.warnings == ()


def test_a_yaml_as_windows_and_exports_write_it(root):
    configure(root, train="images\\train", val="..\\images\\val", test="../gone/images", names=[{0: "cat"}, {1: "dog"}])
    dataset = read(root / "data.yaml")
    assert dataset.names == ("cat", "dog") and dataset.splits["test"].images == dataset.splits["val"].images
    assert dataset.warnings[0] == "test: '../gone/images' is not there" and "val stands in" in dataset.warnings[1]


CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="no cases beside the project")
@pytest.mark.parametrize(("case", "train", "told"), [
    ("01-few-boxes-many-backgrounds", None, r"4 of 6 images of val have no box"),
    ("02-label-suffix-TXT", None, ""),
    ("04-ipynb-checkpoints", 3, ""),
    ("05-jfif-pictures", None, ""),
    ("06-warnings-nobody-sees", None, r"3 of 4 images of val are in train too"),
    ("07-one-polygon-line", None, "1 polygons, taken as the boxes around them"),
    ("08-one-box-without-area", None, "1 boxes without area left out"),
    ("09-backslash-paths", None, ""),
    ("10-test-folder-missing", None, "is not there"),
    ("12-names-as-mappings", None, ""),
    ("28-one-test-picture", None, ""),
])  # fmt: skip
def test_what_users_bring(case, train, told, tmp_path):
    (found,) = shutil.copytree(CASES / case, tmp_path / case).rglob("data.yaml")
    dataset = read(found)
    assert train in (None, len(dataset.splits["train"].images)) and told in " ".join(dataset.warnings)
    assert all(sum(map(len, split.labels)) for split in dataset.splits.values())
    if case == "02-label-suffix-TXT":
        assert all(len(boxes) for boxes in dataset.splits["train"].labels)


def test_without_test_val_stands_in(root):
    configure(root, drop=["test", "nc"], names={1: "dog", 0: "cat"})
    dataset = read(root / "data.yaml")
    assert dataset.names == ("cat", "dog") and tuple(dataset.splits) == SPLITS
    assert dataset.splits["test"].images == dataset.splits["val"].images
    assert len(dataset.warnings) == 1 and "no test split" in dataset.warnings[0]


def test_the_same_image_in_two_splits_is_reported(root):
    shutil.copy(root / "images/train/1.png", root / "images/test/copy.png")
    configure(root, val="images/train")
    dataset = read(root / "data.yaml")
    assert dataset.warnings[:3] == (
        "3 of 3 images of val are in train too: not unseen data",
        "1 of 2 images of test are in train too: not unseen data",
        "1 of 2 images of test are in val too: not unseen data",
    )


def test_splits_may_be_lists_of_folders_and_of_files(root, tmp_path):
    folders = read(root / "data.yaml")
    (root / "lists").mkdir()
    (root / "lists/train.txt").write_text("../images/train/0.png\nimages/train/1.png\n\nimages/train/0.png\n")
    (root / "lists/val.txt").write_text(str(root / "images/val/0.png") + "\r\n")
    (root / "elsewhere").mkdir()
    shutil.move(root / "images/train/2.png", root / "elsewhere/2.png")
    shutil.move(root / "labels/train/2.txt", root / "elsewhere/2.txt")
    shutil.copy(root / "images/train/0.png", root / "elsewhere/._2.png")  # what macOS leaves in archives
    configure(root, train=["lists/train.txt", "elsewhere"], val="lists/val.txt", test=str(root / "images/test"))
    lists = read(root / "data.yaml")
    assert [p.name for p in lists.splits["train"].images] == ["0.png", "1.png", "2.png"]
    for split in SPLITS:
        for one, other in zip(folders.splits[split].labels, lists.splits[split].labels, strict=True):
            np.testing.assert_array_equal(one, other)


def test_paths_are_relative_to_path_and_the_way_exports_write_them(root, tmp_path):
    usual = read(root / "data.yaml")
    configure(tmp_path, path="set")
    assert read(tmp_path / "data.yaml").digest == usual.digest
    configure(root, train="../images/train", val="../images/val")
    assert read(root / "data.yaml").digest == usual.digest
    (root / "inner").mkdir()
    configure(root / "inner", path="..")
    assert [p.name for p in read(root / "inner/data.yaml").splits["train"].images] == ["0.png", "1.png", "2.png"]


def test_the_digest_is_over_content_in_its_place(root, tmp_path):
    seen = {read(root / "data.yaml").digest}
    for change in (
        lambda: configure(root, names=["dog", "cat"]),
        lambda: (root / "labels/val/0.txt").write_text("0 0.5 0.5 0.3 0.3\n"),
        lambda: Image.new("RGB", (20, 16)).save(root / "images/test/0.png"),
        lambda: configure(root, names=["dog", "cat"], val="images/test", test="images/val"),
        lambda: (root / "images/train/1.png").rename(root / "images/train/3.png"),
    ):
        change()
        seen.add(read(root / "data.yaml").digest)
    assert len(seen) == 6


@pytest.mark.parametrize("written", ["as usual", "in full", "in full, over a link", "lists in full", "beside"])
def test_a_moved_set_and_every_spelling_of_its_path_have_one_digest(root, tmp_path, monkeypatch, written):
    (tmp_path / "link").symlink_to(root)
    yaml = Path("data.yaml")

    def write(home):
        """The same yaml, as somebody would write it whose data set lies in `home`."""
        if written.startswith("in full"):
            configure(home, path=str(home), train=str(home / "images/train"))
        elif written == "lists in full":
            (home / "train.txt").write_text("".join(f"{home}/images/train/{i}.png\n" for i in range(3)))
            configure(home, train="train.txt")
        elif written == "beside":  # the yaml's own folder counts too, where `path` names another
            (home / "inner").mkdir(exist_ok=True)
            up = {split: f"../images/{split}" for split in ("val", "test")}
            configure(home, path=str(home / "inner"), train=str(home / "images/train"), **up)
        else:
            configure(home)

    write(tmp_path / "link" if "link" in written else root)
    digest = read(root / yaml).digest
    assert read(tmp_path / "link" / yaml).digest == digest
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    (tmp_path / "alone.yaml").symlink_to(root / yaml)
    monkeypatch.chdir(root / "images")
    for spelling in ("../data.yaml", "~/data.yaml", "../../link/images/../data.yaml", tmp_path / "alone.yaml"):
        found = read(Path(spelling))
        assert (found.digest, found.name) == (digest, "set")
    shutil.copytree(root, tmp_path / "moved/elsewhere", symlinks=True)
    shutil.rmtree(root)
    write(tmp_path / "moved/elsewhere")
    (tmp_path / "moved/elsewhere/notes.txt").write_text("not used")
    assert read(tmp_path / "moved/elsewhere" / yaml).digest == digest


@given(st.text(max_size=40) | st.lists(st.floats(), min_size=5, max_size=5).map(lambda row: " ".join(map(str, row))))
def test_any_label_line_is_a_good_box_or_a_clear_refusal(line):
    try:
        label, cx, cy, w, h = folder._box(line, nc=3)
    except ValueError as error:
        assert any(word in str(error) for word in ("columns", "not numbers", "class", "coordinates", "area"))
    else:
        assert label in (0, 1, 2) and 0 <= cx <= 1 and 0 <= cy <= 1 and 0 <= w <= 1 and 0 <= h <= 1
