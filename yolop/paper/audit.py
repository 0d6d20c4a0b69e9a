"""The figures of the paper as printed, and an audit of the paper's own arithmetic.

Park Jin Won, Young-Jin Kim (Ajou University): A Study on Deep Learning Performance Improvement Based on YOLOv5, 2022.
Its figures are facts to reproduce or to refute, never targets. Nothing here is ours: verdicts on its claims are in `claims`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from itertools import pairwise, permutations, zip_longest
from math import copysign

from yolop.shapes import parameters
from yolop.specs import MODELS, require

KINDS = ("contradiction", "another reading fits", "rounding or noise")  # of what does not add up


@cache
def figures() -> dict[int, dict]:
    """Figure -> its columns and rows, as in figures.toml, which also gives their units."""
    text = (files("yolop.paper") / "figures.toml").read_text(encoding="utf-8")
    return {int(n): figure for n, figure in tomllib.loads(text).items()}


def figure(n: int) -> list[dict]:
    """Rows of Figure `n` (2 to 5) as printed, one dict each, ready for `pandas.DataFrame`; None where nothing is printed.

    Columns: Figure 2 models, Figure 3 models with ratios, Figures 4 and 5 ratios and sparsity (units: figures.toml).
    A figure that is no table raises SpecError.
    """
    require(n in figures(), "figure", n, "2, 3, 4 or 5 (Figure 1 is a drawing: notebook 01 redraws it)")
    return [dict(zip_longest(figures()[n]["columns"], row)) for row in figures()[n]["rows"]]


def audit() -> list[dict]:
    """Does the paper agree with itself? Rows (what, printed, recomputed, verdict, kind, note), recomputed from the figures.

    The verdict is "adds up" or "does not add up": the printed digits against the recomputed value rounded to as many. The kind of
    what does not is one of KINDS, contradictions first: digits that were cut off, or that hidden digits of both values could
    give, are rounding; a percentage that fits in another reading, as points or as per cent of another figure, is that.
    """
    rows = [*_changes(), *_frame_rates(), *_sentences(), *_same_model()]
    rows += [*_milder_is_better(), *_sparsities(), *_share_of_sppf(), *_preferred_sparsities()]
    return sorted(rows, key=lambda row: (*KINDS, "").index(row["kind"]))


def _row(what: str, printed: str, recomputed: str, good: bool, note: str = "", kind: str = KINDS[0]) -> dict:
    verdict = "adds up" if good else "does not add up"
    row = {"what": what, "printed": printed, "recomputed": recomputed, "verdict": verdict}
    return row | {"kind": "" if good else kind, "note": note}


def _hidden(printed: float, low: float, high: float) -> str:
    """The kind of a printed number that should come from between `low` and `high`: is it one of these, rounded or cut off?"""
    ends = sorted((printed - copysign(0.5, printed), printed + copysign(1, printed)))
    return KINDS[2] if low < ends[1] and ends[0] <= high else KINDS[0]


def _rounds_to(value: float, printed: float, unit: float = 1.0) -> bool:
    return abs(value - printed) < unit / 2 - 1e-9  # a half is not enough; 1e-9 is float noise


def _change_pct(before: float, after: float) -> float:
    return 100 * (after / before - 1)


def _changes() -> list[dict]:
    """The percentages in brackets of Figure 2, each against the row above."""
    rows = []
    for before, after in pairwise(figure(2)):
        columns = ("latency_ms", "latency_change_pct", "ms", 0.05), ("fps", "fps_change_pct", "FPS", 0.5)
        for column, change, unit, half in columns:
            a, b, printed = before[column], after[column], after[change]
            value, low, high = _change_pct(a, b), _change_pct(a + half, b - half), _change_pct(a - half, b + half)
            good = _rounds_to(value, printed)
            what = f"Figure 2: {after['model']}, {a} to {b} {unit}"
            note = "" if good else f"{low:+.1f} to {high:+.1f} % within the rounding of both values"
            rows.append(_row(what, f"{printed:+d} %", f"{value:+.1f} %", good, note, _hidden(printed, low, high)))
    return rows


def _frame_rates() -> list[dict]:
    """FPS = 1000 / ms in Figures 2 and 3."""
    rows = []
    for n in (2, 3):
        for row in figure(n):
            ms, fps = row["latency_ms"], row["fps"]
            good = _rounds_to(1000 / ms, fps)
            low, high = 1000 / (ms + 0.05), 1000 / (ms - 0.05)
            note = "" if good else f"{low:.2f} to {high:.2f} FPS within the rounding of the latency"
            what = f"Figure {n}: {row['model']}, FPS at {ms} ms"
            rows.append(_row(what, f"{fps}", f"{1000 / ms:.1f}", good, note, _hidden(fps, low, high)))
    return rows


def _sentences() -> list[dict]:
    """The numbers of the text against the figures."""
    _, n, p, best = figure(2)
    dense, uniform, by_type = figure(3)
    less_time, more_fps = -_change_pct(n["latency_ms"], p["latency_ms"]), _change_pct(n["fps"], p["fps"])
    gain = 100 * (by_type["mAP50"] - uniform["mAP50"])
    saved_ms = p["latency_ms"] - best["latency_ms"]
    return [
        _row("text: p takes about 13 % less time than n", "13 %", f"{less_time:.1f} %", _rounds_to(less_time, 13)),
        _row('text, II.2: the speed of p "fell" by about 13 %', "-13 %", f"{more_fps:+.1f} % FPS", more_fps < 0,
             f"the time fell, by {less_time:.1f} %; so the speed rose"),
        *_both_readings("p loses about 3.4 % of mAP against n, Figure 2", 3.4, 0.1, n, p),
        *_both_readings("custom pretraining gives p about 6 % of mAP, Figure 2", 6, 1, p, best),
        *_both_readings("custom pretraining gives p about 6 % of mAP, p (best.pt) from Figure 3", 6, 1, p, dense),
        _row("text: custom pretraining does not change the time", "0 ms", f"{-saved_ms:+.1f} ms", saved_ms == 0,
             "the same network twice: so much is noise of the timing", KINDS[2]),
        _row("text: p (best.pt) is more accurate than n", "more", f"{best['mAP50'] - n['mAP50']:+.3f}",
             min(best["mAP50"], dense["mAP50"]) > n["mAP50"], f"{dense['mAP50'] - n['mAP50']:+.3f} by Figure 3"),
        _row("text: ratios by type of module give about 3 %p more", "3 points", f"{gain:.1f} points", _rounds_to(gain, 3),
             f"{uniform['mAP50']} to {by_type['mAP50']} in Figure 3"),
    ]  # fmt: skip


def _both_readings(what: str, printed: float, unit: float, before: dict, after: dict) -> list[dict]:
    """A change of mAP50 printed with a "%": as percentage points, and as per cent of the value before."""
    a, b = before["mAP50"], after["mAP50"]
    points, percent = 100 * abs(b - a), abs(_change_pct(a, b))
    readings = ("points", points, f"{points:.1f} points"), ("per cent", percent, f"{percent:.2f} %")
    return [
        _row(f"text: {what}; read as {name}", f"{printed} %", text, _rounds_to(value, printed, unit), f"{a} to {b}", KINDS[1])
        for name, value, text in readings
    ]


def _same_model() -> list[dict]:
    """p (best.pt) stands in Figures 2 and 3, and should be the same."""
    first, second = figure(2)[-1], figure(3)[0]
    rows = []
    for metric, name in {"mAP50": "mAP50", "mAP50_95": "mAP50-95", "latency_ms": "latency", "fps": "FPS"}.items():
        a, b = first[metric], second[metric]
        note, unit = "" if a == b else "one model, two values", " ms" * (metric == "latency_ms")
        rows.append(_row(f"Figures 2 and 3: {name} of p (best.pt)", f"{a} and {b}{unit}", f"{b - a:+.3g}{unit}", a == b, note))
    return rows


def _milder_is_better() -> list[dict]:
    """Pairs in which the pruning that cuts no module harder is the less accurate; only contradictions are listed.

    Figure 3 does not say whether it is structured. We compare it with Figure 4 as unstructured, the kinder case.
    """
    unpruned = {"conv": 0.0, "c3": 0.0, "sppf": 0.0}
    models = [("Figure 2", figure(2)[-1] | unpruned), *((f"Figure {n}", row) for n in (3, 4) for row in figure(n))]
    rows = []
    for (where, mild), (where_harsh, harsh) in permutations(models, 2):
        milder, harsher = _ratios(mild), _ratios(harsh)
        if milder == harsher or any(a > b for a, b in zip(milder, harsher, strict=True)):
            continue
        for metric in ("mAP50", "mAP50_95"):
            a, b = mild[metric], harsh[metric]
            if b > a:
                what = f"{metric}: {where} {milder} is milder than {where_harsh} {harsher}"
                rows.append(_row(what, f"{a} and {b}", f"{b - a:+.3f}", False, "the harsher pruning is more accurate"))
    return rows


def _ratios(row: dict) -> tuple[float, float, float]:
    return row["conv"], row["c3"], row["sppf"]


def _sparsities() -> list[dict]:
    """What the ratios can give: sparsity is their mean, weighted by parameters, so never above the largest."""
    rows = []
    for n in (4, 5):
        for row in figure(n):
            sparsity, most = row["sparsity"], max(_ratios(row))
            note = "" if sparsity <= most else "whole channels round up, but C3 and SPPF should still pull it down"
            if sparsity > 2 * most:
                note = f"{sparsity / most:.1f} times its ratio: {sparsity / 10:.5f} must be meant"
            what = f"Figure {n}: sparsity at {_ratios(row)}"
            rows.append(_row(what, f"{sparsity}", f"at most {most}", sparsity <= most, note))
    return rows


def _share_of_sppf() -> list[dict]:
    """What SPPF, at its own lower ratio, may hold of the parameters at most if Figure 4's sparsities are right."""
    rows, counts = [], parameters(MODELS["n"], nc=1)
    held = counts[9] / sum(counts)  # by SPPF, layer 9 of n
    *harsher, lightest = figure(4)
    reach = (lightest["sparsity"] + 0.00005) / lightest["conv"]  # its one ratio shows what share pruning can reach
    for row in harsher:
        most = (row["conv"] * reach - row["sparsity"] + 0.0005) / (row["conv"] - row["sppf"])
        what = f"Figure 4: SPPF pruned at {row['sppf']} beside {row['conv']}"
        computed = f"if SPPF holds at most {100 * most:.1f} % of the parameters"
        note = f"it holds {100 * held:.1f} % of YOLOv5n: it must have been cut like Conv"
        rows.append(_row(what, f"{row['sparsity']}", computed, most >= held, note))
    return rows


def _preferred_sparsities() -> list[dict]:
    """The sparsities that the text prefers, against the figure that prints them."""
    highest, lightest, figure_5 = 0.0994, figure(4)[-1]["sparsity"], [row["sparsity"] for row in figure(5)]
    what = f"text: unstructured pruning is most accurate at a sparsity of {highest}"
    note = f"Figure {5 if highest in figure_5 else 4} prints {highest}, and is structured"
    rows = [_row(what, f"{highest}", f"{lightest}", highest == lightest, note)]
    for preferred in figure_5[:2]:
        what = f"text: {preferred} is preferable, because {highest} removes few parameters"
        computed = f"{preferred / highest:.2f} of what {highest} removes"
        note = f"a sparsity of Figure 5, so structured; sensible if {highest} means {highest / 10:.5f}"
        rows.append(_row(what, f"{preferred}", computed, preferred > highest, note))
    return rows
