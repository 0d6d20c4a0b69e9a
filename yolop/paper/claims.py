"""Verdicts on the paper's sentences: each claim of `audit.CLAIMS` is estimated from records and judged.

A verdict is one of: holds, does not hold, undecided (the interval reaches across the threshold), not run. The rule is the
claim's own threshold; here stands how its estimate is made.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from yolop import store
from yolop.paper import audit
from yolop.report.tables import control, difference, interval, point, scores, sensitivity_table, sweeps_table
from yolop.study.graph import NAMES, PAPER_ROWS, Evidence

HOLDS, FAILS, OPEN, NOT_RUN = "holds", "does not hold", "undecided", "not run"


def verdicts(e: Evidence, ids: tuple[str, ...] = ()) -> list[dict]:
    """One row per claim, all or those of `ids`: id, claim, where, estimate, threshold, verdict, table."""
    rows = []
    for claim in audit.CLAIMS:
        if ids and claim.id not in ids:
            continue
        estimate, verdict, table = JUDGES[claim.id](e)
        rows.append(
            {
                "id": claim.id,
                "claim": claim.text,
                "where": claim.where,
                "estimator": claim.estimator,
                "estimate": estimate,
                "threshold": claim.threshold,
                "verdict": verdict,
                "table": table,
            }
        )
    return rows


def ledger(e: Evidence, estimates: bool = False) -> pd.DataFrame:
    """One row per claim: its verdict on this study and on every other whose report is published (`claims.json`).

    Args:
        estimates: also how it is estimated, its threshold, and the estimate with its interval beside each verdict.
    """
    found = {e.study.name: verdicts(e)}
    for name in store.published():
        file = store.ROOT / "reports" / name / "claims.json"
        if name not in found and file.exists():
            found[name] = store.read_json(file)
    rows = []
    for claim in audit.CLAIMS:
        row = {"claim": claim.text, "where": claim.where}
        row |= {"estimator": claim.estimator, "threshold": claim.threshold} if estimates else {}
        for name, judged in found.items():
            own = next((r for r in judged if r["id"] == claim.id), {"verdict": NOT_RUN, "estimate": ""})
            row[name] = f"{own['verdict']}: {own['estimate']}" if estimates else own["verdict"]
        rows.append(row)
    return pd.DataFrame(rows)


def judge(low: float, high: float, lower: float = -np.inf, upper: float = np.inf) -> str:
    """Verdict on "lower < value < upper" for an interval: all inside holds, all outside does not, else undecided."""
    if lower < low and high < upper:
        return HOLDS
    return FAILS if high <= lower or upper <= low else OPEN


# --- the estimates ----------------------------------------------------------------------------------------------------


def _map_difference(e: Evidence, a: str, b: str, scale: str = "points") -> tuple[float, float, float]:
    """mAP50 of model a minus that of b on the same images, with its interval: in points, or in % of b's."""
    x, y = scores(e, a), scores(e, b)
    drawn, base = x["mAP50_resampled"], y["mAP50_resampled"]
    if scale == "percent" and not base.all():
        return np.nan, -np.inf, np.inf  # nothing is a percentage of 0
    if scale == "points":
        return difference(x, y)
    return 100 * (x["mAP50"] / y["mAP50"] - 1), *interval(100 * (drawn / base - 1))


def _accuracy(a: str, b: str, lower: float, upper: float = np.inf, sign: int = 1, scale: str = "points") -> Callable:
    """Judge of sign * (mAP50 of a minus that of b) within lower..upper."""

    def judge_it(e: Evidence) -> tuple[str, str, str]:
        value, low, high = (sign * v for v in _map_difference(e, a, b, scale))
        low, high = min(low, high), max(low, high)
        unit = "points" if scale == "points" else "%"
        table = "pretraining" if "best" in a else "figure-2"
        if not np.isfinite(value):
            return f"not defined: the mAP50 of {NAMES[b]} is 0 on some samples of the images", OPEN, table
        return f"{value:+.1f} {unit} of mAP50 ({low:+.1f} to {high:+.1f})", judge(low, high, lower, upper), table

    return judge_it


