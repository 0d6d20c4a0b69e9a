import json
import os
import pickle
import shutil
import struct
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from yolop.data import datasets
from yolop.data.datasets import (
    PHOTOGRAPHS,
    SPLITS,
    DatasetError,
    generate,
    handwriting,
    load_image,
    read,
    render,
    summary,
)
from yolop.specs import DigitsSpec, SpecError

TINY = DigitsSpec(train=6, val=3, test=4, imgsz=96)
GOLDEN = "6a73f6f2124218123ee609a3d32a145bffb7adb01a5a46cdc5056fa1cedab07b"
GOLDEN_VERSIONS = {"numpy": "2.4.6", "pillow": "13.0.0", "scikit-learn": "1.9.1", "scikit-image": "0.26.0"}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return generate(TINY, tmp_path_factory.mktemp("made") / "digits")


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- digits -----------------------------------------------------------------------------------------------------------


def test_the_same_spec_gives_the_same_bytes_in_two_folders(tiny, tmp_path):
    again = generate(TINY, tmp_path / "elsewhere" / "copy")
    assert again.digest == tiny.digest and again.name == "digits" and again.warnings == ()
    assert content(again.root) == content(tiny.root)
    assert [len(again.splits[split].images) for split in SPLITS] == [6, 3, 4]


def test_golden_digest(tiny):
    installed = {name: version(name) for name in GOLDEN_VERSIONS}
    if installed != GOLDEN_VERSIONS:
        pytest.skip(f"the golden digest is for {GOLDEN_VERSIONS}, installed are {installed}")
    assert tiny.digest == GOLDEN, "the generator makes other images: raise specs.SCHEMA, then renew this digest"


@pytest.mark.parametrize("change", [{"seed": 1}, {"part": "corpus"}, {"turn_deg": 5.0}, {"classes": (5, 6)}])
def test_another_spec_gives_other_data(tiny, tmp_path, change):
    other = generate(replace(TINY, **change), tmp_path / "other")
    assert other.digest != tiny.digest
    images = [set(content(root / "images").values()) for root in (tiny.root, other.root)]
    assert not images[0] & images[1]


def test_an_image_does_not_depend_on_how_many_there_are(tiny, tmp_path):
    fewer = generate(replace(TINY, train=2, test=1), tmp_path / "fewer")
    whole = content(tiny.root)
    for name, data in content(fewer.root).items():
        assert name == datasets.MARKER or name == "data.yaml" or data == whole[name]


def test_a_whole_data_set_is_read_not_made(tiny, monkeypatch):
    monkeypatch.setattr(datasets, "_write", None)
    assert generate(TINY, tiny.root).digest == tiny.digest


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "images/val/00001.png").unlink(),
        lambda root: (root / "images/train/00000.png").write_bytes((root / "images/train/00001.png").read_bytes()),
        lambda root: (root / "labels/test/00000.txt").write_text("0 0.5 0.5 0.5 0.5\n"),
        lambda root: (root / "data.yaml").unlink(),
        lambda root: (root / datasets.MARKER).write_text('{"spec": "data-di'),
        lambda root: (root / datasets.MARKER).write_text("[]"),
        lambda root: (root / datasets.MARKER).write_text(json.dumps({"spec": datasets.run_id(TINY)})),
        lambda root: generate(replace(TINY, seed=1, val=5), root),
    ],
    ids=["no image", "other image", "other label", "no yaml", "marker cut", "marker odd", "no digest", "other spec"],
)
def test_what_is_not_whole_is_made_anew(tiny, tmp_path, damage):
    root = tmp_path / "digits"
    shutil.copytree(tiny.root, root)
    damage(root)
    assert generate(TINY, root).digest == tiny.digest
    assert content(root) == content(tiny.root)
    assert {p.name for p in tmp_path.iterdir()} <= {"digits", ".digits.lock"}


