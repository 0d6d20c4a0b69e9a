"""Tables, claims and sentences from records, and the report that a stranger reads.

Every table is a function of the evidence, every claim's verdict a function of the same numbers, every number in a
sentence a value of `numbers`. `Report` is what a notebook holds; `texts` recomputes all of it for `yolop verify`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from yolop import paper
from yolop.specs import MODELS, Study
from yolop.store import ROOT, write_atomically
from yolop.study import GRID, NAMES, SCOPES, TRAININGS, Evidence, grid_label, open_study

SEED_NOTE = "intervals: 95 %, bootstrap over the test images; one training seed, so luck of training is not in them"

# --- tables: evidence -> DataFrame ------------------------------------------------------------------------------------


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
    parts = [_timing(found[part]).assign(measured=part.replace("_", " ")) for part in ("forward", "whole_path")]
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
        scores, time = _scores(e, label), timing[printed["model"]]
        row = {"model": printed["model"]}
        for column, ours in (("mAP50", scores["mAP50"]), ("mAP50_95", scores["mAP50_95"])):
            row |= {f"{column}_paper": printed[column], column: ours, f"{column}_difference": ours - printed[column]}
        row |= {"mAP50_low": scores["low"], "mAP50_high": scores["high"]}
        row |= {"latency_ms_paper": printed["latency_ms"], "latency_ms": time["latency_ms"], "p90_ms": time["p90_ms"]}
        rows.append(row | {"fps_paper": printed["fps"], "fps": time["fps"], "ratio_to_n": time["ratio"]})
    return pd.DataFrame(rows)


def pretraining_table(e: Evidence) -> pd.DataFrame:
    """p from every starting point: steps, accuracy, and the difference to p from scratch with its interval."""
    rows = []
    for label in ("p", "p-best", "p-same-steps", "p-from-n", "p-from-n-l1", "n"):
        record, scores = e.trained(label).metrics, _scores(e, label)
        before = e.trained("p-corpus").metrics["steps"] if label == "p-best" else 0
        before = e.trained("n").metrics["steps"] if label.startswith("p-from-n") else before
        low, high = _interval(scores["resampled"] - _scores(e, "p")["resampled"])
        rows.append(
            {
                "model": NAMES[label],
                "steps_before": before,
                "steps": record["steps"],
                "mAP50": scores["mAP50"],
                "mAP50_95": scores["mAP50_95"],
                "mAP50_gain": scores["mAP50"] - _scores(e, "p")["mAP50"],
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
            ours = _point(e, method, reading, **asked)
            row = {**asked, "reading": reading, "sparsity_paper": printed.get("sparsity"), "sparsity": ours["sparsity"]}
            for column in ("mAP50", "mAP50_95"):
                row |= {f"{column}_paper": printed[column], column: ours[column]}
                row |= {f"{column}_difference": ours[column] - printed[column]}
            rows.append(row | dict(zip(("mAP50_low", "mAP50_high"), _interval(_resampled(ours)), strict=True)))
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
    table = pd.DataFrame(e.sensitivity())
    return table.sort_values("mAP50_lost", ascending=False, ignore_index=True)


def refusals_table(e: Evidence) -> pd.DataFrame:
    """`conv2d` asked to work with sparse weights, layout by layer, in the installed PyTorch."""
    return pd.DataFrame([row for row in e.sparse_tensors() if row["path"] == "conv2d"])


def sparse_tensors_table(e: Evidence) -> pd.DataFrame:
    """The detour as a sparse matrix product, per layer shape of p: time over the dense convolution (below 1: faster)."""
    rows = [row for row in e.sparse_tensors() if row["path"] != "conv2d"]
    columns = ["layout", "path", "c1", "c2", "kernel", "stride", "side", "count", "sparsity", "latency_ms"]
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


def _scores(e: Evidence, label: str) -> dict:
    """Test scores of a model, averaged over the study's seeds, with resampled mAP50 and its interval."""
    found = [e.trained(label, seed).metrics["test"] for seed in e.study.seeds]
    resampled = np.mean([_resampled(scores) for scores in found], axis=0)
    low, high = _interval(resampled)
    means = {name: float(np.mean([scores[name] for scores in found])) for name in ("mAP50", "mAP50_95")}
    return means | {"resampled": resampled, "low": low, "high": high}


def _resampled(scores: dict) -> np.ndarray:
    return np.array(scores["mAP50_resampled"])


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _point(e: Evidence, method: str, reading: str = "own", **asked: float) -> dict:
    """One row of the sweep "figures"."""
    wanted = {"method": method, "reading": reading, "conv": 0.0, "c3": 0.0, "sppf": 0.0} | asked
    return next(row for row in e.sweep("figures") if all(row[name] == value for name, value in wanted.items()))