def _ratio(e: Evidence, timing: str, label: str, against: str | None = None) -> dict:
    """The paired timing row of a variant; `against` another variant than the baseline it is the quotient of ratios."""
    rows = {row["label"]: row for row in e.latency(timing)["forward"]}
    if against is None:
        return rows[label]
    a, b = rows[label], rows[against]
    spread = np.hypot(np.log(a["ratio_high"] / a["ratio_low"]), np.log(b["ratio_high"] / b["ratio_low"])) / 2
    ratio = a["ratio"] / b["ratio"]
    low, high = ratio * np.exp(-spread), ratio * np.exp(spread)
    narrow = 1.645 / 1.96  # from a 95 % to a 90 % interval
    within = 0.98 <= ratio * np.exp(-spread * narrow) and ratio * np.exp(spread * narrow) <= 1.02
    return {"ratio": ratio, "ratio_low": low, "ratio_high": high, "equivalent": within}


def _time_ratio(label: str, upper: float = 1.0, lower: float = 0.0) -> Callable:
    def judge_it(e: Evidence) -> tuple[str, str, str]:
        if label == "s":  # n is the baseline: turn the ratio round
            row = _ratio(e, "models", NAMES["s"])
            ratio, low, high = 1 / row["ratio"], 1 / row["ratio_high"], 1 / row["ratio_low"]
        else:
            row = _ratio(e, "models", NAMES[label])
            ratio, low, high = row["ratio"], row["ratio_low"], row["ratio_high"]
        note = "; the size of p is our choice" if lower else ""
        return (
            f"time ratio {ratio:.3f} ({low:.3f} to {high:.3f}){note}",
            judge(low, high, lower, upper),
            "latency-models",
        )

    return judge_it


def _needs_s(judge_it: Callable) -> Callable:
    return lambda e: judge_it(e) if "s" in e.study.models else ("s is not among the models", NOT_RUN, "figure-2")


def _layers(e: Evidence) -> tuple[str, str, str]:
    kinds = [row["module"] for row in e.census("own")["n"]]
    right = len(kinds) == 25 and kinds[9] == "SPPF" and kinds[24] == "Detect"
    right = right and set(kinds[:9]) == {"Conv", "C3"} and set(kinds[10:24]) == {"Conv", "C3", "Upsample", "Concat"}
    return f"{len(kinds)} layers, layer 9 is {kinds[9]}, layer 24 is {kinds[-1]}", HOLDS if right else FAILS, "layers"


def _focus(e: Evidence) -> tuple[str, str, str]:
    row = next(row for row in e.stem()["rows"] if row["label"] == "Conv 6x6")
    estimate = (
        f"on a CPU: Conv takes {row['ratio']:.2f} of Focus's time ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
    )
    return estimate, NOT_RUN, "stem"


def _smaller(e: Evidence) -> tuple[str, str, str]:
    n, p = (e.census("own")[m] for m in ("n", "p"))
    blocks = [sum(row["repeats"] for row in rows if row["module"] == "C3") for rows in (p, n)]
    filters = [sum(row["output"][0] for row in rows if row["module"] in ("Conv", "C3", "SPPF")) for rows in (p, n)]
    good = blocks[0] < blocks[1] and filters[0] < filters[1]
    estimate = f"{blocks[0]} against {blocks[1]} bottlenecks, {filters[0]} against {filters[1]} output channels (our p)"
    return estimate, HOLDS if good else FAILS, "layers"


def _same_time(e: Evidence) -> tuple[str, str, str]:
    row = _ratio(e, "models", NAMES["p-best"], NAMES["p"])
    low, high = row["ratio_low"], row["ratio_high"]
    verdict = HOLDS if row["equivalent"] else judge(low, high, 0.98, 1.02).replace(HOLDS, OPEN)
    return f"time ratio {row['ratio']:.3f} ({low:.3f} to {high:.3f})", verdict, "latency-models"


def _conv_share(e: Evidence) -> tuple[str, str, str]:
    layers = e.census("own")["p"]
    total = sum(row["parameters"] for row in layers)

    def share(*kinds):
        return sum(row["parameters"] for row in layers if row["module"] in kinds) / total

    own, anywhere = share("Conv"), share("Conv", "C3", "SPPF")
    estimate = f"{own:.0%} in top-level Conv layers, {share('C3'):.0%} in C3; {anywhere:.0%} in Conv wherever it sits"
    return estimate, HOLDS if own > 0.5 else (OPEN if anywhere > 0.5 else FAILS), "modules"


def _none_in_upsample(e: Evidence) -> tuple[str, str, str]:
    count = sum(row["parameters"] for row in e.census("own")["p"] if row["module"] in ("Upsample", "Concat"))
    return f"{count} parameters", HOLDS if count == 0 else FAILS, "layers"