def test_a_killed_run_leaves_nothing_that_is_taken_for_whole(tiny, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(spec, split, index):
        if (split, index) == ("val", 1):
            raise Killed
        return render(spec, split, index)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(datasets, "render", killed)
        patched.setattr(datasets.shutil, "rmtree", lambda *_, **__: None)  # a real kill cleans nothing
        generate(TINY, tmp_path / "digits")
    assert not (tmp_path / "digits").exists() and (tmp_path / ".digits.unfinished").exists()
    assert generate(TINY, tmp_path / "digits").digest == tiny.digest
    assert {p.name for p in tmp_path.iterdir()} <= {"digits", ".digits.lock"}


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DatasetError, match="No space left on device; make room"):
        generate(TINY, tmp_path / "digits")
    assert {p.name for p in tmp_path.iterdir()} <= {".digits.lock"}


def test_a_folder_that_was_not_made_here_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("four years of work")
    with pytest.raises(DatasetError, match="was not made here"):
        generate(TINY, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "four years of work"
    with pytest.raises(DatasetError, match="could not write"):
        generate(TINY, tmp_path / "thesis.txt")


def test_two_that_ask_at_once_make_it_once(tiny, tmp_path, monkeypatch):
    calls, write = [], datasets._write
    monkeypatch.setattr(datasets, "_write", lambda *args: calls.append(args) or write(*args))
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: generate(TINY, tmp_path / "digits"), range(2)))
    assert [dataset.digest for dataset in made] == [tiny.digest] * 2 and len(calls) == 1


def test_no_sample_of_handwriting_is_in_two_splits():
    targets = datasets._handwriting()[1]
    for seed in (0, 1):
        parts = handwriting(seed)
        everything = np.concatenate([indices for split in SPLITS for indices in parts[split]])
        assert sorted(everything) == list(range(1797))
        assert all((targets[parts[split][digit]] == digit).all() for split in SPLITS for digit in range(10))
        shares = [sum(map(len, parts[split])) / 1797 for split in SPLITS]
        np.testing.assert_allclose(shares, [0.6, 0.15, 0.25], atol=0.005)
    assert not np.array_equal(handwriting(0)["test"][3], handwriting(1)["test"][3])


def test_no_photograph_is_in_two_splits():
    names = [name for split in SPLITS for name in PHOTOGRAPHS[split]]
    assert len(set(names)) == len(names) and "skimage/data/motorcycle_right.png" not in names
    pixels = {datasets._photograph(name).tobytes() for name in names}
    assert len(pixels) == len(names)


@pytest.mark.parametrize(
    ("part", "split", "source"),
    [
        ("digits", "train", "train"),
        ("digits", "val", "val"),
        ("digits", "test", "test"),
        ("corpus", "train", "train"),
        ("corpus", "val", "train"),
        ("corpus", "test", "train"),
    ],
)
def test_each_split_draws_from_its_own_material_and_the_corpus_from_train(monkeypatch, part, split, source):
    photographs, drawn = set(), set()
    photograph, digit = datasets._photograph, datasets._digit
    monkeypatch.setattr(datasets, "_photograph", lambda name: photographs.add(name) or photograph(name))
    monkeypatch.setattr(datasets, "_digit", lambda rng, ids, spec: drawn.update(ids) or digit(rng, ids, spec))
    for index in range(25):
        render(replace(TINY, part=part), split, index)
    assert 2 <= len(photographs) and photographs <= set(PHOTOGRAPHS[source])
    assert drawn <= set(np.concatenate(handwriting(0)[source]))


def test_boxes_are_exactly_where_the_picture_changed():
    """Against the same picture without digits: its background comes first out of the same random numbers."""
    exact = 0
    for index in range(60):
        spec = replace(DigitsSpec(), per_image=(1, 1))
        pixels, boxes = render(spec, "test", index)
        bare, none = render(replace(spec, per_image=(0, 0)), "test", index)
        assert none.shape == (0, 5) and boxes.shape == (1, 5)
        rows, columns = np.nonzero((pixels != bare).any(axis=2))
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(seen - boxes[0, 1:]).max() <= 1  # a pixel may happen to have the colour of the ink
        exact += (seen == boxes[0, 1:]).all()
    assert exact >= 57