# --- text: numbers and sentences --------------------------------------------------------------------------------------


def numbers(e: Evidence) -> dict[str, object]:
    """Every value that a sentence may use, by name; each is read on first use only, so a notebook needs its own records."""

    def timing(label: str) -> dict:
        return next(row for row in e.latency("models")["forward"] if row["label"] == NAMES[label])

    def total(model: str, column: str) -> float:
        return sum(row[column] for row in e.census("own")[model])

    def gain(a: str, b: str) -> float:
        return 100 * (_scores(e, a)["mAP50"] - _scores(e, b)["mAP50"])

    def counted(column: str, value: str) -> int:
        table = audit_table(e) if column == "audit" else claims_table(e)
        return int((table["verdict"] == value).sum())

    def masks() -> list[dict]:
        return [row for row in e.latency("pruned")["forward"][1:] if not row["label"].endswith("(again)")]

    def detour() -> pd.DataFrame:
        return sparse_tensors_table(e)

    return {
        "imgsz": lambda: e.study.imgsz,
        "epochs": lambda: e.study.epochs,
        "seeds": lambda: len(e.study.seeds),
        "nc": lambda: len(e.data().metrics["names"]),
        "train_images": lambda: e.data().metrics["splits"]["train"]["images"],
        "test_images": lambda: e.data().metrics["splits"]["test"]["images"],
        "test_boxes": lambda: e.data().metrics["splits"]["test"]["boxes"],
        "corpus_images": lambda: e.data(corpus=True).metrics["splits"]["train"]["images"],
        "p_depth": lambda: MODELS["p"].depth,
        "p_width": lambda: MODELS["p"].width,
        "n_parameters": lambda: int(total("n", "parameters")),
        "p_parameters": lambda: int(total("p", "parameters")),
        "p_fewer_parameters_pct": lambda: 100 * (1 - total("p", "parameters") / total("n", "parameters")),
        "p_fewer_gflops_pct": lambda: 100 * (1 - total("p", "gflops") / total("n", "gflops")),
        "c3_share_pct": lambda: _share(e, "C3"),
        "conv_share_pct": lambda: _share(e, "Conv"),
        "p_less_time_pct": lambda: 100 * (1 - timing("p")["ratio"]),
        "p_time_ratio": lambda: timing("p")["ratio"],
        "p_ratio_low": lambda: timing("p")["ratio_low"],
        "p_ratio_high": lambda: timing("p")["ratio_high"],
        "n_latency_ms": lambda: timing("n")["latency_ms"],
        "p_latency_ms": lambda: timing("p")["latency_ms"],
        "n_mAP50": lambda: _scores(e, "n")["mAP50"],
        "p_mAP50": lambda: _scores(e, "p")["mAP50"],
        "best_mAP50": lambda: _scores(e, "p-best")["mAP50"],
        "same_steps_mAP50": lambda: _scores(e, "p-same-steps")["mAP50"],
        "p_loss_points": lambda: gain("n", "p"),
        "best_gain_points": lambda: gain("p-best", "p"),
        "best_over_same_steps_points": lambda: gain("p-best", "p-same-steps"),
        "l1_channels_gain_points": lambda: gain("p-from-n-l1", "p"),
        "same_steps_epochs": lambda: e.train_spec("p-same-steps").epochs,
        "keeps_90_unstructured": lambda: _largest_kept(e, "l1-unstructured"),
        "keeps_90_structured": lambda: _largest_kept(e, "l1-structured"),
        "keeps_90_global": lambda: _largest_kept(e, "l1-global"),
        "keeps_90_random": lambda: _largest_kept(e, "random-unstructured"),
        "masks": lambda: len(masks()),
        "masks_equivalent": lambda: sum(row["equivalent"] for row in masks()),
        "masks_fastest_ratio": lambda: min(row["ratio"] for row in masks()),
        "masks_slowest_ratio": lambda: max(row["ratio"] for row in masks()),
        "aa_ratio": lambda: next(r["ratio"] for r in e.latency("pruned")["forward"] if r["label"].endswith("(again)")),
        "refused": lambda: int((~refusals_table(e)["runs"].astype(bool)).sum()),
        "layouts": lambda: len(refusals_table(e)),
        "detour_at_50_median": lambda: float(detour().query("sparsity == sparsity.min()")["ratio"].median()),
        "detour_at_max_median": lambda: float(detour().query("sparsity == sparsity.max()")["ratio"].median()),
        "detour_max_sparsity": lambda: float(detour()["sparsity"].max()),
        "focus_difference": lambda: e.stem()["max_difference"],
        "focus_ratio": lambda: next(r["ratio"] for r in e.stem()["rows"] if r["label"] == "Conv 6x6"),
        "claims": lambda: len(paper.CLAIMS),
        "claims_hold": lambda: counted("claims", "holds"),
        "claims_fail": lambda: counted("claims", "does not hold"),
        "claims_open": lambda: counted("claims", "undecided"),
        "claims_not_run": lambda: counted("claims", "not run"),
        "audit_rows": lambda: len(paper.audit()),
        "audit_wrong": lambda: counted("audit", "does not add up"),
        "seed_note": lambda: SEED_NOTE if len(e.study.seeds) == 1 else f"means of {len(e.study.seeds)} training seeds",
    }