def _few_in_stem_and_detect(e: Evidence) -> tuple[str, str, str]:
    layers = e.census("own")["p"]
    total = sum(row["parameters"] for row in layers)
    stem, detect = layers[0]["parameters"] / total, layers[-1]["parameters"] / total
    return f"layer 0 {stem:.2%}, Detect {detect:.2%}", HOLDS if max(stem, detect) < 0.05 else FAILS, "layers"


def _layer_cost(prefix: str) -> Callable:
    def judge_it(e: Evidence) -> tuple[str, str, str]:
        lost = sensitivity_table(e).set_index("layer")["mAP50_lost"]
        own, median = lost[lost.index.str.startswith(prefix)].mean(), lost.median()
        estimate = f"loses {100 * own:.1f} points when half of it is cut, the median layer {100 * median:.1f}"
        return estimate, HOLDS if own > median else FAILS, "sensitivity"

    return judge_it


def _by_type(lower: float, upper: float = np.inf, same_sparsity: bool = False) -> Callable:
    def judge_it(e: Evidence) -> tuple[str, str, str]:
        uniform, by_type = (
            point(e, "l1-unstructured", **dict(zip(("conv", "c3", "sppf"), row, strict=True)))
            for row in PAPER_ROWS["figure-3"]
        )
        other = control(e) if same_sparsity else uniform
        value, low, high = difference(by_type, other)
        estimate = f"{value:+.1f} points ({low:+.1f} to {high:+.1f}), at sparsity {by_type['sparsity']:.3f}"
        return f"{estimate} against {other['sparsity']:.3f}", judge(low, high, lower, upper), "figure-3"

    return judge_it


def _lightest(e: Evidence) -> tuple[str, str, str]:
    *harsher, lightest = (
        point(e, "l1-unstructured", **dict(zip(("conv", "c3", "sppf"), row, strict=True)))
        for row in PAPER_ROWS["figure-4"]
    )
    value, low, high = min(difference(lightest, row) for row in harsher)
    return f"{value:+.1f} points over the next best ({low:+.1f} to {high:+.1f})", judge(low, high, 0), "figure-4"


def _structured(e: Evidence) -> tuple[str, str, str]:
    dense, table = point(e, "l1-unstructured")["mAP50"], sweeps_table(e).query("modules == 'all' and ratio > 0")
    largest = {}
    for method in ("l1-structured", "l1-unstructured"):
        kept = table[table["method"] == method].set_index("ratio")["mAP50"] >= 0.95 * dense
        passed = [ratio for ratio in sorted(kept.index) if kept[kept.index <= ratio].all()]
        largest[method] = max(passed, default=0.0)
    structured, unstructured = largest["l1-structured"], largest["l1-unstructured"]
    said = f"up to ratio {structured:g}" if structured else f"at no ratio tried (from {min(e.study.ratios):g})"
    estimate = f"95 % of mAP50 kept {said} structured, up to {unstructured:g} unstructured"
    return estimate, HOLDS if structured <= 0.03 and structured < unstructured else FAILS, "sweeps"


def _no_speed(e: Evidence) -> tuple[str, str, str]:
    rows = [row for row in e.latency("pruned")["forward"][1:] if not row["label"].endswith("(again)")]
    shown = [row for row in rows if row["equivalent"]]
    faster = [row for row in rows if row["ratio90_high"] < 0.98]
    low, high = min(row["ratio_low"] for row in rows), max(row["ratio_high"] for row in rows)
    estimate = (
        f"{len(shown)} of {len(rows)} pruned variants equivalent to dense within 2 %; intervals {low:.3f} to {high:.3f}"
    )
    return estimate, FAILS if faster else (HOLDS if len(shown) == len(rows) else OPEN), "latency-pruned"


def _no_sparse(e: Evidence) -> tuple[str, str, str]:
    rows = [row for row in e.sparse_tensors() if row["path"] == "conv2d"]
    runs = [row["layout"] for row in rows if row["runs"]]
    return (
        f"conv2d refuses {len(rows) - len(runs)} of {len(rows)} sparse layouts",
        FAILS if runs else HOLDS,
        "conv2d-refusals",
    )


