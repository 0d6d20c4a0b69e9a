"""The smallest study from nothing, once, as a user would run it: everything is there, and nothing is done twice."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import HERE, project_in, run_yolop

from yolop import files
from yolop.__main__ import main
from yolop.paper import claims
from yolop.report import plots
from yolop.report.opened import OpenStudy
from yolop.run import drift
from yolop.settings import named_study
from yolop.store import Record, Store, committed_path
from yolop.study.plan import all_nodes, with_parents

TABLES = re.compile(r'(?:name=|keep\(.*, |show.*, )"([\w-]+)"(?:\)|, caption|, head)')  # what a cell writes
READ = """
import json, os, sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("torch", "ultralytics", "cv2", "sklearn", "skimage"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent)
for path in sys.argv[1:]:
    space = {}
    for cell in json.load(open(path))["cells"]:
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
        if "parameters" in tags:
            space |= {"study": "smoke", "out": os.environ["OUT"]}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A project folder in which `yolop run smoke` has run once."""
    root = project_in(tmp_path_factory.mktemp("a project"))
    run_yolop(root, "run", "smoke")
    return root


def test_every_table_and_figure_of_the_paper_is_there(root):
    report = root / "reports" / "smoke"
    cells = [
        "".join(cell["source"])
        for path in (root / "notebooks").glob("*.ipynb")
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    ]
    written = {name for cell in cells for line in cell.splitlines() for name in TABLES.findall(line)} | {"claims"}
    names = {path.stem for path in (report / "tables").glob("*.csv")}
    # what needs a data set that the original was run on, or a study that asks for it
    assert names == written - {"parity", "shapes", "longer", "retrained"}
    assert {f"figure-{n}" for n in (2, 3, 4, 5)} <= names and len(names) == 35
    figures = [name for name, one in inspect.getmembers(plots) if "Drawn" in str(getattr(one, "__signature__", ""))]
    drawn = {path.stem.replace("-", "_") for path in (report / "figures").iterdir()}
    assert drawn == set(figures) and len(drawn) == 19
    assert len(list((report / "notebooks").glob("*.ipynb"))) == 6
    page = (report / "index.html").read_text()
    assert len(page) > 100_000 and str(root) not in page
    assert "http-equiv" not in page and "<script" not in page and 'src="http' not in page and "url(http" not in page


def test_a_trained_model_is_exported_with_its_description(root, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", root)
    for arguments, made in (
        (("--model", "p-best", "--format", "onnx"), {"model.onnx", "model.json"}),
        (("--sparsity", "0.9", "--format", "ncnn"), {"model.ncnn.param", "model.ncnn.bin", "model.json"}),
        (("--channels-removed", "0.3", "--format", "openvino-bf16"), {"model.xml", "model.bin", "model.json"}),
    ):
        out = tmp_path / arguments[-1]
        assert main(["export", "smoke", *arguments, "--out", str(out)]) == 0
        assert {path.name for path in out.iterdir()} == made
        assert json.loads((out / "model.json").read_text())["names"] == ["zero", "two", "three"]


def test_the_notebooks_ask_for_what_was_planned_and_nothing_else(root):
    planned = all_nodes(OpenStudy(named_study("smoke"), Store("computed", Path(root))).graph)
    asked = json.loads((root / "reports" / "smoke" / "manifest.json").read_text())["records"]
    assert {node.id for node in planned} == set(asked)
    assert {path.parent.name for path in (root / "data" / "runs").glob("*/record.json")} == set(with_parents(planned))


def test_a_second_run_computes_nothing(root):
    runs = root / "data" / "runs"
    stamps = [{p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file() and p.suffix not in (".lock", ".csv")}]
    tables = {path: path.read_bytes() for path in (root / "reports" / "smoke" / "tables").iterdir()}
    said = run_yolop(root, "run", "smoke")
    stamps += [{p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file() and p.suffix not in (".lock", ".csv")}]
    assert stamps[0] == stamps[1]
    assert {path: path.read_bytes() for path in tables} == tables
    assert "epoch" not in said


def test_committed_records_give_the_same_report_without_data_weights_or_torch(root, tmp_path):
    for path in (root / "data" / "runs").glob("*/record.json"):
        record = Record.from_json(path.read_text())
        files.write_atomically(committed_path(tmp_path, record.run_id), record.to_json())
    environment = os.environ | {"YOLOP_ROOT": str(tmp_path), "OUT": str(tmp_path / "out"), "PYTHONPATH": str(HERE)}
    books = sorted((root / "notebooks").glob("*.ipynb"))
    done = subprocess.run([sys.executable, "-c", READ, *books], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = sorted(path for path in (tmp_path / "out").rglob("*.*") if path.suffix in (".csv", ".svg", ".jpg"))
    assert len(made) == 35 + 19
    for path in (*made, tmp_path / "out" / "claims.json"):
        name = path.relative_to(tmp_path / "out")
        assert (root / "reports" / "smoke" / name).read_bytes() == path.read_bytes(), name


def test_every_claim_is_judged(root):
    rows = json.loads((root / "reports" / "smoke" / "claims.json").read_text())
    words = {row["verdict"].split(":")[0] for row in rows}
    assert words <= {claims.HOLDS, claims.BUILT_IN, claims.FAILS, claims.OPEN, claims.NOT_RUN}
    assert all((root / "reports" / "smoke" / "tables" / f"{row['table']}.csv").exists() for row in rows)
    assert not any("nan" in row["estimate"] for row in rows) and len(rows) == 34


def test_drift_tells_noise_from_change(root, monkeypatch, tmp_path):
    shutil.copytree(root / "data" / "runs", tmp_path / "data" / "runs", ignore=shutil.ignore_patterns("dataset"))
    changed = {"train-n-e2": 0.25, "train-s-": 1e-9}
    for path in (tmp_path / "data" / "runs").glob("*/record.json"):
        record = Record.from_json(path.read_text())
        if record.spec["kind"] == "train":
            record.metrics["test"]["mAP50"] += next((d for run, d in changed.items() if record.run_id.startswith(run)), 0)
            noise = np.random.default_rng(0).normal(0.3, 0.02, 200)  # smoke's models find nothing, so nothing varies
            record.metrics["test"]["mAP50_resampled"] = noise.tolist()
        files.write_atomically(committed_path(tmp_path, record.run_id), record.to_json())
    monkeypatch.setattr(files, "ROOT", tmp_path)
    table = drift.drift(OpenStudy(named_study("smoke"), Store("committed")))
    out = table[table["state"] == "out"]
    assert [run[:10] for run in out["run"]] == ["train-n-e2"] and out.iloc[0]["out"] == 1
    assert out.iloc[0]["largest_difference"] == pytest.approx(0.25, abs=0.1)
    states = table.set_index("run")["state"]
    assert states[states.index.str.startswith("train-s-")].tolist() == ["within noise"]
    timed = states[states.index.str.startswith(tuple(drift.TIMED))]
    assert len(timed) == 9 and (timed == "equal").all()
    assert (states == "equal").sum() > 10 and "1 out" in drift.summary(table)


def test_channels_that_are_removed_leave_fewer_parameters(root):
    study = OpenStudy(named_study("smoke"), Store("computed", Path(root)))
    from yolop.study import beyond

    rows = study.record(beyond.channel_times(study.graph)).metrics["rows"]
    assert [row["removed"] for row in rows] == [0, 0.3, 0.8, 0]  # the last is the A/A control
    counts = [row["parameters"] for row in rows[:-1]]
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0] / 10
