"""The figures as data: held against the page that prints it, and its audit against the list of what does not add up."""

import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest

from yolop.paper import audit as paper
from yolop.paper.audit import audit, figure
from yolop.specs import PruneSpec, SpecError

PAGE = Path(__file__).resolve().parents[2] / "shared" / "paper" / "README.md"
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def page() -> str:
    if not PAGE.exists():
        pytest.skip("the page that prints the paper's tables is not beside this checkout")
    return PAGE.read_text(encoding="utf-8")


def printed(page: str, n: int) -> list[list[str]]:
    """Cells of the Markdown table under "Figure n", without its heading."""
    part = page.split(f"\nFigure {n} - ")[1].split("\nFigure ")[0].split("\n## ")[0]
    lines = [line.strip().strip("|") for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def numbers(text: str) -> list[float]:
    return [float(digits) for digits in NUMBER.findall(text)]


def test_models_are_as_printed(page):
    for n in (2, 3):
        rows = figure(n)
        assert len(rows) == len(printed(page, n))
        for row, (model, *cells) in zip(rows, printed(page, n), strict=True):
            assert row["model"] == model
            assert [row[k] for k in ("mAP50", "mAP50_95", "latency_ms", "fps")] == [numbers(c)[0] for c in cells]
            changes = [row.get("latency_change_pct"), row.get("fps_change_pct")]
            shown = [numbers(cell)[1:] for cell in cells[2:]]
            assert [[abs(c)] if c is not None else [] for c in changes] == shown
            assert all(c is None or (c < 0) == ("less" in cell) for c, cell in zip(changes, cells[2:], strict=True))


@pytest.mark.parametrize("n", (4, 5))
def test_prunings_are_as_printed(page, n):
    assert [list(row.values()) for row in figure(n)] == [[float(cell) for cell in row] for row in printed(page, n)]


def test_ratios_of_figure_3_are_those_in_the_names():
    dense, uniform, by_type = figure(3)
    ratios = [[row[k] for k in ("conv", "c3", "sppf")] for row in (dense, uniform, by_type)]
    assert ratios == [[0, 0, 0], numbers(uniform["model"])[1:] * 3, numbers(by_type["model"])[1:]]


@pytest.mark.parametrize("n", (2, 3, 4, 5))
def test_rows_are_of_one_kind_and_possible(n):
    for row in figure(n):
        assert list(row) == paper.figures()[n]["columns"]
        assert 0 < row["mAP50_95"] < row["mAP50"] < 1
        if "conv" in row:
            PruneSpec(conv=row["conv"], c3=row["c3"], sppf=row["sppf"])
        if "latency_ms" in row:
            assert row["latency_ms"] > 0 and isinstance(row["fps"], int)


def test_figure_gives_rows_of_its_own():
    figure(2)[0]["mAP50"] = 0
    assert figure(2)[0]["mAP50"] == 0.985


@pytest.mark.parametrize("n", (0, 1, 6, "2"))
def test_another_figure_is_refused(n):
    with pytest.raises(SpecError, match="2, 3, 4 or 5"):
        figure(n)


def contradictions() -> str:
    return "\n".join(" | ".join(row.values()) for row in audit() if row["verdict"] == "does not add up")


@pytest.mark.parametrize("item", range(6))
def test_audit_finds_every_item_of_the_page(page, item):
    """Every number with which an item of the list argues stands in some row that does not add up."""
    items = page.split("## What does not add up")[1].split("\n- ")[1:]
    assert len(items) == 6
    text = re.sub(r"Figures? \d\b(?!\.)", "", items[item].split("\n\n")[0])
    found = set(numbers(contradictions()))
    assert numbers(text) and set(numbers(text)) <= found


FOUND = (  # what, printed, recomputed
    ("YOLOv5n, 25.3 to 19.5 ms", "-22 %", "-22.9 %"),
    ("YOLOv5n, 39 to 51 FPS", "+29 %", "+30.8 %"),
    ('the speed of p "fell"', "-13 %", "+15.7 % FPS"),
    ("Figures 2 and 3: mAP50 of", "0.977 and 0.967", "-0.01"),
    ("Figures 2 and 3: mAP50-95 of", "0.742 and 0.732", "-0.01"),
    ("mAP50: Figure 3 (0.0, 0.0, 0.0) is milder than Figure 4 (0.1, 0.1, 0.1)", "0.967 and 0.971", "+0.004"),
    ("mAP50_95: Figure 3 (0.0, 0.0, 0.0) is milder than Figure 4 (0.1, 0.1, 0.1)", "0.732 and 0.748", "+0.016"),
    ("mAP50_95: Figure 2 (0.0, 0.0, 0.0) is milder than Figure 4 (0.1, 0.1, 0.1)", "0.742 and 0.748", "+0.006"),
    ("mAP50: Figure 3 (0.3, 0.1, 0.1) is milder than Figure 4 (0.3, 0.3, 0.1)", "0.926 and 0.945", "+0.019"),
    ("Figure 5: sparsity at (0.01, 0.01, 0.01)", "0.0994", "at most 0.01"),
    ("0.0209 is preferable", "0.0209", "0.21 of what 0.0994 removes"),
    ("0.0309 is preferable", "0.0309", "0.31 of what 0.0994 removes"),
    ("SPPF pruned at 0.1 beside 0.3", "0.298", "if SPPF holds at most 0.6 % of the parameters"),
)


@pytest.mark.parametrize("what, shown, recomputed", FOUND)
def test_contradiction(what, shown, recomputed):
    (row,) = [row for row in audit() if what in row["what"]]
    assert (row["printed"], row["recomputed"], row["verdict"]) == (shown, recomputed, "does not add up")


@pytest.mark.parametrize(
    "what, points, per_cent, fits",
    (
        ("p loses about 3.4 % of mAP against n, Figure 2", "3.2 points", "3.39 %", "per cent"),
        ("custom pretraining gives p about 6 % of mAP, Figure 2", "6.5 points", "7.13 %", None),
        ("custom pretraining gives p about 6 % of mAP, p (best.pt) from Figure 3", "5.5 points", "6.03 %", "per cent"),
    ),
)
def test_reading_of_a_percentage(what, points, per_cent, fits):
    rows = {row["what"].rsplit("read as ")[1]: row for row in audit() if f": {what}; read as" in row["what"]}
    assert [rows[k]["recomputed"] for k in ("points", "per cent")] == [points, per_cent]
    assert [k for k, row in rows.items() if row["verdict"] == "adds up"] == ([fits] if fits else [])


def test_what_agrees_is_not_accused():
    rows = {row["what"]: row for row in audit()}
    gain = rows["text: ratios by type of module give about 3 %p more"]
    assert (gain["recomputed"], gain["verdict"]) == ("3.0 points", "adds up")
    assert rows["text: p takes about 13 % less time than n"]["verdict"] == "adds up"
    assert rows["text: p (best.pt) is more accurate than n"]["verdict"] == "adds up"
    assert all(row["verdict"] == "adds up" for what, row in rows.items() if what.startswith("Figure 4: sparsity at"))
    sppf = rows["Figure 4: SPPF pruned at 0.1 beside 0.3"]["note"]
    assert sppf.startswith(f"it holds {100 * 164_608 / 1_765_270:.1f} % of YOLOv5n"), "the original's counts at one class"


def test_audit_recomputes_from_the_figures(monkeypatch):
    """With a paper that agrees with itself the accusations of the same rows go."""
    mended = deepcopy(paper.figures())
    mended[3]["rows"][0][-4:-2] = mended[2]["rows"][-1][1:3]
    mended[5]["rows"][-1][-1] = 0.00994
    monkeypatch.setattr(paper, "figures", lambda: mended)
    verdicts = {row["what"]: row["verdict"] for row in audit()}
    assert verdicts["Figures 2 and 3: mAP50 of p (best.pt)"] == "adds up"
    assert verdicts["Figure 5: sparsity at (0.01, 0.01, 0.01)"] == "adds up"
    assert "mAP50: Figure 3 (0.0, 0.0, 0.0) is milder than Figure 4 (0.1, 0.1, 0.1)" not in verdicts


def test_audit_rows_are_text_and_distinct():
    rows = audit()
    assert len({row["what"] for row in rows}) == len(rows)
    assert {row["verdict"] for row in rows} == {"adds up", "does not add up"}
    assert all(set(row) == {"what", "printed", "recomputed", "verdict", "kind", "note"} for row in rows)
    assert all(isinstance(value, str) for row in rows for value in row.values())


def test_contradictions_come_first_and_rounding_is_counted_apart():
    rows = audit()
    kinds = [row["kind"] for row in rows]
    assert kinds == sorted(kinds, key=(*paper.KINDS, "").index)
    assert all((row["kind"] == "") == (row["verdict"] == "adds up") for row in rows)
    kind = {row["what"]: row["kind"] for row in rows}
    assert kind["Figure 2: YOLOv5n, 25.3 to 19.5 ms"] == kind["Figure 2: YOLOv5s, FPS at 25.3 ms"] == paper.KINDS[2]
    assert kind["Figures 2 and 3: mAP50 of p (best.pt)"] == kind["Figure 5: sparsity at (0.01, 0.01, 0.01)"] == paper.KINDS[0]
    assert paper._hidden(-22, -23.3, -22.6) == paper._hidden(39, 39.45, 39.6) == paper._hidden(40, 39.5, 39.6) == paper.KINDS[2]
    assert paper._hidden(-24, -23.3, -22.6) == paper._hidden(38, 39.45, 39.6) == paper._hidden(41, 39.45, 39.9) == paper.KINDS[0]


def test_reading_the_paper_needs_no_heavy_library():
    code = "import sys, yolop.paper.audit as p; p.audit(); print(*{'torch', 'pandas', 'yolop.store'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
