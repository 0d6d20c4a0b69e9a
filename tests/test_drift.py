"""A fresh run is compared with the evidence number by number: what must not differ, what may, and by how much."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from yolop import files, store
from yolop.files import write_atomically
from yolop.run import drift, status
from yolop.study.plan import by_notebook

ROOT = files.ROOT


def test_places_hold_every_value_once():
    metrics = {"a": {"b": [1, 2.5, {"c": None}]}, "d": [], "e": "x", "f": [[1], [2, {"g": True}]]}
    expected = {"a/b/0": 1, "a/b/1": 2.5, "a/b/2/c": None, "e": "x", "f/0/0": 1, "f/1/0": 2, "f/1/1/g": True}
    assert drift.places(metrics).to_dict() == expected


@pytest.fixture
def compared(project):
    """`compared(run id, change)`: the row of a record whose fresh metrics are the committed ones after a change."""
    shutil.copytree(ROOT / "data" / "records", project / "data" / "records")
    study = status.opened("digits", [])
    nodes = [node for nodes in by_notebook(status.graph_of(study)).values() for node in nodes]

    def row(kind: str, change) -> pd.Series:
        run_id = next(node.id for node in nodes if node.spec.kind == kind)
        record = store.read_committed(project, run_id)
        metrics = copy.deepcopy(record.metrics)
        change(metrics)
        folder = store.run_folder(project, run_id)
        write_atomically(folder / "record.json", replace(record, metrics=metrics, files={}).to_json())
        table = drift.drift(study).set_index("run")
        shutil.rmtree(folder)
        assert set(table["state"]) - {table.loc[run_id, "state"]} == {"not computed"} and len(table) == len(nodes)
        assert f", {len(nodes) - 1} not computed; of {table.loc[run_id, 'numbers']:,} numbers" in drift.summary(table)
        return table.loc[run_id]

    return row


def test_what_chance_allows_is_no_drift(compared):
    assert compared("train", lambda metrics: None)["state"] == "equal"

    def score(by, name="mAP50"):
        return lambda metrics: metrics["test"].update({name: metrics["test"][name] + by})

    near, far = compared("train", score(0.001)), compared("train", score(0.5))
    assert (near["state"], near["different"], near["out"]) == ("within noise", 1, 0)
    assert near["largest_difference"] == pytest.approx(0.001)
    assert (far["state"], far["out"]) == ("out", 1)
    assert compared("train", lambda metrics: metrics["curve"][0].update(box=9.0))["state"] == "within noise"  # follows from weights
    assert compared("train", lambda metrics: metrics.update(new=1))["state"] == "out"
    assert compared("train", lambda metrics: metrics["test"].pop("mAP50"))["largest_difference"] == np.inf


def test_what_is_arithmetic_must_be_equal(compared):
    assert compared("sweep", lambda metrics: metrics["rows"][3].update(sparsity=0.1234))["out"] == 1
    assert compared("sweep", lambda metrics: metrics["rows"][3].update(method="other"))["out"] == 1
    assert compared("data", lambda metrics: metrics["splits"]["train"].update(images=1))["state"] == "out"


def test_times_are_compared_by_the_intervals_of_their_ratios(compared):
    def shift(by):
        def change(metrics):
            row = metrics["forward"][1]
            row["latency_ms"] *= 7  # the machine's own
            width = row["ratio_high"] - row["ratio_low"]
            row.update({name: row[name] + by * width for name in ("ratio", "ratio_low", "ratio_high")})

        return change

    rows = [compared("latency", shift(by)) for by in (0, 0.5, 1.5)]
    assert [row["state"] for row in rows] == ["equal", "within noise", "out"]
    assert [row["out"] for row in rows] == [0, 0, 1]


def test_nothing_to_compare_with(project):
    assert drift.summary(drift.drift(status.opened("digits", []))) == "no committed evidence to compare with"
