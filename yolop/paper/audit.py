"""The paper as data: Figures 2-5 as printed, its claims in words, and an audit of its own arithmetic.

Park Jin Won, Young-Jin Kim (Ajou University): A Study on Deep Learning Performance Improvement Based on YOLOv5, 2022.
Its figures are facts to reproduce or to refute, never targets. Nothing here is ours: verdicts are in `reporting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, permutations

from yolop.specs import require

# Figure -> (columns, rows). mAP 0..1, latency in ms per image, ratios and sparsity 0..1, changes in % of the row above.
# Figure 3 prints its ratios inside the model's name. Figure 4 and 5 print no heading over Conv and C3.
FIGURES = {
    2: (
        ("model", "mAP50", "mAP50_95", "latency_ms", "fps", "latency_change_pct", "fps_change_pct"),
        (
            ("YOLOv5s", 0.985, 0.796, 25.3, 39, None, None),
            ("YOLOv5n", 0.944, 0.691, 19.5, 51, -22, 29),
            ("YOLOv5p", 0.912, 0.652, 16.9, 59, -13, 15),
            ("YOLOv5p (best.pt)", 0.977, 0.742, 16.7, 60, -1, 1),
        ),
    ),
    3: (
        ("model", "conv", "c3", "sppf", "mAP50", "mAP50_95", "latency_ms", "fps"),
        (
            ("YOLOv5p (best.pt)", 0.0, 0.0, 0.0, 0.967, 0.732, 16.7, 60),
            ("L1 norm prune, 0.3", 0.3, 0.3, 0.3, 0.896, 0.587, 16.7, 60),
            ("L1 norm prune, 0.3, 0.1, 0.1", 0.3, 0.1, 0.1, 0.926, 0.614, 16.7, 60),
        ),
    ),
    4: (
        ("conv", "c3", "sppf", "mAP50", "mAP50_95", "sparsity"),
        (
            (0.3, 0.3, 0.1, 0.945, 0.659, 0.298),
            (0.2, 0.2, 0.1, 0.969, 0.732, 0.199),
            (0.1, 0.1, 0.1, 0.971, 0.748, 0.0995),
        ),
    ),
    5: (
        ("conv", "c3", "sppf", "mAP50", "mAP50_95", "sparsity"),
        (
            (0.03, 0.01, 0.01, 0.829, 0.512, 0.0309),
            (0.02, 0.01, 0.01, 0.863, 0.586, 0.0209),
            (0.01, 0.01, 0.01, 0.966, 0.732, 0.0994),
        ),
    ),
}

SPPF_SHARE_OF_N = 164_608 / 1_765_270  # parameters of YOLOv5n at one class, counted from its shapes (notebook 01)


def figure(n: int) -> list[dict]:
    """Rows of Figure `n` (2 to 5) as printed, one dict each, ready for `pandas.DataFrame`.

    Columns: Figure 2 models, Figure 3 models with ratios, Figures 4 and 5 ratios and sparsity (see FIGURES for units).
    A figure that is no table raises SpecError.
    """
    require(n in FIGURES, "figure", n, "2, 3, 4 or 5 (Figure 1 is a drawing: notebook 01 redraws it)")
    columns, rows = FIGURES[n]
    return [dict(zip(columns, row, strict=True)) for row in rows]


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper that can be checked: what it says, what we estimate, and when it holds."""

    id: str
    where: str
    text: str
    estimator: str
    threshold: str


