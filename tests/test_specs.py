"""Equal specs have equal ids on every machine, every field counts, and no impossible study comes to be."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolop import specs
from yolop.specs import (
    MODELS,
    STUDIES,
    CensusSpec,
    DigitsSpec,
    FolderSpec,
    LatencySpec,
    ModelSpec,
    PruneSpec,
    SensitivitySpec,
    SpecError,
    Study,
    SweepSpec,
    TrainSpec,
    Variant,
    named_study,
    run_id,
)

N = ModelSpec(0.33, 0.25)
TRAIN = TrainSpec(N, "n", "0" * 64, nc=5, imgsz=160, epochs=30)
POINTS = (PruneSpec(), PruneSpec("random-structured", 0.3, 0.1, 0.1, seed=1))
SPECS = [
    DigitsSpec(),
    FolderSpec("bccd", "1" * 64),
    TRAIN,
    SweepSpec("unstructured", "train-n-e30-s0-00000000", "0" * 64, POINTS),
    SensitivitySpec("train-n-e30-s0-00000000", "0" * 64),
    LatencySpec("models", (Variant("n", N), Variant("pruned", N, "train-n", POINTS[1])), nc=5, imgsz=160),
    CensusSpec("models", (("n", N),), nc=5, imgsz=160),
]


def test_run_ids_are_golden():
    """If one of these moves, every record computed so far becomes unreachable: change it only with intent."""
    assert [run_id(spec) for spec in SPECS] == [
        "data-digits-f6bdd82f",
        "data-bccd-dcfe1071",
        "train-n-e30-s0-c09b406e",
        "sweep-unstructured-16aa5041",
        "sensitivity-l1-unstructured-0.5-189269c6",
        "latency-models-160px-34bfe300",
        "census-models-160px-0ca5e40b",
    ]


def test_defaults_are_golden():
    assert asdict(TRAIN) == {
        "model": {"depth": 0.33, "width": 0.25, "head": "anchor"}, "label": "n",
        "data": "0000000000000000000000000000000000000000000000000000000000000000", "nc": 5, "imgsz": 160,
        "epochs": 30, "batch": 16, "seed": 0, "init": "random", "optimizer": "AdamW", "lr0": 0.002, "lrf": 0.01,
        "momentum": 0.9, "weight_decay": 0.0005, "warmup_epochs": 1.0, "cos_lr": True, "mosaic": 0.0,
        "hsv": (0.0, 0.2, 0.2), "translate": 0.1, "scale": 0.2, "fliplr": 0.0, "box": 0.05, "obj": 1.0, "cls": 0.5,
        "val_every": 5, "precision": "bfloat16", "nominal_batch": 0, "warmup_bias_lr": 0.0,
    }  # fmt: skip
    assert asdict(PruneSpec()) == {
        "method": "l1-unstructured", "conv": 0.0, "c3": 0.0, "sppf": 0.0, "reading": "own", "detect": 0.0, "seed": 0,
    }  # fmt: skip
    assert asdict(DigitsSpec()) == {
        "classes": (0, 2, 3), "train": 640, "val": 160, "test": 240, "imgsz": 128, "size_px": (24, 56),
        "contrast": (0.6, 1.0), "turn_deg": 20.0, "per_image": (1, 5), "part": "digits", "seed": 0,
    }  # fmt: skip


def test_original_models_are_those_of_yolov5():
    original = {"x": (1.33, 1.25), "l": (1.0, 1.0), "m": (0.67, 0.75), "s": (0.33, 0.50), "n": (0.33, 0.25)}
    assert {name: (spec.depth, spec.width) for name, spec in MODELS.items() if name != "p"} == original
    assert MODELS["p"].depth <= MODELS["n"].depth and MODELS["p"].width < MODELS["n"].width


def other(value):
    """A different value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, ModelSpec):
        return replace(value, width=value.width * 2)
    return value[:-1]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_every_field_is_part_of_the_identity(spec):
    ids = {run_id(replace(spec, **{item.name: other(getattr(spec, item.name))})) for item in fields(spec)}
    assert len(ids | {run_id(spec)}) == len(fields(spec)) + 1
    assert run_id(replace(spec)) == run_id(spec)


