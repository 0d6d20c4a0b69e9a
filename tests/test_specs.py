"""Equal specs have equal ids on every machine, every field counts, and no impossible study comes to be."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolop import specs
from yolop.specs import (
    MODELS,
    CensusSpec,
    DigitsSpec,
    FolderSpec,
    LatencySpec,
    ModelSpec,
    PruneSpec,
    SensitivitySpec,
    SpecError,
    SweepSpec,
    TrainSpec,
    Variant,
    identity,
    points,
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
    LatencySpec("models", (Variant(N), Variant(N, "train-n", POINTS[1])), nc=5, imgsz=160),
    CensusSpec("models", (("n", N),), nc=5, imgsz=160),
]


def test_run_ids_are_golden():
    """If one of these moves, every record computed so far becomes unreachable: change it only with intent."""
    assert [run_id(spec) for spec in SPECS] == [
        "data-digits-5c37ad2f",
        "data-bccd-dcfe1071",
        "train-n-e30-s0-c09b406e",
        "sweep-unstructured-16aa5041",
        "sensitivity-l1-unstructured-0.5-189269c6",
        "latency-models-160px-3ba5453b",
        "census-models-160px-0ca5e40b",
    ]


def test_defaults_are_golden():
    assert identity(TRAIN) == {
        "model": {"depth": 0.33, "width": 0.25, "head": "anchor"}, "label": "n",
        "data": "0000000000000000000000000000000000000000000000000000000000000000", "nc": 5, "imgsz": 160,
        "epochs": 30, "batch": 16, "seed": 0, "init": "random", "optimizer": "AdamW", "lr0": 0.002, "lrf": 0.01,
        "momentum": 0.9, "weight_decay": 0.0005, "warmup_epochs": 1.0, "cos_lr": True, "mosaic": 0.0,
        "hsv": [0.0, 0.2, 0.2], "translate": 0.1, "scale": 0.2, "fliplr": 0.0, "box": 0.05, "obj": 1.0, "cls": 0.5,
        "val_every": 5, "precision": "bfloat16", "nominal_batch": 0, "warmup_bias_lr": 0.0,
    }  # fmt: skip
    assert asdict(PruneSpec()) == {
        "method": "l1-unstructured", "conv": 0.0, "c3": 0.0, "sppf": 0.0, "reading": "own", "detect": 0.0, "seed": 0,
    }  # fmt: skip
    assert asdict(DigitsSpec()) == {
        "classes": (0, 2, 3), "train": 640, "val": 160, "test": 240, "imgsz": 128, "size_px": (24, 56),
        "contrast": (0.6, 1.0), "turn_deg": 20.0, "per_image": (1, 5), "part": "digits", "seed": 0, "material": 2,
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
def test_every_field_is_part_of_the_identity_but_those_marked_as_outside(spec):
    outside = {item.name for item in fields(spec) if not item.metadata.get("identity", True)}
    assert outside == {"FolderSpec": {"path"}, "TrainSpec": {"device"}}.get(type(spec).__name__, set())
    inside = [item.name for item in fields(spec) if item.name not in outside]
    ids = {run_id(replace(spec, **{name: other(getattr(spec, name))})) for name in inside}
    assert len(ids | {run_id(spec)}) == len(inside) + 1
    assert {run_id(replace(spec, **{name: "elsewhere"})) for name in outside} <= {run_id(spec)}
    assert run_id(replace(spec)) == run_id(spec)


def test_schema_is_part_of_the_identity(monkeypatch):
    before = run_id(TRAIN)
    monkeypatch.setattr(specs, "SCHEMA", specs.SCHEMA + 1)
    assert run_id(TRAIN) != before


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


def test_points_of_a_sweep_cover_methods_ratios_and_the_seeds_of_random_ones():
    found = points(("l1-unstructured", "random-structured"), (0.1, 0.2), "C3")
    assert len(found) == 2 + 3 * 2 and {p.seed for p in found[2:]} == {0, 1, 2}
    assert all((p.conv, p.sppf, p.detect) == (0, 0, 0) and p.c3 in (0.1, 0.2) for p in found)
    with pytest.raises(SpecError, match="modules = 'c3'"):
        points("l1-global", (0.1,), "c3")