def test_ink_is_one_colour_that_stands_out_by_the_contrast_asked_for():
    full = replace(DigitsSpec(), per_image=(1, 1), contrast=(1.0, 1.0))
    faint = replace(full, contrast=(0.35, 0.35))
    for index in range(20):
        bare, _ = render(replace(full, per_image=(0, 0)), "val", index)
        drawn, [(_, left, top, right, bottom)] = render(full, "val", index)
        ink, counts = np.unique(drawn[top:bottom, left:right].reshape(-1, 3), axis=0, return_counts=True)
        ink = ink[counts.argmax()]
        ground = bare[top:bottom, left:right].mean(axis=(0, 1))
        assert counts.max() > 0.1 * counts.sum()
        assert abs((ink - ground) @ [0.299, 0.587, 0.114]) > 79
        blended, _ = render(faint, "val", index)
        covered = (drawn == ink).all(axis=2)
        expected = bare[covered] + 0.35 * (ink - bare[covered].astype(float))
        assert np.abs(blended[covered] - expected).max() <= 2


def test_digits_lie_inside_apart_and_are_all_that_changed():
    spec = DigitsSpec()
    for index in range(60):
        pixels, boxes = render(spec, "train", index)
        bare, _ = render(replace(spec, per_image=(0, 0)), "train", index)
        assert boxes[:, 1:3].min() >= 0 and boxes[:, 3:].max() <= spec.imgsz and len(boxes) <= 6
        inside = np.zeros(pixels.shape[:2], bool)
        for _, left, top, right, bottom in boxes:
            inside[top:bottom, left:right] = True
            assert (pixels != bare)[top:bottom, left:right].any()
        assert not (pixels != bare)[~inside].any()
        areas = [np.zeros(pixels.shape[:2], bool) for _ in boxes]
        for area, (_, left, top, right, bottom) in zip(areas, boxes, strict=True):
            area[top:bottom, left:right] = True
        for i, one in enumerate(areas):
            assert all((one & other).sum() / (one | other).sum() < 0.05 for other in areas[:i])


def test_label_files_are_the_boxes(tiny):
    for split in SPLITS:
        for index, labels in enumerate(tiny.splits[split].labels):
            pixels, boxes = render(TINY, split, index)
            assert (np.asarray(Image.open(tiny.splits[split].images[index])) == pixels).all()
            assert labels.dtype == np.float32 and (labels[:, 0] == boxes[:, 0]).all()
            corners = np.hstack([labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 1:3] + labels[:, 3:] / 2]) * 96
            np.testing.assert_allclose(corners, boxes[:, 1:], atol=1e-4)


def test_sizes_turns_and_classes_are_as_asked():
    upright = DigitsSpec(classes=(0, 1, 2, 3, 4), imgsz=160, size_px=(40, 40), turn_deg=0.0)
    heights = np.concatenate([np.diff(render(upright, "train", i)[1][:, [2, 4]]).ravel() for i in range(30)])
    assert 34 <= heights.min() and heights.max() <= 46
    lying = replace(upright, turn_deg=90.0)
    widths = np.concatenate([np.diff(render(lying, "train", i)[1][:, [1, 3]]).ravel() for i in range(30)])
    assert widths.max() > 46  # no digit is so wide upright
    spec = DigitsSpec(classes=(0, 1, 2, 3, 4), imgsz=160, size_px=(20, 64))
    boxes = np.vstack([render(spec, "train", index)[1] for index in range(200)])
    assert 14 <= np.diff(boxes[:, [2, 4]]).min() and np.diff(boxes[:, [2, 4]]).max() <= 64 * 1.5
    counts = np.bincount(boxes[:, 0], minlength=5)
    assert len(counts) == 5 and counts.min() > 0.75 * counts.mean() and counts.max() < 1.25 * counts.mean()