# "About a" means 0.75 a to 1.25 a. Where an estimate has an interval, all of it meets a threshold, all of it misses, or
# the claim is undecided. "Points" are percentage points of mAP (0.944 to 0.912 is 3.2 points).
CLAIMS = (
    # Structure
    Claim(
        "layers-as-in-figure-1",
        "II.1, Figure 1",
        "The backbone is layers 0-9, the head layers 10-23, made of Conv, C3, SPPF, Upsample and Concat.",
        "kinds of the layers of n, in order",
        "SPPF ends the backbone as layer 9; Detect follows layer 23",
    ),
    Claim(
        "conv-faster-than-focus",
        "II.1",
        "Since v6.0 a Conv replaces Focus, because it is faster on GPUs.",
        "ratio of the latencies of a 6x6 stride-2 Conv and the Focus that computes the same map, on a GPU",
        "ratio below 1; on a CPU the claim is not tested",
    ),
    Claim(
        "n-faster-than-s",
        "II.1, Figure 2",
        "n is the fastest of the sizes, so faster than s.",
        "paired ratio of inference times, n to s",
        "ratio below 1",
    ),
    Claim(
        "n-less-accurate-than-s",
        "II.1, Figure 2",
        "n is the least accurate of the sizes, so less accurate than s.",
        "difference of mAP50 on the same images, n minus s",
        "difference below 0",
    ),
    # The smaller model
    Claim(
        "p-smaller-than-n",
        "Abstract, II.2",
        "p has fewer layers and fewer convolution filters than n.",
        "numbers of convolutions and of their output channels, counted in both models",
        "both below those of n",
    ),
    Claim(
        "p-faster-than-n",
        "Abstract, II.2, III, Figure 2",
        "p is faster than n.",
        "paired ratio of inference times, p to n",
        "ratio below 1",
    ),
    Claim(
        "p-13-percent-faster",
        "Abstract, II.2, III, Figure 2",
        "The inference time of p is about 13 % below that of n.",
        "1 minus the paired ratio of inference times, p to n, in %",
        "about 13 %: 9.75 to 16.25 %",
    ),
    Claim(
        "p-less-accurate-than-n",
        "Abstract, II.2, Figure 2",
        "p is less accurate than n.",
        "difference of mAP50 on the same images, p minus n",
        "difference below 0",
    ),
    Claim(
        "p-loss-in-points",
        "Abstract, II.2",
        "p loses about 3.4 of mAP against n, read as percentage points.",
        "mAP50 of n minus mAP50 of p, in points",
        "about 3.4 points: 2.55 to 4.25",
    ),
    Claim(
        "p-loss-in-percent",
        "Abstract, II.2",
        "p loses about 3.4 of mAP against n, read as per cent of n's mAP.",
        "1 minus mAP50 of p over mAP50 of n, in %",
        "about 3.4 %: 2.55 to 4.25 %",
    ),
    # Custom pretrained weights
    Claim(
        "pretraining-raises-map",
        "Abstract, II.2, Figure 2",
        "Custom pretrained weights make p more accurate.",
        "difference of mAP50 on the same images, p (best) minus p",
        "difference above 0",
    ),
    Claim(
        "pretraining-gain-in-points",
        "Abstract",
        "Custom pretrained weights raise the mAP of p by about 6, read as percentage points.",
        "mAP50 of p (best) minus mAP50 of p, in points",
        "about 6 points: 4.5 to 7.5",
    ),
    Claim(
        "pretraining-gain-in-percent",
        "Abstract",
        "Custom pretrained weights raise the mAP of p by about 6, read as per cent of p's mAP.",
        "mAP50 of p (best) over mAP50 of p, minus 1, in %",
        "about 6 %: 4.5 to 7.5 %",
    ),
    Claim(
        "pretraining-keeps-latency",
        "II.2, Figure 2",
        "Custom pretrained weights do not change the inference time.",
        "paired ratio of inference times, p (best) to p",
        "equivalent: ratio within 0.98 to 1.02, two one-sided tests",
    ),
    Claim(
        "p-best-beats-n",
        "III, Figure 2",
        "With custom pretrained weights p is more accurate than n.",
        "difference of mAP50 on the same images, p (best) minus n",
        "difference above 0",
    ),
    # Who holds the parameters
    Claim(
        "conv-holds-most-parameters",
        "II.3",
        "Conv modules hold by far most of the parameters.",
        "share of p's parameters in top-level Conv layers, beside C3 and SPPF; and in every Conv wherever it sits",
        "more than half of the parameters; the two readings may differ",
    ),
    Claim(
        "upsample-concat-hold-none",
        "II.3",
        "Upsample and Concat hold no parameters.",
        "number of parameters in the Upsample and Concat layers of p",
        "exactly 0",
    ),
    Claim(
        "focus-detect-hold-few",
        "II.3",
        "Focus and Detect hold few of the parameters.",
        "share of p's parameters in layer 0 (the Conv that replaced Focus; equally many) and in Detect, each",
        "each below 5 %",
    ),
    Claim(
        "pruning-detect-costs-accuracy",
        "II.3",
        "Pruning Detect lowers accuracy markedly.",
        "loss of mAP50 when only Detect is cut, against the same ratio in any one other layer",
        "loss above that of the median layer",
    ),
    Claim(
        "pruning-focus-costs-accuracy",
        "II.3",
        "Pruning Focus, layer 0 since v6.0 a Conv, lowers accuracy markedly.",
        "loss of mAP50 when only layer 0 is cut, against the same ratio in any one other layer",
        "loss above that of the median layer",
    ),
    # Pruning
    Claim(
        "by-type-beats-uniform",
        "II.3, Figure 3",
        "A ratio for each type of module (0.3, 0.1, 0.1) is more accurate than 0.3 everywhere.",
        "difference of mAP50 on the same images, (0.3, 0.1, 0.1) minus (0.3, 0.3, 0.3), beside their sparsities",
        "difference above 0",
    ),
    Claim(
        "by-type-gains-3-points",
        "II.3, Figure 3",
        "Ratios by type of module give about 3 percentage points more than the same ratio everywhere.",
        "mAP50 of (0.3, 0.1, 0.1) minus mAP50 of (0.3, 0.3, 0.3), in points",
        "about 3 points: 2.25 to 3.75",
    ),
    Claim(
        "by-type-beats-same-sparsity",
        "II.3, Figure 3",
        "It is the ratios by type of module that help, not that fewer weights go.",
        "mAP50 of (0.3, 0.1, 0.1) minus mAP50 of one ratio everywhere that gives the same sparsity",
        "difference above 0",
    ),
    Claim(
        "unstructured-lightest-is-best",
        "II.3, Figure 4",
        "Of the unstructured prunings the lightest, at a sparsity of about 0.0994, is the most accurate.",
        "mAP50 of the three rows of Figure 4",
        "the row (0.1, 0.1, 0.1) has the highest mAP50",
    ),
    Claim(
        "structured-only-tiny-ratios",
        "II.3, Figure 5",
        "Structured pruning is unsuitable: accuracy is acceptable only at very small ratios.",
        "largest ratio that keeps 95 % of the unpruned mAP50, structured beside unstructured",
        "at most 0.03, and below that of unstructured pruning",
    ),
    Claim(
        "pruning-gives-no-speed",
        "III, Figure 3",
        "Pruning does not make inference faster.",
        "paired ratio of inference times, pruned to unpruned p",
        "equivalent: ratio within 0.98 to 1.02, two one-sided tests",
    ),
    Claim(
        "no-sparse-tensors",
        "III",
        "PyTorch supports sparse tensors too little to turn the zeros into sparse tensors.",
        "layers of the pruned p whose weights convert to a sparse tensor, and those that then run, in this PyTorch",
        "no convolution runs with sparse weights",
    ),
    Claim(
        "sparse-tensors-bring-speed",
        "III",
        "Were sparse tensors supported, pruning would make inference faster.",
        "paired ratio of times, sparse to dense, of p's layers as matrix products, at the paper's sparsities",
        "ratio below 1 at a sparsity that the paper reached",
    ),
    Claim(
        "skipping-zeros-brings-speed",
        "III",
        "Pruning would make inference faster if zeros could be skipped.",
        "paired ratio of times of the whole n, our engine at 90 % evenly spread zeros to dense PyTorch",
        "ratio below 1",
    ),
    Claim(
        "skipping-zeros-brings-speed-at-30-percent",
        "III",
        "So it would at the sparsities that the paper reached.",
        "paired ratio of times, weighted over n's convolutions, our engine at 30 % zeros to the dense convolution",
        "ratio below 1",
    ),
    Claim(
        "global-beats-by-type",
        "III",
        "L1 global unstructured pruning does better: higher sparsity at acceptable accuracy.",
        "difference of mAP50 on the same images, global minus by type, at equal sparsity",
        "difference above 0",
    ),
)


