"""What a cell ends with: stable, escaped, and written where a report's folder is set."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from yolop import claims, open_study, plots, show, tables
from yolop.report.scores import Estimate
from yolop.specs import SpecError

FRAME = pd.DataFrame(
    {
        "name": ["a|b", "c"],
        "mAP50": [0.12345, np.nan],
        "parameters": [1234567, 1],
        "gain_low": [0.5, -0.1],
        "front": [True, False],
    }
)


@pytest.fixture
def report(tmp_path):
    """An open study that writes into a folder."""
    yield open_study("digits", out=str(tmp_path)), tmp_path
    open_study("digits")  # writes nowhere


def test_markdown_is_stable_and_escapes():
    text = show.to_markdown(FRAME)
    cells = [[cell.strip() for cell in line.strip("|").split(" |")] for line in text.splitlines()]
    assert cells[2] == ["a\\|b", "0.123", "1,234,567", "+0.500", "yes"] and cells[3] == ["c", "", "1", "-0.100", ""]
    assert cells[0] == ["name", "mAP50", "parameters", "gain low", "front"] and "nan" not in text


def test_an_estimate_has_its_interval_and_heads_have_units():
    row = {"mAP50_gain": -0.0001, "gain_low": -0.2, "gain_high": 0.3, "latency_ms": 5.0}
    row |= {"kept_pct": 9.0, "kept_low_pct": 8, "kept_high_pct": 10}
    heads, _, cells = show.to_markdown(pd.DataFrame([row])).splitlines()
    assert [head.strip() for head in heads.strip("|").split("|")] == ["mAP50 gain", "latency (ms)", "kept (%)"]
    assert [cell.strip() for cell in cells.strip("|").split("|")] == ["0.000 (-0.200 to +0.300)", "5.00", "9.0 (8 to 10)"]


def test_a_baseline_is_one_and_marked_rows_are_bold_below_their_caption():
    rows = pd.DataFrame({"what": ["n", "p"], "ratio": [1.0, 0.9], "ratio_low": [1.0, 0.8], "ratio_high": [1.0, 0.95]})
    caption, lines = show.table(rows, caption="Time.", mark=rows["ratio"] < 1).data.split("\n\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()[2:]]
    assert caption == "*Time.*" and cells == [["n", "1.000"], ["**p**", "**0.900 (0.800 to 0.950)**"]]


def test_a_table_with_a_name_is_written_whole(report):
    _, folder = report
    shown = show.table(FRAME, ["name"], name="frame", head=1)
    assert "c" not in shown.data.splitlines()[-1]
    assert (folder / "tables/frame.csv").read_text().splitlines()[1] == "a|b,0.12345,1234567,0.5,True"
    show.table(FRAME)
    assert [path.name for path in (folder / "tables").iterdir()] == ["frame.csv"]


def test_figures_are_written_as_they_are_drawn(report):
    study, folder = report
    layers = study.layers()
    plots.architecture(tables.side_by_side(layers["n"], layers["p"]))
    assert "<svg" in (folder / "figures/architecture.svg").read_text()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["study"] == "digits" and any(run.startswith("census-own") for run in manifest["records"])


def test_verdicts_of_several_cells_come_together_in_the_order_of_the_paper(report):
    _, folder = report
    show.table(claims.judge(("p-best-beats-n", Estimate(3, 1, 5))))
    show.table(claims.judge(("p-faster-than-n", Estimate(0.9, 0.8, 0.95, "ratio"))))
    rows = json.loads((folder / "claims.json").read_text())
    assert [row["id"] for row in rows] == ["p-faster-than-n", "p-best-beats-n"]
    every = show.verdicts().set_index("id")
    assert len(every) == len(claims.load()) and every.loc["p-best-beats-n", "verdict"] == "holds"
    assert every.loc["by-type-beats-uniform", "verdict"] == "not run"


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_study("digits")
    show.table(FRAME, name="frame")
    assert list(tmp_path.iterdir()) == []


def test_settings_and_names_are_refused_with_what_to_use():
    wrong = [({"study": "nosuch"}, "one of digits"), ({"settings": "epoch=3"}, "use epochs"), ({"out": None}, "out")]
    wrong += [({"records": value}, '"committed" or "fresh"') for value in ("both", 1)] + [({"settings": 3}, "settings")]
    for arguments, words in wrong:
        with pytest.raises(SpecError, match=words):
            open_study(**arguments)
    with pytest.raises(SpecError, match='use "p-best"'):
        open_study("digits").model("p-bets")
    with pytest.raises(SpecError, match="p-best"):
        open_study("digits").model("n").pruned(())
    assert SpecError("x")._render_traceback_() == ["SpecError: x"]  # no traceback above it in a notebook