def test_the_largest_digits_at_any_turn_still_fit():
    for index in range(40):
        render(DigitsSpec(imgsz=96, size_px=(64, 64), turn_deg=180.0), "train", index)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ()},
        {"classes": (0, 0)},
        {"classes": (0, 10)},
        {"train": 0},
        {"test": 0},
        {"imgsz": 0},
        {"size_px": (4, 20)},
        {"size_px": (30, 20)},
        {"size_px": (20, 160)},
        {"contrast": (0.0, 0.5)},
        {"contrast": (0.5, 35)},
        {"turn_deg": -1.0},
        {"per_image": (3, 1)},
        {"part": "val"},
        {"seed": -1},
    ],
)
def test_a_spec_out_of_range_is_refused_before_anything_is_made(tmp_path, change):
    with pytest.raises(SpecError, match=f"{next(iter(change))} = .* is not possible: use "):
        generate(replace(TINY, **change), tmp_path / "digits")
    assert not list(tmp_path.iterdir())


# --- anybody's data.yaml ----------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """A YOLO data set: three images of 20 x 16 px in train, one in val and test each."""
    root = tmp_path / "set"
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(256, size=(16, 20, 3), dtype=np.uint8)).save(root / f"images/{split}/{i}.png")
            (root / f"labels/{split}/{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.2 0.4\n1 0.25 0.25 0.1 0.1\n")
    configure(root)
    return root


def configure(root, drop=(), **changes):
    config = {f: f"images/{f}" for f in SPLITS} | {"nc": 2, "names": ["cat", "dog"]} | changes
    (root / "data.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if k not in drop}))


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
    "one name twice": (config(names=["cat", "cat"]), "names: 'cat' stands for two"),
    "nc differs": (config(nc=3), "nc: 3, but there are 2 names"),
    "nc is text": (config(nc="2"), "nc: '2', but there are 2 names"),
    "download": (config(download="https://example.org/a.zip"), "download: ultralytics would run it"),
    "path is a list": (config(path=["."]), "path: .* is not a path"),
    "train is a number": (config(train=7), "train: 7 is not a path"),
    "train holds a number": (config(train=["images/train", 7]), "train: .* is not a path"),
    "no such root": (config(path="gone"), "train: images/train leads to .*gone/images/train, neither"),
    "no such folder": (config(val="images/valid"), "val: images/valid leads to .*, neither"),
    "split is an image": (config(val="images/val/0.png"), "neither a folder nor a .txt list"),
    "folder without images": (config(val="labels/val"), "val: no images in 'labels/val'"),
    "empty list": (list_of(b"\n"), "val: no images in 'v.txt'"),
    "list of nothing": (list_of(b"\nimages/a.png"), "v.txt:2: no image .*images/a.png"),
    "list of labels": (list_of(b"labels/val/0.txt"), "v.txt:1: 0.txt is none of"),
    "list not UTF-8": (list_of(b"caf\xe9.png"), "v.txt: not readable as UTF-8"),
    "four columns": (line("0 0.5 0.5 0.2"), f"{LABEL}:2: 4 columns"),
    "six columns": (line("0 0.5 0.5 0.2 0.2 0.9"), f"{LABEL}:2: 6 columns"),
    "polygon": (line("0 .1 .1 .2 .1 .2 .2"), f"{LABEL}:2: 7 columns"),
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
    "no width": (line("0 0.5 0.5 0 0.2"), f"{LABEL}:2: a box without area"),
    "no height": (line("0 0.5 0.5 0.2 -0.0000001"), f"{LABEL}:2: a box without area"),
    "label not UTF-8": (line(b"0 0.5 0.5 0.2 0.2\xff"), f"{LABEL}: not readable as UTF-8"),
    "no box": (lambda root: (root / "labels/val/0.txt").unlink(), "val: no box .*labels/val/0.txt"),
    "cut PNG": (cut(".png"), BAD),
    "cut JPEG": (cut(".jpg"), BAD.replace(".png", ".jpg")),
    "empty image": (image(b""), BAD),
    "text as image": (image(b"hello"), BAD),
    "bomb of 3600 megapixels": (image(png_header(60000)), BAD),
    "100 megapixels": (image(png_header(10000)), "images/train/1.png: .*(pixels|10000x10000 px|cannot identify image)"),
    "16 bits": (picture(np.full((16, 20), 9999, np.uint16)), "images/train/1.png: pixels of more than 8 bits"),
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


def test_an_image_that_is_a_program_is_not_run(root, monkeypatch):
    run = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: run.append(args))
    image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 30\n%%EndComments\n%%EOF\n")(root)
    with pytest.raises(DatasetError, match=BAD):
        read(root / "data.yaml")
    assert not run


