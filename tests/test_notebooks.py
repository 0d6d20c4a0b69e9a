"""What a reader may expect of every committed notebook. Whether its cells still give what they show is nbval's part."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import papermill
import pytest

from yolop.settings import DEFAULT

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
NAMES = ["architecture", "model_scaling", "custom_pretraining", "pruning_sweeps", "zeros_into_speed", "results"]

each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells(path: Path, kind: str = "") -> list[dict]:
    """Cells of a notebook, of one kind if one is given, with their source as one text."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found if kind in ("", cell["cell_type"])]


def outputs(path: Path) -> list[dict]:
    """All outputs of a notebook, in order."""
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def test_numbered_without_gaps():
    assert [path.stem for path in PATHS] == [f"{number:02}_{name}" for number, name in enumerate(NAMES, start=1)]


@each
def test_declares_four_parameters_each_described_for_papermill(path):
    declared = papermill.inspect_notebook(str(path))
    defaults = {name: ast.literal_eval(found["default"]) for name, found in declared.items()}
    assert defaults == {"study": DEFAULT, "settings": "", "records": "committed", "out": ""}
    assert all(found["inferred_type_name"] == "str" and len(found["help"]) > 20 for found in declared.values())


@each
def test_has_sections_and_shows_its_steps(path):
    heads = [line for cell in cells(path, "markdown") for line in cell["source"].splitlines() if line.startswith("## ")]
    assert len(heads) >= 3 and heads[-1] == "## Limits"
    code = "\n".join(cell["source"] for cell in cells(path, "code"))
    assert "open_study(study, settings, records, out)" in code and "claims." in code


@each
def test_is_executed_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output.get("name", output["output_type"]) for output in outputs(path)}
    assert kinds and not kinds & {"error", "stderr"}


@each
def test_shows_something_that_nbval_compares(path):
    tagged = [cell for cell in cells(path, "code") if "nbval-check-output" in cell["metadata"].get("tags", [])]
    assert tagged and all(cell["outputs"] for cell in tagged)
    assert not [cell for cell in cells(path, "code") if "nbval-skip" in cell["metadata"].get("tags", [])]


@each
def test_is_free_of_traces(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert "papermill" not in book["metadata"] and set(book["metadata"]) <= {"kernelspec", "language_info"}
    for cell in book["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)  # its letters mean nothing
    assert re.findall(r"/(?:home|root|tmp|work|Users)/\S*", json.dumps(book)) == []
    assert path.stat().st_size <= 1_000_000


@each
def test_is_short_and_argues(path):
    assert len(cells(path)) <= 25
    for cell in cells(path, "code"):
        assert len(cell["source"].strip().splitlines()) <= 12 or "parameters" in cell["metadata"].get("tags", [])
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node for node in ast.walk(ast.parse(cell["source"])) if isinstance(node, kinds)]


@each
def test_opens_with_its_title_and_closes_with_limits(path):
    first, last = cells(path)[0], cells(path, "markdown")[-1]
    assert first["cell_type"] == "markdown" and first["source"].startswith(f"# {path.stem[:2]} ")
    assert re.match(r"#+ Limits\b", last["source"]) and cells(path)[-1] == last