def test_schema_is_part_of_the_identity(monkeypatch):
    before = run_id(TRAIN)
    monkeypatch.setattr(specs, "SCHEMA", specs.SCHEMA + 1)
    assert run_id(TRAIN) != before


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_studies_survive_json_and_text(study):
    values = {k: v for k, v in json.loads(json.dumps(asdict(study))).items() if k != "name"}
    assert study.changed(**values) == study
    texts = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in values.items()}
    assert study.changed(**texts) == study
    assert study.changed(**dict.fromkeys(values)) == study  # None leaves a field as it is


def test_changed_study_has_a_name_of_its_own():
    changed = named_study("smoke", epochs=3)
    assert changed.epochs == 3 and changed.name.startswith("smoke-") and changed == named_study("smoke", epochs="3")
    assert changed.name != named_study("smoke", epochs=4).name
    assert named_study("smoke", device="0").name == "smoke"  # where it runs is no part of what it is


def test_unknown_names_are_refused():
    for name, overrides in (("nope", {}), ("", {}), ("digits", {"epoch": 3}), ("digits", {"kind": "x"})):
        with pytest.raises(SpecError, match="is not possible: use one of"):
            named_study(name, **overrides)


BAD = {
    "dataset": st.sampled_from(["", "digit", "data.txt", "http://data", 5, True, 1.5, ["digits"]]),
    "imgsz": st.integers(-(2**40), 31) | st.integers(1281, 2**40) | st.integers(1, 39).map(lambda k: 32 * k + 1),
    "models": st.sampled_from(["", "n", "p", "s,n", "n,p,q", ["n", "p", None], "np", 3]),
    "epochs": st.integers(max_value=0) | st.integers(1001, 2**40) | st.floats(1.1, 1.9),
    "pretrain_epochs": st.integers(-(2**40), 0) | st.sampled_from(["", "ten", True, [3], {}, "1e999", "nan"]),
    "seeds": st.sampled_from(["", [], "-1", "0,,1", "a", [0, -1], [0.5], True, {}]),
    "sparsities": st.sampled_from(["0.9,1", [-0.1, 0.5], [0.0], "half", ""]),  # channels are removed beside zeros
    "narrowed_to": st.sampled_from(["half", [1.0], [0]]),
    "ratios": st.floats().filter(lambda x: not 0 <= x <= 1) | st.sampled_from([[], "", "30%", "nan", [0.1, 2]]),
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


@given(st.sampled_from([item.name for item in fields(Study) if item.name != "name"]), scalars | st.lists(scalars))
def test_any_value_gives_a_possible_study_or_a_clear_error(field, value):
    try:
        study = named_study("digits", **{field: value})
    except SpecError as error:
        assert "use " in str(error)
        return
    assert study.imgsz % 32 == 0 and study.epochs >= 1 and {"n", "p"} <= set(study.models)
    assert all(0 <= ratio <= 1 for ratio in study.ratios) and all(seed >= 0 for seed in study.seeds)
    hash(study)


@given(st.floats(allow_nan=False).filter(lambda x: not 0 <= x <= 1), st.sampled_from(["conv", "c3", "sppf", "detect"]))
def test_pruning_ratios_outside_0_to_1_are_refused(ratio, name):
    with pytest.raises(SpecError, match=f"ratio {name}"):
        PruneSpec(**{name: ratio})


@pytest.mark.parametrize(
    "make",
    [
        lambda: PruneSpec("l2"),
        lambda: PruneSpec(reading="both"),
        lambda: PruneSpec(conv=float("nan")),
        lambda: ModelSpec(0, 0.25),
        lambda: ModelSpec(0.33, -1),
        lambda: ModelSpec(0.33, 2.1),
        lambda: ModelSpec(0.33, 0.25, "decoupled"),
    ],
)
def test_impossible_specs_are_refused(make):
    with pytest.raises(SpecError, match="is not possible: use"):
        make()