def test_a_large_image_is_refused_by_its_header(root, monkeypatch):
    monkeypatch.setattr(datasets, "MAX_PIXELS", 300)
    with pytest.raises(DatasetError, match="images/train/0.png: 20x16 px"):
        read(root / "data.yaml")


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_a_download_entry_is_refused_and_never_run(root, tmp_path):
    canary = tmp_path / "canary"
    configure(root, download=f"import os; os.system(\"touch '{canary}'\")", val="images/gone")
    with pytest.raises(DatasetError, match="remove this entry"):
        read(root / "data.yaml")
    configure(root, download="")
    read(root / "data.yaml")  # empty: nothing to run
    assert not canary.exists()


def test_yaml_cannot_make_objects(root, tmp_path):
    (root / "data.yaml").write_text(f"train: !!python/object/apply:os.system [\"touch '{tmp_path / 'canary'}'\"]")
    with pytest.raises(DatasetError, match="not readable as YAML"):
        read(root / "data.yaml")
    assert not (tmp_path / "canary").exists()


def test_label_caches_are_never_opened(root, tmp_path):
    before = read(root / "data.yaml")
    for place in ("labels/train.cache", "labels/val/x.cache"):
        (root / place).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    pickle.loads(pickle.dumps(Canary(tmp_path / "live")))
    assert (tmp_path / "live").exists()  # the canary would sing
    after = read(root / "data.yaml")
    assert not (tmp_path / "canary").exists() and after.digest == before.digest and before.warnings == ()
    assert [text.split()[0] for text in after.warnings] == ["labels/train.cache", "labels/val/x.cache"]
    assert all("never opened" in text for text in after.warnings)