def audit() -> list[dict]:
    """Does the paper agree with itself? Rows (what, printed, recomputed, verdict, note), recomputed from FIGURES.

    The verdict is "adds up" or "does not add up": the printed digits against the recomputed value rounded to as many.
    Notes say where digits hidden by rounding could still save a printed number.
    """
    return [*_changes(), *_frame_rates(), *_sentences(), *_same_model(), *_milder_is_better(), *_sparsities()]


def _row(what: str, printed: str, recomputed: str, good: bool, note: str = "") -> dict:
    verdict = "adds up" if good else "does not add up"
    return {"what": what, "printed": printed, "recomputed": recomputed, "verdict": verdict, "note": note}


def _rounds_to(value: float, printed: float, unit: float = 1.0) -> bool:
    return abs(value - printed) < unit / 2 - 1e-9  # a half is not enough; 1e-9 is float noise


def _change_pct(before: float, after: float) -> float:
    return 100 * (after / before - 1)


def _changes() -> list[dict]:
    """The percentages in brackets of Figure 2, each against the row above."""
    rows = []
    for before, after in pairwise(figure(2)):
        for column, change, unit, half in (
            ("latency_ms", "latency_change_pct", "ms", 0.05),
            ("fps", "fps_change_pct", "FPS", 0.5),
        ):
            a, b, printed = before[column], after[column], after[change]
            value, low, high = _change_pct(a, b), _change_pct(a + half, b - half), _change_pct(a - half, b + half)
            good = _rounds_to(value, printed)
            what = f"Figure 2: {after['model']}, {a} to {b} {unit}"
            note = "" if good else f"{low:+.1f} to {high:+.1f} % within the rounding of both values"
            rows.append(_row(what, f"{printed:+d} %", f"{value:+.1f} %", good, note))
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
            rows.append(_row(f"Figure {n}: {row['model']}, FPS at {ms} ms", f"{fps}", f"{1000 / ms:.1f}", good, note))
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
        _row(
            'text, II.2: the speed of p "fell" by about 13 %',
            "-13 %",
            f"{more_fps:+.1f} % FPS",
            more_fps < 0,
            f"the time fell, by {less_time:.1f} %; so the speed rose",
        ),
        *_both_readings("p loses about 3.4 % of mAP against n, Figure 2", 3.4, 0.1, n, p),
        *_both_readings("custom pretraining gives p about 6 % of mAP, Figure 2", 6, 1, p, best),
        *_both_readings("custom pretraining gives p about 6 % of mAP, p (best.pt) from Figure 3", 6, 1, p, dense),
        _row(
            "text: custom pretraining does not change the time",
            "0 ms",
            f"{-saved_ms:+.1f} ms",
            saved_ms == 0,
            "the same network twice: so much is noise of the timing",
        ),
        _row(
            "text: p (best.pt) is more accurate than n",
            "more",
            f"{best['mAP50'] - n['mAP50']:+.3f}",
            min(best["mAP50"], dense["mAP50"]) > n["mAP50"],
            f"{dense['mAP50'] - n['mAP50']:+.3f} by Figure 3",
        ),
        _row(
            "text: ratios by type of module give about 3 %p more",
            "3 points",
            f"{gain:.1f} points",
            _rounds_to(gain, 3),
            f"{uniform['mAP50']} to {by_type['mAP50']} in Figure 3",
        ),
    ]


