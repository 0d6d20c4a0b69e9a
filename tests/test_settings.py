"""No impossible study comes to be, and a study is known by what it computes, not by where its files lie."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolop.settings import STUDIES, named_study, parse, setting_names
from yolop.specs import SpecError


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_studies_survive_json_and_text(study):
    values = {k: v for k, v in json.loads(json.dumps(asdict(study))).items() if k not in ("name", "digest", "corpus_digest")}
    assert study.changed(**values) == study
    texts = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in values.items()}
    assert study.changed(**texts) == study
    assert study.changed(**parse(" ".join(f"{k}={v}" for k, v in texts.items()))) == study
    assert named_study("digits", seeds="[0, 1]", models='(n,p)').seeds == (0, 1)  # as papermill hands lists over
    assert study.changed(**dict.fromkeys(values)) == study  # None leaves a field as it is


def test_a_changed_study_has_a_report_of_its_own():
    changed = named_study("smoke", epochs=3)
    assert changed.epochs == 3 and changed.report.startswith("smoke-") and changed == named_study("smoke", epochs="3")
    assert changed.report != named_study("smoke", epochs=4).report
    assert named_study("smoke", device="0").report == "smoke"  # where it runs is no part of what it is


def test_a_moved_data_set_is_the_same_study():
    here, there = (replace(named_study("digits", dataset=path), digest="1" * 64) for path in ("/a/data.yaml", "b/data.yaml"))
    assert here.report == there.report != replace(here, digest="2" * 64).report


def test_a_set_for_pretraining_makes_another_study_by_its_content():
    here, there = (replace(named_study("digits", corpus=path), corpus_digest="1" * 64) for path in ("~/a.yaml", "b/data.yaml"))
    assert here.report == there.report != "digits" and here.report != replace(here, corpus_digest="2" * 64).report
    assert named_study("digits", corpus="").report == "digits" and named_study("smoke", corpus="raccoon", imgsz=64).imgsz == 64
    for value in ("digits", "mine", "data.txt"):
        with pytest.raises(SpecError, match="corpus = .* use the path of a data.yaml"):
            named_study("digits", corpus=value)


def test_settings_are_read_as_a_shell_reads_them():
    assert parse("") == {} and parse("ratios=0.1,0.25  seeds=0") == {"ratios": "0.1,0.25", "seeds": "0"}
    assert parse("dataset='my data/data.yaml' p=0.16,0.2") == {"dataset": "my data/data.yaml", "p": "0.16,0.2"}
    for text in ("ratios", "epochs=3 seeds", "dataset='x", None, 3):
        with pytest.raises(SpecError, match="settings"):
            parse(text)


def test_how_often_is_timed_decides_nothing_else():
    few, many = (named_study("digits", timing_rounds=rounds) for rounds in (5, 10000))
    assert replace(few, timing_rounds=many.timing_rounds) == many and not few.small


def test_unknown_names_are_refused():
    for name, overrides in (("nope", {}), ("", {}), ("digits", {"epoch": 3}), ("digits", {"kind": "x"})):
        with pytest.raises(SpecError, match="is not possible: use .*one of"):
            named_study(name, **overrides)
    with pytest.raises(SpecError, match="setting = 'ratio' is not possible: use ratios"):
        named_study("digits", ratio=0.1)


BAD = {
    "dataset": st.sampled_from(["", "digit", "data.txt", "http://data", 5, True, 1.5, ["digits"]]),
    "imgsz": st.integers(-(2**40), 31) | st.integers(1281, 2**40) | st.integers(1, 39).map(lambda k: 32 * k + 1),
    "models": st.sampled_from(["", "n", "p", "s,n", "n,p,q", ["n", "p", None], "np", 3]),
    "epochs": st.integers(max_value=0) | st.integers(1001, 2**40) | st.floats(1.1, 1.9),
    "pretrain_epochs": st.integers(-(2**40), 0) | st.sampled_from(["", "ten", True, [3], {}, "1e999", "nan"]),
    "seeds": st.sampled_from(["", [], "-1", "0,,1", "a", [0, -1], [0.5], True, {}]),
    "sparsities": st.sampled_from(["0.9,1", [-0.1, 0.5], [0.0], "half", ""]),  # channels are removed beside zeros
    "channels_removed": st.sampled_from(["half", [1.0], [0]]),
    "ratios": st.floats().filter(lambda x: not 0 <= x <= 1) | st.sampled_from([[], "", "30%", "nan", [0.1, 2]]),
    "small": st.sampled_from(["maybe", 2, "", None or "x"]),
    "timing_rounds": st.integers(-(2**40), 3) | st.integers(10001, 2**40),
    "device": st.sampled_from(["", "gpu", "cuda:0", -1, 1.5, [0], "0,1"]),
}


@pytest.mark.parametrize("field", BAD)
@given(data=st.data())
def test_impossible_values_are_refused_by_name(field, data):
    value = data.draw(BAD[field])
    with pytest.raises(SpecError, match=field):
        named_study("digits", **{field: value})


def test_a_number_of_thousands_of_digits_is_refused():
    with pytest.raises(SpecError, match="epochs = a number of thousands of digits is not possible"):
        named_study("digits", epochs=10**5000)


scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8)


@given(st.sampled_from(setting_names()), scalars | st.lists(scalars))
def test_any_value_gives_a_possible_study_or_a_clear_error(field, value):
    try:
        study = named_study("digits", **{field: value})
    except SpecError as error:
        assert "use " in str(error)
        return
    assert study.imgsz % 32 == 0 and study.epochs >= 1 and {"n", "p"} <= set(study.models)
    assert all(0 <= ratio <= 1 for ratio in study.ratios) and all(seed >= 0 for seed in study.seeds)
    hash(study)