def test_boxes_come_as_written(root):
    label(root, "1.0 1e-1 0.25 0.125 .5\r\n\r\n  0\t1.0000005 -0.0000005 0.5 0.5\n")
    dataset = read(root / "data.yaml")
    assert dataset.names == ("cat", "dog") and dataset.nc == 2 and dataset.name == "set" and dataset.root == root
    assert dataset.splits["train"].images[1] == root / "images/train/1.png"
    boxes = dataset.splits["train"].labels[1]
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(
        boxes,
        np.float32(
            [
                [0, 0.5, 0.5, 0.2, 0.4],
                [1, 0.1, 0.25, 0.125, 0.5],
                [0, 1, 0, 0.5, 0.5],
            ]
        ),
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
    dataset = read(root / "data.yaml")
    assert [label.shape for label in dataset.splits["train"].labels] == [(0, 5), (0, 5), (2, 5)]
    assert dataset.warnings == ("1 label files belong to no image; the first: labels/train/7.txt",)


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
    assert dataset.warnings == (
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
    digest = read(root / "data.yaml").digest
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy/notes.txt").write_text("not used")
    assert read(tmp_path / "copy/data.yaml").digest == digest
    seen = {digest}
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


@given(st.text(max_size=40) | st.lists(st.floats(), min_size=5, max_size=5).map(lambda row: " ".join(map(str, row))))
def test_any_label_line_is_a_good_box_or_a_clear_refusal(line):
    try:
        label, cx, cy, w, h = datasets._box(line, nc=3)
    except ValueError as error:
        assert any(word in str(error) for word in ("columns", "not numbers", "class", "coordinates", "area"))
    else:
        assert label in (0, 1, 2) and 0 <= cx <= 1 and 0 <= cy <= 1 and 0 < w <= 1 and 0 < h <= 1


# --- both -------------------------------------------------------------------------------------------------------------


def test_summary_counts_what_is_there(root):
    image = Image.new("RGB", (20, 40), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # taken with the camera on its side
    image.save(root / "images/val/1.jpg", exif=exif)
    found = summary(read(root / "data.yaml"))
    assert found == json.loads(json.dumps(found)) and found["names"] == ["cat", "dog"]
    train, val = found["splits"]["train"], found["splits"]["val"]
    assert (train["images"], train["boxes"], train["background_images"]) == (3, 6, 0)
    assert train["boxes_per_class"] == {"cat": 2, "dog": 4}
    assert train["box_width_px"] == {"min": 2.0, "p10": 2.0, "median": 3.0, "p90": 4.0, "max": 4.0}
    assert train["box_height_px"]["max"] == 6.4 and train["image_height_px"]["median"] == 16
    assert (val["background_images"], val["image_width_px"]["max"], val["image_height_px"]["max"]) == (1, 40, 20)


def test_letterbox_geometry_is_ultralytics(tmp_path):
    from ultralytics.data.augment import LetterBox

    for width, height, imgsz in [(640, 427, 320), (427, 640, 320), (100, 100, 96), (37, 91, 160), (500, 11, 64)]:
        Image.new("RGB", (width, height), "white").save(tmp_path / "image.png")
        ours, (ratio, pad_x, pad_y) = load_image(tmp_path / "image.png", imgsz)
        theirs = LetterBox((imgsz, imgsz), auto=False, scaleup=True)(image=np.full((height, width, 3), 255, np.uint8))
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.uint8 and ours.shape == (imgsz, imgsz, 3)
        rows, columns = np.nonzero(ours[..., 0] == 255)
        assert (columns.min(), rows.min()) == (pad_x, pad_y)
        assert abs(columns.max() + 1 - (width * ratio + pad_x)) <= 0.5
        assert abs(rows.max() + 1 - (height * ratio + pad_y)) <= 0.5


def test_letterbox_shrinks_as_an_area_filter_does(tmp_path):
    import cv2

    photograph = datasets._photograph("skimage/data/astronaut.png")
    photograph.save(tmp_path / "image.png")
    ours, _ = load_image(tmp_path / "image.png", 192)
    np.testing.assert_array_equal(ours, cv2.resize(np.asarray(photograph), (192, 192), interpolation=cv2.INTER_AREA))


def test_an_image_is_loaded_upright_in_rgb(tmp_path):
    image = Image.new("RGB", (20, 40), (200, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "image.jpg", exif=exif)
    pixels, (ratio, pad_x, pad_y) = load_image(tmp_path / "image.jpg", 40)
    assert (ratio, pad_x, pad_y) == (1.0, 0, 10)
    assert (pixels[:10] == 114).all() and np.abs(pixels[20, 20].astype(int) - [200, 0, 0]).max() < 6
    (tmp_path / "image.jpg").write_bytes(b"no")
    with pytest.raises(DatasetError, match=r"image\.jpg: not a whole image"):
        load_image(tmp_path / "image.jpg", 40)


@pytest.mark.skipif(not (SHARED / "coco128").is_dir(), reason="the photographs of coco128 are not beside the project")
def test_coco128(tmp_path):
    config = {
        "path": str(SHARED / "coco128"),
        "train": "images/train2017",
        "val": "images/val2017",
        "names": {i: f"class {i}" for i in range(80)},
    }
    path = tmp_path / "coco128.yaml"
    path.write_text(yaml.safe_dump(config))
    dataset = read(path)
    counts = {name: (len(split.images), sum(map(len, split.labels))) for name, split in dataset.splits.items()}
    assert counts == {"train": (128, 929), "val": (128, 898), "test": (128, 898)}
    assert dataset.name == "coco128" and dataset.nc == 80
    persons = Counter(int(row[0]) for labels in dataset.splits["train"].labels for row in labels)[0]
    assert summary(dataset)["splits"]["train"]["boxes_per_class"]["class 0"] == persons > 200
    path.write_text(yaml.safe_dump(config | {"val": "images/train2017"}))  # as the tutorial of YOLOv5 has it
    assert any(text.startswith("128 of 128 images of val are in train too") for text in read(path).warnings)
