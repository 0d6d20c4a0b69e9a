"""The graph of a study, its tables, claims and drift, on the smoke study computed once from nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from yolop import store
from yolop.paper import audit, claims
from yolop.report import plots, reporting, tables
from yolop.run import drift
from yolop.specs import MODELS, SpecError, named_study
from yolop.study import graph

HERE = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "ultralytics", "cv2")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A project folder in which `yolop run smoke` has run once, from outside, as a user would."""
    root = tmp_path_factory.mktemp("a project")
    shutil.copytree(HERE / "notebooks", root / "notebooks")
    run(root)
    return root


def run(root: Path, *arguments: str) -> str:
    environment = os.environ | {"YOLOP_ROOT": str(root)}
    command = [sys.executable, "-m", "yolop", *(arguments or ("run", "smoke"))]
    done = subprocess.run(command, env=environment, cwd=root.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def evidence(root):
    """The smoke study's evidence, fresh."""
    smoke = named_study("smoke")
    return graph.Evidence(smoke, True, store.Store("smoke", True, root))


def test_every_table_and_figure_of_the_paper_is_there(root):
    report = root / "reports" / "smoke"
    names = {path.stem for path in (report / "tables").glob("*.csv")}
    assert names == set(tables.TABLES) - {"parity"}  # which needs a data set that the original was run on
    assert {f"figure-{n}" for n in (2, 3, 4, 5)} <= names
    from yolop.report import plots

    drawn = {path.stem for path in (report / "figures").iterdir()}
    assert drawn == set(plots.FIGURES)
    assert len(list((report / "notebooks").glob("*.ipynb"))) == 6
    page = (report / "index.html").read_text()
    assert len(page) > 100_000 and str(root) not in page
    assert "http-equiv" not in page and "<script" not in page and 'src="http' not in page and "url(http" not in page


def test_a_trained_model_is_exported_with_its_description(root, tmp_path):
    for arguments, files in (
        (("--model", "p-best", "--format", "onnx"), {"model.onnx", "model.json"}),
        (("--sparsity", "0.9", "--format", "ncnn"), {"model.ncnn.param", "model.ncnn.bin", "model.json"}),
    ):
        out = tmp_path / arguments[-1]
        assert "model" in run(root, "export", "smoke", *arguments, "--out", str(out))
        assert {path.name for path in out.iterdir()} == files
        assert json.loads((out / "model.json").read_text())["names"] == ["zero", "two", "three"]


def test_nothing_is_trained_for_an_export(project, capsys):
    from yolop.__main__ import main

    assert main(["export", "smoke"]) == 1
    assert "not computed on this machine yet: python -m yolop run smoke" in capsys.readouterr().err
    assert main(["export", "smoke", "--model", "q"]) == 2 and "one of s, n, p" in capsys.readouterr().err
    assert main(["export", "smoke", "--sparsity", "0.3"]) == 2 and "0.9" in capsys.readouterr().err


def test_a_second_run_computes_nothing(root):
    runs = root / "data" / "runs" / "smoke"
    before = {
        path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file() and path.name != "timings.json"
    }
    tables = {path: path.read_bytes() for path in (root / "reports" / "smoke" / "tables").iterdir()}
    said = run(root)
    after = {
        path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file() and path.name != "timings.json"
    }
    assert after == before
    assert {path: path.read_bytes() for path in tables} == tables
    assert "epoch" not in said


def test_committed_records_give_the_same_tables_without_data_weights_or_torch(root, tmp_path):
    committed = tmp_path / "data" / "records" / "smoke"
    committed.mkdir(parents=True)
    for path in (root / "data" / "runs" / "smoke").glob("*/record.json"):
        record = store.Record.from_json(path.read_text())
        (committed / f"{record.run_id}.json").write_text(record.to_json())
    code = (
        "import sys, json; from yolop import reporting; from yolop.specs import named_study;"
        f"texts = reporting.texts(named_study('smoke')); heavy = [m for m in {HEAVY} if m in sys.modules];"
        "print(json.dumps([heavy, texts]))"
    )
    environment = os.environ | {"YOLOP_ROOT": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy, texts = json.loads(done.stdout)
    assert heavy == []
    for name, text in texts.items():
        assert (root / "reports" / "smoke" / name).read_text() == text, name


def test_ratios_and_sparsities_of_the_papers_rows(evidence):
    table = tables.figure_4(evidence)
    any_conv = table[table["reading"] == "any Conv"].reset_index()
    assert (table.groupby("conv")["sparsity"].nunique() >= 1).all()
    assert (any_conv["sparsity"] < any_conv["conv"]).all()  # what Detect and batch norm hold is out of reach
    assert (any_conv["sparsity"] > 0.95 * any_conv["conv"]).all()
    own = table[(table["reading"] == "own") & (table["conv"] == 0.3)].iloc[0]
    assert own["sparsity"] < any_conv["sparsity"].max()  # there SPPF is really cut at 0.1 only


def test_a_sweep_point_is_the_unpruned_model_at_ratio_0(evidence):
    dense = tables.point(evidence, "l1-unstructured")
    assert dense["mAP50"] == evidence.trained("p-best").metrics["test"]["mAP50"]


def test_the_control_of_figure_3_has_the_sparsity_of_the_ratios_by_type(evidence):
    by_type, uniform = (
        tables.point(evidence, "l1-unstructured", **dict(zip(("conv", "c3", "sppf"), row, strict=True)))
        for row in graph.PAPER_ROWS["figure-3"][::-1]
    )
    control = tables.control(evidence)
    assert control["conv"] == control["c3"] == control["sppf"] < uniform["conv"]
    assert control["sparsity"] == pytest.approx(by_type["sparsity"], abs=2e-5)


def test_means_and_intervals_over_seeds():
    rng = np.random.default_rng(0)
    found = [{"mAP50": m, "mAP50_95": m / 2, "mAP50_resampled": m + rng.normal(0, 0.01, 200)} for m in (0.8, 0.82, 0.9)]
    over = tables._over_seeds(found)
    assert over["mAP50"] == pytest.approx(0.84) and over["mAP50_95"] == pytest.approx(0.42)
    one = tables._over_seeds(found[:1])
    assert one["mAP50_high"] - one["mAP50_low"] < over["mAP50_high"] - over["mAP50_low"]  # luck of training is in it
    assert over["mAP50_low"] < 0.82 and over["mAP50_high"] > 0.86
    shifted = [f | {"mAP50_resampled": f["mAP50_resampled"] + 0.05} for f in found]
    paired = tables._over_seeds(shifted)["mAP50_resampled"] - over["mAP50_resampled"]
    assert paired == pytest.approx(0.05)  # the same seeds and images are drawn for every model


def test_channels_go_down_to_the_time_that_comes_nearest(evidence):
    rows = evidence.narrowing_times()
    assert [row["removed"] for row in rows] == [
        0,
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
        0.8,
        0,
    ]  # the last is the A/A control
    counts = [row["parameters"] for row in rows[:-1]]
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0] / 10
    (time, share), *rest = evidence.shares_for_times.items()
    distances = {row["removed"]: abs(row["ratio"] - time) for row in rows if row["removed"]}
    assert (time, rest) == (0.7, []) and share == min(distances, key=distances.get)
    assert evidence.removed == (share,)


def test_the_ledger_holds_every_claim_and_this_study(evidence):
    table = claims.ledger(evidence)
    assert (
        len(table) == len(audit.CLAIMS)
        and table["smoke"].isin(["holds", "does not hold", "undecided", "not run"]).all()
    )


def test_same_steps_are_the_same_steps(evidence):
    steps = {label: evidence.trained(label).metrics["steps"] for label in ("p-corpus", "p-best", "p-same-steps")}
    per_epoch = steps["p-best"] / evidence.study.epochs
    assert abs(steps["p-same-steps"] - steps["p-corpus"] - steps["p-best"]) <= per_epoch / 2


def test_every_claim_is_judged(evidence):
    assert set(claims.JUDGES) == {claim.id for claim in audit.CLAIMS}
    rows = claims.verdicts(evidence)
    assert {row["verdict"] for row in rows} <= {"holds", "does not hold", "undecided", "not run"}
    assert all(row["table"] in tables.TABLES for row in rows)
    assert not any("nan" in row["estimate"] for row in rows)


@pytest.mark.parametrize(
    ("low", "high", "lower", "upper", "verdict"),
    [
        (1, 2, 0, np.inf, "holds"),
        (-2, -1, 0, np.inf, "does not hold"),
        (-1, 1, 0, np.inf, "undecided"),
        (4.6, 7.4, 4.5, 7.5, "holds"),
        (8, 9, 4.5, 7.5, "does not hold"),
        (7, 9, 4.5, 7.5, "undecided"),
        (0, 0, 0, np.inf, "does not hold"),  # no difference is not a difference
    ],
)
def test_verdicts(low, high, lower, upper, verdict):
    assert claims.judge(low, high, lower, upper) == verdict


def test_drift_tells_noise_from_change(root, monkeypatch, tmp_path):
    shutil.copytree(root / "data" / "runs", tmp_path / "data" / "runs", ignore=shutil.ignore_patterns("dataset"))
    committed = tmp_path / "data" / "records" / "smoke"
    committed.mkdir(parents=True)
    changed = {"train-n-e2": 0.25, "train-s-": 1e-9}
    for path in (tmp_path / "data" / "runs" / "smoke").glob("*/record.json"):
        record = store.Record.from_json(path.read_text())
        if record.spec["kind"] == "train":
            record.metrics["test"]["mAP50"] += next(
                (d for run, d in changed.items() if record.run_id.startswith(run)), 0
            )
            noise = np.random.default_rng(0).normal(0.3, 0.02, 200)  # smoke's models find nothing, so nothing varies
            record.metrics["test"]["mAP50_resampled"] = noise.tolist()
        (committed / f"{record.run_id}.json").write_text(record.to_json())
    monkeypatch.setattr(drift, "Store", lambda name, compute: store.Store(name, compute, tmp_path))
    table = drift.drift(named_study("smoke"))
    out = table[table["state"] == "out"]
    assert [run[:10] for run in out["run"]] == ["train-n-e2"] and out.iloc[0]["out"] == 1
    assert out.iloc[0]["largest_difference"] == pytest.approx(0.3, abs=0.3)
    states = table.set_index("run")["state"]
    assert states[states.index.str.startswith("train-s-")].tolist() == ["within noise"]
    timed = states[states.index.str.startswith(drift.TIMED)]
    assert len(timed) == 9 and (timed == "equal").all()
    assert (states == "equal").sum() > 10 and "1 out" in drift.summary(table)


def test_unpublished_settings_say_what_to_do():
    evidence = graph.Evidence(named_study("digits", epochs=3), False)
    with pytest.raises(store.StoreError, match='records="fresh"'):
        evidence.data()


def test_bad_names_are_refused_before_any_work():
    with pytest.raises(SpecError, match="records"):
        graph.open_study("digits", records="both")
    with pytest.raises(SpecError, match="one of digits"):
        graph.open_study("nosuch")


def test_the_shapes_of_the_grid_include_n_and_p():
    assert MODELS["n"] in graph.GRID and MODELS["p"] in graph.GRID
    assert set(graph.NAMES) == set().union(*graph.TRAININGS.values())


def test_markdown_and_csv_are_stable_and_escape():
    table = pd.DataFrame(
        {"name": ["a|b", "c"], "mAP50": [0.12345, np.nan], "parameters": [1234567, 1], "gain_low": [0.5, -0.1]}
    )
    text = reporting.to_markdown(table)
    assert "a\\|b" in text and "| 0.123 | 1,234,567 | +0.500 |" in text and "nan" not in text
    assert reporting.to_csv(table) == "name,mAP50,parameters,gain_low\na|b,0.12345,1234567,0.5\nc,,1,-0.1\n"


def test_a_sentence_with_an_unknown_number_fails():
    with pytest.raises(KeyError, match="no number is called nosuch"):
        reporting.sentence(None, "{nosuch}")


def test_a_percentage_of_nothing_is_undecided(monkeypatch):
    found = {
        "p": {"mAP50": 0.1, "mAP50_resampled": np.array([0.1, 0.2])},
        "n": {"mAP50": 0.0, "mAP50_resampled": np.zeros(2)},
    }
    monkeypatch.setattr(claims, "scores", lambda e, label: found[label])
    estimate, verdict, _ = claims.JUDGES["p-loss-in-percent"](None)
    assert verdict == "undecided" and "not defined" in estimate


def test_what_is_trained_on_without_zeros_has_the_times_of_n_and_scores_of_its_own():
    table = tables.roads_table(graph.open_study("bccd")).set_index("what")
    times = ["latency_ms", "ratio_low", "ratio_high"]
    for runtime in graph.RUNTIME_NAMES.values():
        control, n = table.loc[f"n, trained on, {runtime}"], table.loc[f"n, {runtime}"]
        assert control["road"] == "trained on" and control["seeds"] == 3
        assert list(control[times]) == list(n[times])
        assert control["mAP50_95"] != n["mAP50_95"]
    assert table.index.is_unique and set(table["road"]) == set(plots.ROADS)


def test_a_share_of_nothing_is_no_number():
    """A control whose mAP is 0, as after a training that is too short."""
    scores = {"mAP50": 0.0, "mAP50_95": 0.0, "mAP50_resampled": [0.0, 0.0], "mAP50_95_resampled": [0.0, 0.0]}
    evidence = SimpleNamespace(
        study=SimpleNamespace(sparsities=(0.0, 0.9), seeds=(0,)),
        control_sparsity=lambda: 0.9,
        removed=(0.5,),
        shrunk=lambda *_: SimpleNamespace(metrics={"test": scores}),
    )
    table = tables.trained_zeros_table(evidence)
    assert len(table) == 5 and table[["kept_pct", "kept_low_pct", "kept_high_pct"]].isna().all(axis=None)