def _sparse_pays(e: Evidence) -> tuple[str, str, str]:
    rows = [row for row in e.sparse_tensors() if row["path"] != "conv2d"]
    lowest = min(row["sparsity"] for row in rows)  # 0.3, the highest that the paper reached
    at_lowest = [row for row in rows if row["sparsity"] == lowest]
    faster = sum(row["ratio_high"] < 1 for row in at_lowest)
    paying = [row["sparsity"] for row in rows if row["ratio_high"] < 1]
    first = f"the first layer gains at {min(paying):g}" if paying else "no layer gains at any sparsity tried"
    estimate = f"at the paper's sparsity {lowest:g}, {faster} of {len(at_lowest)} layer runs are faster; {first}"
    return estimate, HOLDS if faster > len(at_lowest) / 2 else FAILS, "sparse-break-even"


def _skipping(e: Evidence) -> tuple[str, str, str]:
    if not e.trained_zeros:
        return "no engine was timed in this study", NOT_RUN, "uniform-zeros"
    label = e.uniform_labels()["n", "sparse", 0.9]
    row = next(row for row in e.uniform_times(e.study.imgsz) if row["label"] == label)
    estimate = f"time ratio {row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"
    return estimate, judge(row["ratio_low"], row["ratio_high"], 0, 1), "uniform-zeros"


def _skipping_at_30(e: Evidence) -> tuple[str, str, str]:
    if not e.trained_zeros:
        return "no engine was timed in this study", NOT_RUN, "atlas"
    rows = [(row, row["counts"]["n"]) for row in e.atlas() if row["sparsity"] == 0.3 and "n" in row["counts"]]
    dense = sum(n * row["dense_ms"] for row, n in rows)
    value, low, high = (
        sum(n * row["dense_ms"] * row[name] for row, n in rows) / dense for name in ("ratio", "ratio_low", "ratio_high")
    )
    return f"time ratio {value:.3f} ({low:.3f} to {high:.3f})", judge(low, high, 0, 1), "atlas"


def _global(e: Evidence) -> tuple[str, str, str]:
    by_type = point(e, "l1-unstructured", conv=0.3, c3=0.3, sppf=0.3)  # at one ratio, so equally sparse
    value, low, high = difference(point(e, "l1-global", conv=0.3), by_type)
    estimate = f"{value:+.1f} points ({low:+.1f} to {high:+.1f}) at ratio 0.3, against 0.3 in each convolution"
    return estimate, judge(low, high, 0), "sweeps"


JUDGES: dict[str, Callable[[Evidence], tuple[str, str, str]]] = {
    "layers-as-in-figure-1": _layers,
    "conv-faster-than-focus": _focus,
    "n-faster-than-s": _needs_s(_time_ratio("s")),
    "n-less-accurate-than-s": _needs_s(_accuracy("n", "s", -np.inf, 0)),
    "p-smaller-than-n": _smaller,
    "p-faster-than-n": _time_ratio("p"),
    "p-13-percent-faster": _time_ratio("p", 1 - 0.0975, 1 - 0.1625),
    "p-less-accurate-than-n": _accuracy("p", "n", -np.inf, 0),
    "p-loss-in-points": _accuracy("p", "n", 2.55, 4.25, -1),
    "p-loss-in-percent": _accuracy("p", "n", 2.55, 4.25, -1, "percent"),
    "pretraining-raises-map": _accuracy("p-best", "p", 0),
    "pretraining-gain-in-points": _accuracy("p-best", "p", 4.5, 7.5),
    "pretraining-gain-in-percent": _accuracy("p-best", "p", 4.5, 7.5, 1, "percent"),
    "pretraining-keeps-latency": _same_time,
    "p-best-beats-n": _accuracy("p-best", "n", 0),
    "conv-holds-most-parameters": _conv_share,
    "upsample-concat-hold-none": _none_in_upsample,
    "focus-detect-hold-few": _few_in_stem_and_detect,
    "pruning-detect-costs-accuracy": _layer_cost("model.24."),
    "pruning-focus-costs-accuracy": _layer_cost("model.0."),
    "by-type-beats-uniform": _by_type(0),
    "by-type-gains-3-points": _by_type(2.25, 3.75),
    "by-type-beats-same-sparsity": _by_type(0, same_sparsity=True),
    "unstructured-lightest-is-best": _lightest,
    "structured-only-tiny-ratios": _structured,
    "pruning-gives-no-speed": _no_speed,
    "no-sparse-tensors": _no_sparse,
    "sparse-tensors-bring-speed": _sparse_pays,
    "skipping-zeros-brings-speed": _skipping,
    "skipping-zeros-brings-speed-at-30-percent": _skipping_at_30,
    "global-beats-by-type": _global,
}
