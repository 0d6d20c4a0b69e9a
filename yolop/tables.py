"""Every table of the report: a function from the evidence to a DataFrame, listed by name in TABLES."""

from __future__ import annotations

import numpy as np
import pandas as pd

from yolop import paper
from yolop.specs import MODELS
from yolop.study import GRID, NAMES, SCOPES, TRAININGS, Evidence, grid_label


def dataset_table(e: Evidence) -> pd.DataFrame:
    """Images and boxes of the data set and of the pretraining corpus, split by split."""
    rows = []
    for corpus in (False, True):
        record = e.data(corpus).metrics
        for split, found in record["splits"].items():
            rows.append(
                {
                    "set": "corpus for pretraining" if corpus else "data set",
                    "split": split,
                    "classes": len(record["names"]),
                    "images": found["images"],
                    "boxes": found["boxes"],
                    "median_box_width_px": found["box_width_px"]["median"],
                    "median_box_height_px": found["box_height_px"]["median"],
                }
            )
    return pd.DataFrame(rows)


def sizes_table(e: Evidence) -> pd.DataFrame:
    """n to x and p at 640 px and 80 classes: parameters and FLOPs counted from the built models."""
    rows = []
    for label, layers in e.census("sizes").items():
        spec = MODELS[label]
        rows.append(
            {
                "model": f"YOLOv5{label}",
                "depth_multiple": spec.depth,
                "width_multiple": spec.width,
                "bottlenecks": sum(row["repeats"] for row in layers if row["module"] == "C3"),
                "parameters": sum(row["parameters"] for row in layers),
                "gflops": sum(row["gflops"] for row in layers),
            }
        )
    return pd.DataFrame(rows).sort_values("parameters", ignore_index=True)


def layers_table(e: Evidence) -> pd.DataFrame:
    """Layers 0-24 of n and p side by side, at this study's image size and classes."""
    n, p = (pd.DataFrame(e.census("own")[m]) for m in ("n", "p"))
    table = n[["layer", "from", "module"]].copy()
    table["from"] = [", ".join(map(str, sources)) for sources in table["from"]]
    for label, frame in (("n", n), ("p", p)):
        table[f"channels_{label}"] = [row[0][0] if isinstance(row[0], list) else row[0] for row in frame["output"]]
        table[f"parameters_{label}"], table[f"gflops_{label}"] = frame["parameters"], frame["gflops"]
    return table


def modules_table(e: Evidence) -> pd.DataFrame:
    """Which kind of module holds the parameters and the FLOPs of n and p, in %, by top-level layer."""
    rows = []
    for label in ("n", "p"):
        layers = pd.DataFrame(e.census("own")[label])
        totals = layers[["parameters", "gflops"]].sum()
        for module, part in layers.groupby("module")[["parameters", "gflops"]].sum().iterrows():
            shares = {f"{name}_pct": 100 * part[name] / totals[name] for name in ("parameters", "gflops")}
            rows.append({"model": NAMES[label], "module": module, "parameters": int(part["parameters"])} | shares)
    return pd.DataFrame(rows).sort_values(["model", "parameters"], ascending=[True, False], ignore_index=True)


def stem_table(e: Evidence) -> pd.DataFrame:
    """Focus and the 6x6 convolution that replaced it, timed (same linear map)."""
    return _timing(e.stem()["rows"])


def grid_table(e: Evidence) -> pd.DataFrame:
    """Depth x width: parameters, FLOPs, and time relative to n's shape (0.33, 0.25), random weights."""
    timing = {row["label"]: row for row in e.latency("grid")["forward"]}
    rows = []
    for spec in GRID:
        layers, time = e.census("grid")[grid_label(spec)], timing[grid_label(spec)]
        rows.append(
            {
                "depth_multiple": spec.depth,
                "width_multiple": spec.width,
                "bottlenecks": sum(row["repeats"] for row in layers if row["module"] == "C3"),
                "parameters": sum(row["parameters"] for row in layers),
                "gflops": sum(row["gflops"] for row in layers),
                "latency_ms": time["latency_ms"],
                "ratio_to_n": time["ratio"],
                "ratio_low": time["ratio_low"],
                "ratio_high": time["ratio_high"],
            }
        )
    return pd.DataFrame(rows)


