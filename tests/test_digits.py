"""The generated digits: same bytes for the same spec, nothing in two splits, boxes where the ink is."""

import json
import shutil
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image

from yolop.data import SPLITS, digits, load
from yolop.data.digits import PHOTOGRAPHS, generate, handwriting, render
from yolop.files import MARKER
from yolop.report.opened import require_apart
from yolop.settings import named_study
from yolop.specs import DigitsSpec, SpecError, run_id
from yolop.study.graph import generated

TINY = DigitsSpec(train=6, val=3, test=4, imgsz=96)
GOLDEN = "b42ba12efff85a19b0f874bee02b3efb36ff661ebe95bda98ffa0857358f3e68"
GOLDEN_VERSIONS = {"numpy": "2.4.6", "pillow": "13.0.0", "scikit-learn": "1.9.1", "scikit-image": "0.26.0"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return generate(TINY, tmp_path_factory.mktemp("made") / "digits")


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_spec_gives_the_same_bytes_in_two_folders(tiny, tmp_path):
    again = generate(TINY, tmp_path / "elsewhere" / "copy")
    assert again.digest == tiny.digest and again.name == "digits" and again.warnings == ()
    assert content(again.root) == content(tiny.root)
    assert [len(again.splits[split].images) for split in SPLITS] == [6, 3, 4]


def test_golden_digest(tiny):
    installed = {name: version(name) for name in GOLDEN_VERSIONS}
    if installed != GOLDEN_VERSIONS:
        pytest.skip(f"the golden digest is for {GOLDEN_VERSIONS}, installed are {installed}")
    assert tiny.digest == GOLDEN, "the generator makes other images: raise DigitsSpec.material, then renew this digest"


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
        assert name == MARKER or name == "data.yaml" or data == whole[name]


def test_a_whole_data_set_is_read_not_made(tiny, monkeypatch):
    monkeypatch.setattr(digits, "_write", lambda *_: pytest.fail("made anew"))
    assert generate(TINY, tiny.root).digest == tiny.digest


@pytest.mark.parametrize("damage", [
    lambda root: (root / "images/val/00001.png").unlink(),
    lambda root: (root / "images/train/00000.png").write_bytes((root / "images/train/00001.png").read_bytes()),
    lambda root: (root / "labels/test/00000.txt").write_text("0 0.5 0.5 0.5 0.5\n"),
    lambda root: (root / "data.yaml").unlink(),
    lambda root: (root / MARKER).write_text('{"identity": "data-di'),
    lambda root: (root / MARKER).write_text("[]"),
    lambda root: (root / MARKER).write_text(json.dumps({"identity": run_id(TINY), "warnings": []})),
    lambda root: generate(replace(TINY, seed=1, val=5), root),
], ids=["no image", "other image", "other label", "no yaml", "marker cut", "marker odd", "no digest", "other spec"])  # fmt: skip
def test_what_is_not_whole_is_made_anew(tiny, tmp_path, damage):
    root = tmp_path / "digits"
    shutil.copytree(tiny.root, root)
    damage(root)
    assert content(root) != content(tiny.root)
    assert generate(TINY, root).digest == tiny.digest
    assert content(root) == content(tiny.root)
    assert {p.name for p in tmp_path.iterdir()} <= {"digits", ".digits.lock"}


def test_no_sample_of_handwriting_is_in_two_splits():
    targets, parts = digits._handwriting()[1], handwriting()
    everything = np.concatenate([indices for split in SPLITS for indices in parts[split]])
    assert sorted(everything) == list(range(1797))
    assert all((targets[parts[split][digit]] == digit).all() for split in SPLITS for digit in range(10))
    shares = [sum(map(len, parts[split])) / 1797 for split in SPLITS]
    np.testing.assert_allclose(shares, [0.6, 0.15, 0.25], atol=0.005)


@pytest.mark.parametrize("name", ["digits", "smoke"])
def test_no_set_of_a_study_shows_what_another_is_tested_on(name, tmp_path, monkeypatch):
    """Over the data set and the corpus of a study, whose seeds differ: what was drawn for test is in no other split's images."""
    study, drawn, digit = named_study(name), {}, digits._digit
    for spec in (generated(study), generated(study, corpus=True)):
        for split in SPLITS:
            seen = drawn[spec.part, split] = set()
            monkeypatch.setattr(digits, "_digit", lambda rng, ids, spec, seen=seen: seen.update(ids) or digit(rng, ids, spec))
            for index in range(40):
                render(spec, split, index)
    for tested in (("digits", "val"), ("digits", "test")):
        assert not drawn[tested] & set.union(*(ids for key, ids in drawn.items() if key != tested))
    facts = [load.summary(generate(replace(spec, train=4, val=4, test=4), tmp_path / spec.part)) for spec in
             (generated(study), generated(study, corpus=True))]  # fmt: skip
    require_apart(*facts)
    leaked = facts[0]["splits"]["test"]["material"][:2]
    facts[1]["splits"]["val"]["material"] += leaked  # as the corpus of the first version did
    with pytest.raises(SpecError, match="material of test = '2 samples or photographs that are trained on'"):
        require_apart(*facts)


def test_images_of_one_photograph_are_one_group(tiny):
    split = generate(replace(TINY, test=60), tiny.root.parent / "groups").splits["test"]
    assert set(split.groups) == set(PHOTOGRAPHS["test"]) and len(split.groups) == 60


def test_no_photograph_is_in_two_splits():
    names = [name for split in SPLITS for name in PHOTOGRAPHS[split]]
    assert len(set(names)) == len(names) and "skimage/data/motorcycle_right.png" not in names
    pixels = {digits.photograph(name).tobytes() for name in names}
    assert len(pixels) == len(names)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("part", ["digits", "corpus"])
def test_each_split_draws_from_its_own_material_and_the_corpus_from_train(monkeypatch, part, split):
    photographs, drawn, source = set(), set(), "train" if part == "corpus" else split
    photograph, digit = digits.photograph, digits._digit
    monkeypatch.setattr(digits, "photograph", lambda name: photographs.add(name) or photograph(name))
    monkeypatch.setattr(digits, "_digit", lambda rng, ids, spec: drawn.update(ids) or digit(rng, ids, spec))
    for index in range(25):
        render(replace(TINY, part=part), split, index)
    assert 2 <= len(photographs) and photographs <= set(PHOTOGRAPHS[source])
    assert drawn <= set(np.concatenate(handwriting()[source]))


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


@pytest.mark.parametrize("change", [
    {"classes": ()}, {"classes": (0, 0)}, {"classes": (0, 10)}, {"train": 0}, {"test": 0}, {"imgsz": 0},
    {"size_px": (4, 20)}, {"size_px": (30, 20)}, {"size_px": (20, 160)}, {"contrast": (0.0, 0.5)}, {"contrast": (0.5, 35)},
    {"turn_deg": -1.0}, {"per_image": (3, 1)}, {"part": "val"}, {"seed": -1},
])  # fmt: skip
def test_a_spec_out_of_range_is_refused_before_anything_is_made(tmp_path, change):
    with pytest.raises(SpecError, match=f"{next(iter(change))} = .* is not possible: use "):
        generate(replace(TINY, **change), tmp_path / "digits")
    assert not list(tmp_path.iterdir())