def _share(e: Evidence, module: str) -> float:
    layers = e.census("own")["p"]
    return 100 * sum(r["parameters"] for r in layers if r["module"] == module) / sum(r["parameters"] for r in layers)


def _largest_kept(e: Evidence, method: str) -> float:
    """Largest ratio, all modules alike, up to which 90 % of the unpruned mAP50 is kept (mean of random seeds); 0 if none."""
    dense = e.trained("p-best").metrics["test"]["mAP50"]
    table = sweeps_table(e).query("method == @method and modules == 'all'")
    kept = table.groupby("ratio")["mAP50"].mean() >= 0.9 * dense
    below = kept[~kept].index.min()
    return float(max((ratio for ratio in kept.index if not ratio >= below), default=0.0))


class _Lazy(dict):
    """Numbers by name for `str.format_map`, computed when asked for."""

    def __missing__(self, name: str):
        raise KeyError(f"no number is called {name}: reporting.numbers lists them")

    def __getitem__(self, name: str):
        return super().__getitem__(name)()


def sentence(e: Evidence, template: str) -> str:
    """A sentence with its numbers filled in: "{p_mAP50:.3f}" and so on, names as of `numbers`."""
    return template.format_map(_Lazy(numbers(e)))


# --- formats ----------------------------------------------------------------------------------------------------------