def latency_table(e: Evidence, name: str = "models") -> pd.DataFrame:
    """Inference time of trained models, forward pass and whole path, ratio to the first row with its interval."""
    found = e.latency(name)
    parts = [
        _timing(found[part]).assign(measured=part.replace("_", " "))
        for part in ("forward", "whole_path")
        if part in found
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[["measured", *[column for column in table if column != "measured"]]]


def pruned_latency_table(e: Evidence) -> pd.DataFrame:
    """Inference time of p (best), dense and with zeros, and the equivalence test for "no change"."""
    return latency_table(e, "pruned")


def figure_2(e: Evidence) -> pd.DataFrame:
    """Figure 2 of the paper: accuracy and time of the models, paper | ours | difference."""
    timing = {row["label"]: row for row in e.latency("models")["forward"]}
    rows = []
    for printed in paper.figure(2):
        label = next(label for label, name in NAMES.items() if name == printed["model"])
        if label not in (*e.study.models, "p-best"):
            continue
        found, time = scores(e, label), timing[printed["model"]]
        row = {"model": printed["model"]}
        for column, ours in (("mAP50", found["mAP50"]), ("mAP50_95", found["mAP50_95"])):
            row |= {f"{column}_paper": printed[column], column: ours, f"{column}_difference": ours - printed[column]}
        row |= {"mAP50_low": found["low"], "mAP50_high": found["high"]}
        row |= {"latency_ms_paper": printed["latency_ms"], "latency_ms": time["latency_ms"], "p90_ms": time["p90_ms"]}
        rows.append(row | {"fps_paper": printed["fps"], "fps": time["fps"], "ratio_to_n": time["ratio"]})
    return pd.DataFrame(rows)


def pretraining_table(e: Evidence) -> pd.DataFrame:
    """p from every starting point: steps, accuracy, and the difference to p from scratch with its interval."""
    rows = []
    for label in ("p", "p-best", "p-same-steps", "p-from-n", "p-from-n-l1", "n"):
        record, found, scratch = e.trained(label).metrics, scores(e, label), scores(e, "p")
        before = e.trained("p-corpus").metrics["steps"] if label == "p-best" else 0
        before = e.trained("n").metrics["steps"] if label.startswith("p-from-n") else before
        low, high = interval(found["resampled"] - scratch["resampled"])
        rows.append(
            {
                "model": NAMES[label],
                "steps_before": before,
                "steps": record["steps"],
                "mAP50": found["mAP50"],
                "mAP50_95": found["mAP50_95"],
                "mAP50_gain": found["mAP50"] - scratch["mAP50"],
                "gain_low": low,
                "gain_high": high,
            }
        )
    return pd.DataFrame(rows)


def curves_table(e: Evidence) -> pd.DataFrame:
    """Learning curves: loss every epoch, mAP on val where it was taken."""
    parts = []
    for label in _trained_labels(e):
        curve = pd.DataFrame(e.trained(label).metrics["curve"])
        parts.append(curve.assign(model=NAMES[label], loss=curve[["box", "obj", "cls"]].sum(axis=1)))
    columns = ["model", "epoch", "steps", "lr", "box", "obj", "cls", "loss", "mAP50", "mAP50_95"]
    return pd.concat(parts, ignore_index=True)[columns]


def per_class_table(e: Evidence) -> pd.DataFrame:
    """AP50 on test, class by class (rows) and model by model (columns)."""
    columns = {}
    for label in (*e.study.models, "p-best"):
        columns[NAMES[label]] = {row["name"]: row["AP50"] for row in e.trained(label).metrics["test"]["per_class"]}
    return pd.DataFrame(columns).rename_axis("class").reset_index()


def _paper_rows(e: Evidence, n: int, method: str) -> pd.DataFrame:
    """Rows of Figure 3, 4 or 5 beside ours, in both readings of "module"; sparsity asked is the paper's, achieved ours."""
    rows = []
    for printed in paper.figure(n):
        asked = {name: printed[name] for name in ("conv", "c3", "sppf")}
        for reading in ("own", "any-conv"):
            ours = point(e, method, reading, **asked)
            row = {**asked, "reading": reading, "sparsity_paper": printed.get("sparsity"), "sparsity": ours["sparsity"]}
            for column in ("mAP50", "mAP50_95"):
                row |= {f"{column}_paper": printed[column], column: ours[column]}
                row |= {f"{column}_difference": ours[column] - printed[column]}
            rows.append(row | dict(zip(("mAP50_low", "mAP50_high"), interval(resampled(ours)), strict=True)))
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def figure_3(e: Evidence) -> pd.DataFrame:
    """Figure 3: one ratio for all modules against ratios by module (unstructured; the paper does not say which)."""
    return _paper_rows(e, 3, "l1-unstructured")


def figure_3_structured(e: Evidence) -> pd.DataFrame:
    """Figure 3 read as structured pruning, the other possibility."""
    return _paper_rows(e, 3, "l1-structured")


def figure_4(e: Evidence) -> pd.DataFrame:
    """Figure 4: L1 unstructured pruning."""
    return _paper_rows(e, 4, "l1-unstructured")


def figure_5(e: Evidence) -> pd.DataFrame:
    """Figure 5: L1 structured pruning."""
    return _paper_rows(e, 5, "l1-structured")


def sweeps_table(e: Evidence) -> pd.DataFrame:
    """Every sweep point: method, what it was asked of, ratio asked, sparsity achieved, mAP on test."""
    scopes = {names: scope for scope, names in SCOPES.items()}
    rows = []
    for method in ("l1-unstructured", "l1-structured", "l1-global", "random-unstructured", "random-structured"):
        for row in e.sweep(method):
            ratio = max(row[name] for name in ("conv", "c3", "sppf", "detect"))
            asked = tuple(name for name in ("conv", "c3", "sppf", "detect") if row[name] == ratio)
            rows.append(
                {
                    "method": method,
                    "modules": scopes[asked],
                    "seed": row["seed"],
                    "ratio": ratio,
                    "sparsity": row["sparsity"],
                    "mAP50": row["mAP50"],
                    "mAP50_95": row["mAP50_95"],
                }
            )
    return pd.DataFrame(rows)


def sensitivity_table(e: Evidence) -> pd.DataFrame:
    """What pruning half of one convolution's weights costs, layer by layer, on val."""
    columns = ["layer", "module", "weights", "ratio", "sparsity", "mAP50", "mAP50_95", "mAP50_lost"]
    table = pd.DataFrame(e.sensitivity())[columns]
    return table.sort_values("mAP50_lost", ascending=False, ignore_index=True)


def refusals_table(e: Evidence) -> pd.DataFrame:
    """`conv2d` asked to work with sparse weights, layout by layer, in the installed PyTorch."""
    table = pd.DataFrame([row for row in e.sparse_tensors() if row["path"] == "conv2d"])[["layout", "runs", "error"]]
    return table.assign(runs=table["runs"].map({True: "yes", False: "no"}))


def sparse_tensors_table(e: Evidence) -> pd.DataFrame:
    """The detour as a sparse matrix product, per layer shape of p: time over the dense convolution (below 1: faster)."""
    rows = [row for row in e.sparse_tensors() if row["path"] != "conv2d"]
    columns = [
        "layout",
        "path",
        "c1",
        "c2",
        "kernel",
        "stride",
        "side",
        "count",
        "sparsity",
        "dense_path",
        "latency_ms",
    ]
    return pd.DataFrame(rows)[[*columns, "ratio", "ratio_low", "ratio_high", "max_difference"]]


def sparse_break_even_table(e: Evidence) -> pd.DataFrame:
    """For each sparsity: how many of p's different layers are faster as a sparse matrix product, and the median ratio."""
    table = sparse_tensors_table(e).assign(faster=lambda t: t["ratio_high"] < 1)
    grouped = table.groupby(["layout", "path", "sparsity"], sort=False)
    return grouped.agg(
        layers=("faster", "size"),
        layers_faster=("faster", "sum"),
        median_ratio=("ratio", "median"),
        best_ratio=("ratio", "min"),
    ).reset_index()


def audit_table(e: Evidence) -> pd.DataFrame:
    """Does the paper agree with itself? Its own figures recomputed."""
    return pd.DataFrame(paper.audit())


def claims_table(e: Evidence) -> pd.DataFrame:
    """Every checkable sentence of the paper: our estimate, its interval, the verdict."""
    from yolop.claims import verdicts

    return pd.DataFrame(verdicts(e))


TABLES = {
    "dataset": dataset_table,
    "sizes": sizes_table,
    "layers": layers_table,
    "modules": modules_table,
    "stem": stem_table,
    "grid": grid_table,
    "figure-2": figure_2,
    "latency-models": latency_table,
    "per-class": per_class_table,
    "pretraining": pretraining_table,
    "learning-curves": curves_table,
    "figure-3": figure_3,
    "figure-3-structured": figure_3_structured,
    "figure-4": figure_4,
    "figure-5": figure_5,
    "sweeps": sweeps_table,
    "sensitivity": sensitivity_table,
    "latency-pruned": pruned_latency_table,
    "conv2d-refusals": refusals_table,
    "sparse-tensors": sparse_tensors_table,
    "sparse-break-even": sparse_break_even_table,
    "audit": audit_table,
    "claims": claims_table,
}


def _timing(rows: list[dict]) -> pd.DataFrame:
    columns = ["label", "latency_ms", "p90_ms", "fps", "ratio", "ratio_low", "ratio_high", "equivalent"]
    table = pd.DataFrame(rows)[columns].rename(columns={"label": "variant"})
    table["equivalent"] = table["equivalent"].map({True: "yes", False: "not shown"})
    table.loc[0, "equivalent"] = "baseline"
    return table


def _trained_labels(e: Evidence) -> list[str]:
    return [label for label, (shape, _, _) in TRAININGS.items() if shape in e.study.models]


def scores(e: Evidence, label: str) -> dict:
    """Test scores of a model, averaged over the study's seeds, with resampled mAP50 and its interval."""
    found = [e.trained(label, seed).metrics["test"] for seed in e.study.seeds]
    drawn = np.mean([resampled(test) for test in found], axis=0)
    low, high = interval(drawn)
    means = {name: float(np.mean([test[name] for test in found])) for name in ("mAP50", "mAP50_95")}
    return means | {"resampled": drawn, "low": low, "high": high}


def resampled(test: dict) -> np.ndarray:
    """mAP50 on the bootstrap samples of the images, the same samples for every model."""
    return np.array(test["mAP50_resampled"])


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def point(e: Evidence, method: str, reading: str = "own", **asked: float) -> dict:
    """One row of the sweep "figures"."""
    wanted = {"method": method, "reading": reading, "conv": 0.0, "c3": 0.0, "sppf": 0.0} | asked
    return next(row for row in e.sweep("figures") if all(row[name] == value for name, value in wanted.items()))
