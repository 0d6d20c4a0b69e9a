"""Fuzzing of data sets and settings: any YAML, labels, parameters give a data set, a study, or a named error."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_fuzz import LIMIT_S, mutated

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks/01_architecture.ipynb"
PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20) | st.dates()
PLAIN |= st.sampled_from(["images/train", "../x", "images/val", "~", "/", "\0", "\ud800", 0, 2, 10**400])
VALUES = st.recursive(
    PLAIN, lambda some: st.lists(some, max_size=4) | st.dictionaries(PLAIN, some, max_size=4), max_leaves=8
)
KEYS = st.sampled_from(["train", "val", "test", "names", "nc", "path", "download", "x", 3, None])
CHANGES = st.integers(0, 2**32).map(random.Random)
SOUND = {"train": "images/train", "val": "images/val", "nc": 2, "names": ["cat", "dog"]}
LINES = b"0 0.5 0.5 0.2 0.4\n1 0.25 0.25 0.1 0.1\n"


@pytest.fixture
def root(tmp_path):
    """A YOLO data set of an image in train and one in val."""
    for number, split in enumerate(("train", "val")):
        for part in ("images", "labels"):
            (tmp_path / "set" / part / split).mkdir(parents=True)
        Image.new("RGB", (20, 16), (number, 0, 0)).save(tmp_path / f"set/images/{split}/{number}.png")
        (tmp_path / f"set/labels/{split}/{number}.txt").write_bytes(LINES)
    return tmp_path / "set"


def is_read(root: Path, counts: Counter) -> None:
    """Read the data set: DatasetError, or boxes that training can use."""
    from yolop.data import DatasetError, folder, load

    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        found = folder.read(root / "data.yaml")
        text = json.dumps(load.summary(found), ensure_ascii=False, allow_nan=False).encode()
    except DatasetError as error:
        counts["refused"] += 1
        assert 20 < len(str(error)) < 20_000 and str(error).encode()
    else:
        counts["read"] += 1
        assert found.nc >= 1 and len(found.digest) == 64 and text
        boxes = [label for split in found.splits.values() for labels in split.labels for label in labels]
        assert all(0 <= box[0] < found.nc and box[1:].min() >= 0 and box[1:].max() <= 1 for box in boxes) and boxes
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_any_data_yaml_is_a_data_set_or_a_named_error(root, seen):
    counts, sound = Counter(), yaml.safe_dump(SOUND).encode()

    @settings(max_examples=600)
    @given(st.dictionaries(KEYS, VALUES, max_size=4), st.sets(KEYS, max_size=2))
    def values(changes, dropped):
        config = {key: value for key, value in (SOUND | changes).items() if key not in dropped}
        text = yaml.safe_dump(config)
        (root / "data.yaml").write_text(text, encoding="utf-8")
        is_read(root, counts)

    endless = st.sampled_from([b"x: 0x", b"names: [0x", b"names: {0x", b"nc: 0x"]).map(lambda key: key + b"f" * 5000)
    endless |= st.sampled_from([b"[", b"{a: ", b"- ", b"? ", b"!!set {"]).map(lambda opening: b"x: " + opening * 400)

    @settings(max_examples=600)
    @given(
        CHANGES,
        endless | st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")),
    )
    def texts(draw, extra):
        (root / "data.yaml").write_bytes(draw.choice((mutated(sound, draw), sound + extra, extra)))
        is_read(root, counts)

    values()
    texts()
    assert counts["read"] > 20 and counts["refused"] > 500, counts
    seen("any data.yaml", counts.total(), f"{counts['refused']:,} named errors, {counts['read']:,} data sets read")


def test_any_label_file_is_boxes_or_a_named_error(root, seen):
    counts = Counter()
    (root / "data.yaml").write_text(yaml.safe_dump(SOUND))
    number = (
        st.floats(-0.1, 1.1)
        | st.floats()
        | st.integers(-1, 10**20)
        | st.sampled_from(["1e-9", "0x1", "1_0", "٠", "nan"])
    )
    rows = st.lists(st.lists(number, min_size=4, max_size=6).map(lambda row: " ".join(map(str, row))), max_size=4)

    @settings(max_examples=1500)
    @given(CHANGES, st.binary(max_size=60) | rows.map(lambda lines: "\n".join(lines).encode()))
    def labels(draw, extra):
        data = draw.choice((mutated(LINES, draw), LINES + extra, extra))
        (root / "labels/train/0.txt").write_bytes(data)
        is_read(root, counts)

    labels()
    assert counts["read"] > 20 and counts["refused"] > 500, counts
    seen("any label file", counts.total(), f"{counts['refused']:,} named errors, {counts['read']:,} data sets read")


def test_any_settings_are_a_study_or_a_named_error(project, seen):
    from yolop.run import runner
    from yolop.settings import named_study, setting_names
    from yolop.specs import SpecError

    (project / "notebooks/01_architecture.ipynb").write_bytes(NOTEBOOK.read_bytes())
    names, counts = [*setting_names(), "x", "é", "\0"], Counter()

    def is_study(make) -> None:
        try:
            study = make()
        except SpecError as error:
            counts["refused"] += 1
            assert str(error)
        else:
            counts["a study"] += 1
            assert (
                study.imgsz % 32 == 0
                and study.epochs >= 1
                and hash(study)
                and json.dumps(study.__dict__, allow_nan=False)
            )

    @settings(max_examples=1500)
    @given(
        st.sampled_from(["digits", "smoke", "bccd", "nope", "", "\0"]),
        st.dictionaries(st.sampled_from(names), VALUES, max_size=3),
    )
    def fields(name, changes):
        is_study(lambda: named_study(name, **changes))

    given_text = st.text(max_size=20) | st.tuples(st.sampled_from(names), VALUES.map(str) | st.text(max_size=9)).map(
        "=".join
    )

    @settings(max_examples=500)
    @given(st.lists(given_text, max_size=3))
    def command_line(texts):
        is_study(lambda: runner.prepare("digits", texts, "01")[0].settings)

    fields()
    command_line()
    assert counts["a study"] > 20 and counts["refused"] > 500, counts
    seen(
        "any settings of a study", counts.total(), f"{counts['refused']:,} named errors, {counts['a study']:,} studies"
    )