def _both_readings(what: str, printed: float, unit: float, before: dict, after: dict) -> list[dict]:
    """A change of mAP50 printed with a "%": as percentage points, and as per cent of the value before."""
    a, b = before["mAP50"], after["mAP50"]
    points, percent = 100 * abs(b - a), abs(_change_pct(a, b))
    return [
        _row(
            f"text: {what}; read as points",
            f"{printed} %",
            f"{points:.1f} points",
            _rounds_to(points, printed, unit),
            f"{a} to {b}",
        ),
        _row(
            f"text: {what}; read as per cent",
            f"{printed} %",
            f"{percent:.2f} %",
            _rounds_to(percent, printed, unit),
            f"{a} to {b}",
        ),
    ]


def _same_model() -> list[dict]:
    """p (best.pt) stands in Figures 2 and 3, and should be the same."""
    first, second = figure(2)[-1], figure(3)[0]
    rows = []
    for metric in ("mAP50", "mAP50_95", "latency_ms", "fps"):
        a, b = first[metric], second[metric]
        note = "" if a == b else "one model, two values"
        rows.append(_row(f"Figures 2 and 3: {metric} of p (best.pt)", f"{a} and {b}", f"{b - a:+.3g}", a == b, note))
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
    *harsher, lightest = figure(4)
    reach = (lightest["sparsity"] + 0.00005) / lightest["conv"]  # its one ratio shows what share pruning can reach
    for row in harsher:
        sppf = (row["conv"] * reach - row["sparsity"] + 0.0005) / (row["conv"] - row["sppf"])
        rows.append(
            _row(
                f"Figure 4: SPPF pruned at {row['sppf']} beside {row['conv']}",
                f"{row['sparsity']}",
                f"if SPPF holds at most {100 * sppf:.1f} % of the parameters",
                sppf >= SPPF_SHARE_OF_N,
                f"it holds {100 * SPPF_SHARE_OF_N:.1f} % of YOLOv5n: it must have been cut like Conv",
            )
        )
    highest, fig5 = 0.0994, [row["sparsity"] for row in figure(5)]
    rows.append(
        _row(
            f"text: unstructured pruning is most accurate at a sparsity of {highest}",
            f"{highest}",
            f"{lightest['sparsity']}",
            highest == lightest["sparsity"],
            f"Figure {5 if highest in fig5 else 4} prints {highest}, and is structured",
        )
    )
    for preferred in fig5[:2]:
        rows.append(
            _row(
                f"text: {preferred} is preferable, because {highest} removes few parameters",
                f"{preferred}",
                f"{preferred / highest:.2f} of what {highest} removes",
                preferred > highest,
                f"a sparsity of Figure 5, so structured; sensible if {highest} means {highest / 10:.5f}",
            )
        )
    return rows