DECIMALS = {  # by the end of a column's name, first match wins
    "parameters": 0,
    "_pct": 1,
    "gflops": 3,
    "_ms": 2,
    "_ms_paper": 1,
    "fps": 0,
    "_px": 0,
    "sparsity": 4,
    "sparsity_paper": 4,
    "multiple": 4,
    "max_difference": 7,
    "lr": 6,
    "loss": 4,
    "box": 4,
    "obj": 4,
    "cls": 4,
}
SIGNED = ("_difference", "_gain", "gain_low", "gain_high", "_lost")


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table as text with the decimals of its columns; empty where there is no value."""

    def text(name: str, value) -> str:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return ""
        if isinstance(value, (float, np.floating)):
            if name in ("ratio", "conv", "c3", "sppf") and "ratio_low" not in table:
                return f"{value:g}"
            decimals = next((d for end, d in DECIMALS.items() if name.endswith(end)), 3)
            return (
                f"{value:+.{decimals}f}"
                if name.endswith(SIGNED) and name != "max_difference"
                else f"{value:.{decimals}f}"
            )
        if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)):
            return f"{value:,}"
        return str(value)

    return pd.DataFrame({name: [text(name, v) for v in table[name]] for name in table.columns})


def to_markdown(table: pd.DataFrame) -> str:
    """GitHub's Markdown; numbers to the right."""
    text = shown(table)
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    head = [name.replace("_", " ") for name in text]
    lines = [head, ["---:" if right else "---" for right in numeric], *text.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def to_csv(table: pd.DataFrame) -> str:
    """CSV with six significant digits, the same bytes on every machine."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


# --- the report -------------------------------------------------------------------------------------------------------


class Report:
    """What a notebook holds: tables, figures and sentences of one study, shown and, if asked, written to its folder.

    Args:
        study, records, fields: as of `study.open_study`.
        write_report: also write CSV, Markdown and SVG to `reports/<study>/`.
    """

    def __init__(self, study: str = "digits", records: str = "committed", write_report: bool = False, **fields):
        self.evidence = open_study(study, records, **fields)
        self.folder = ROOT / "reports" / self.evidence.study.name if write_report else None
        self.frames: dict[str, pd.DataFrame] = {}

    def frame(self, name: str) -> pd.DataFrame:
        """A table as data, built once."""
        if name not in self.frames:
            self.frames[name] = TABLES[name](self.evidence)
        return self.frames[name]

    def table(self, name: str, columns: list[str] | None = None, head: int | None = None):
        """Show a table, or some of its columns and first rows; the whole of it is written."""
        from IPython.display import Markdown

        frame = self.frame(name)
        self._write(f"tables/{name}.csv", to_csv(frame))
        self._write(f"tables/{name}.md", to_markdown(frame))
        frame = frame[columns] if columns else frame
        return Markdown(to_markdown(frame.head(head) if head else frame))

    def figure(self, name: str):
        """Show a figure drawn from tables; on disk it is an SVG, or a JPEG where it is made of photographs."""
        from IPython.display import Image

        from yolop import plots

        figure = plots.draw(name, self.frame, self.evidence)
        if name in plots.PHOTOGRAPHIC:
            self._write(f"figures/{name}.jpg", plots.to_jpeg(figure))
            return Image(plots.to_jpeg(figure), format="jpeg")
        self._write(f"figures/{name}.svg", plots.to_svg(figure))
        return Image(plots.to_png(figure), format="png")

    def say(self, *templates: str):
        """Show sentences with their numbers filled in."""
        from IPython.display import Markdown

        return Markdown(sentence(self.evidence, " ".join(templates)))

    def claims(self, *ids: str):
        """Show the verdicts on some of the paper's claims, or on all."""
        from IPython.display import Markdown

        from yolop.claims import verdicts

        frame = pd.DataFrame(verdicts(self.evidence, ids))
        return Markdown(to_markdown(frame[["claim", "estimate", "threshold", "verdict"]]))

    def _write(self, file: str, content: str | bytes) -> None:
        if self.folder:
            write_atomically(self.folder / file, content)


def texts(study: Study, records: str = "committed") -> dict[str, str]:
    """Every table and the claims of a study, recomputed from its records: file name in the report -> content."""
    evidence = Evidence(study, records == "fresh")
    files = {}
    for name, build in TABLES.items():
        table = build(evidence)
        files |= {f"tables/{name}.csv": to_csv(table), f"tables/{name}.md": to_markdown(table)}
    claims = json.loads(claims_table(evidence).to_json(orient="records"))
    files["claims.json"] = json.dumps(claims, indent=1, ensure_ascii=False) + "\n"
    evidence.pictures()  # shown, but in no table
    used = {name: json.loads(record.to_json())["checksum"] for name, record in sorted(evidence.store.used.items())}
    files["manifest.json"] = json.dumps({"study": study.name, "records": used}, indent=1, sort_keys=True) + "\n"
    return files


def write_index(study: Study, folder: Path, records: str) -> None:
    """Write tables, claims.json, manifest.json and the index.html that stands alone, from the records just used."""
    from yolop.page import index_html

    for file, text in texts(study, records).items():
        write_atomically(folder / file, text)
    write_atomically(folder / "index.html", index_html(Evidence(study, records == "fresh"), folder))


README_STUDY = "digits"
README_COLUMNS = [
    "model",
    "mAP50_paper",
    "mAP50",
    "mAP50_95_paper",
    "mAP50_95",
    "latency_ms_paper",
    "latency_ms",
    "ratio_to_n",
]
MARKERS = ("<!-- results: written by `python -m yolop publish`, held by a test -->\n", "<!-- /results -->")


def readme_results(study: Study) -> str:
    """What the README says of a study's results, from its committed records."""
    e = Evidence(study, False)
    sentences = sentence(
        e,
        "{claims} claims of the paper checked: {claims_hold} hold, {claims_fail} do not, {claims_open} undecided, "
        "{claims_not_run} not run. p takes {p_less_time_pct:.0f} % less time than n and loses {p_loss_points:.1f} points of "
        "mAP50; custom pretraining changes p by {best_gain_points:+.1f} points, which is {best_over_same_steps_points:+.1f} "
        "against p trained equally long from scratch. Without retraining, 90 % of mAP50 is kept up to a ratio of {keeps_90_unstructured:g} "
        "for single weights and {keeps_90_structured:g} for whole filters. {masks_equivalent} of {masks} pruned networks take "
        "the dense one's time within 2 %: masks bring no speed. ({test_images} test images; {seed_note}.)",
    )
    return f"\n{to_markdown(figure_2(e)[README_COLUMNS])}\n{sentences}\n\n"


def readme_with_results(text: str, study: Study) -> str:
    """The README's text with the part between its markers written anew."""
    begin, end = text.index(MARKERS[0]) + len(MARKERS[0]), text.index(MARKERS[1])
    return text[:begin] + readme_results(study) + text[end:]
