"""Every table: a function from what an open study says to a DataFrame. Notebooks show them, figures are drawn from them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from yolop.paper import claims
from yolop.paper.claims import Exact
from yolop.report.scores import METRICS, Estimate, Ratio, Score, Timing, not_learnt
from yolop.study.graph import grid_shapes, paper_points
from yolop.study.names import NAMES

if TYPE_CHECKING:
    from yolop.report.opened import Model, OpenStudy

FIGURE_2 = ("s", "n", "p", "p-best")  # our labels of its rows
# What the original code computed (github.com/ultralytics/yolov5 at 5081342f, float32, CPU): mAP50 and mAP50-95, a pair a run.
# On coco128 two installations of it, whose sorts order images of equal shape otherwise; on bccd three training seeds.
ORIGINAL = {
    "coco128": ("official n (v6.0), untouched, on coco128's train2017 images at 640 px", ((0.465, 0.308), (0.4633, 0.3094))),
    "bccd": ("n from the official weights, 60 epochs of the original's recipe, on bccd's val at 320 px",
             ((0.901, 0.589), (0.895, 0.585), (0.893, 0.588))),
}  # fmt: skip

# --- data and shapes --------------------------------------------------------------------------------------------------


def dataset(data: dict, corpus: dict | None = None) -> pd.DataFrame:
    """Images and boxes of a data set, and of another one for pretraining, split by split."""
    rows = []
    for name, facts in {"data set": data, "for pretraining": corpus}.items():
        for split, counts in facts["splits"].items() if facts else ():
            row = {"set": name, "split": split, "classes": len(facts["names"])}
            row |= {"images": counts["images"], "backgrounds": counts["background_images"], "boxes": counts["boxes"]}
            for side in ("width", "height"):
                row |= {f"{name}_box_{side}_px": counts[f"box_{side}_px"][name] for name in ("min", "median", "max")}
            rows.append(row)
    return pd.DataFrame(rows)


def found(data: dict) -> str:
    """What was found in a data set that a reader should know before its numbers, in words."""
    return "Found in the data: " + ("; ".join(data["warnings"]) if data["warnings"] else "nothing unusual") + "."


def totals(layers: pd.DataFrame) -> dict:
    """Bottlenecks, parameters and GFLOPs of a network from its layers."""
    return {"bottlenecks": bottlenecks(layers)} | {name: layers[name].sum() for name in ("parameters", "gflops")}


def bottlenecks(layers: pd.DataFrame) -> int:
    """How many bottlenecks the C3 modules of a network have."""
    return int(layers.loc[layers["module"] == "C3", "repeats"].sum())


def filters(layers: pd.DataFrame) -> int:
    """How many output channels the Conv, C3 and SPPF layers of a network have in all."""
    return int(sum(output[0] for output in layers.loc[layers["module"].isin(["Conv", "C3", "SPPF"]), "output"]))


def sizes(study: OpenStudy) -> pd.DataFrame:
    """n to x and p at 640 px and 80 classes: parameters and FLOPs counted from the built models."""
    rows = []
    for label, layers in study.layers("sizes").items():
        shape = study.graph.shape(label)
        row = {"model": NAMES[label], "depth_multiple": shape.depth, "width_multiple": shape.width}
        rows.append(row | totals(layers))
    return pd.DataFrame(rows).sort_values("parameters", ignore_index=True)


def side_by_side(n: pd.DataFrame, p: pd.DataFrame) -> pd.DataFrame:
    """Layers 0-24 of n and p, which differ in channels, parameters and FLOPs only."""
    table = n[["layer", "from", "module"]].copy()
    table["from"] = [", ".join(map(str, sources)) for sources in table["from"]]
    for label, layers in {"n": n, "p": p}.items():
        table[f"channels_{label}"] = [row[0][0] if isinstance(row[0], list) else row[0] for row in layers["output"]]
        table[f"parameters_{label}"], table[f"gflops_{label}"] = layers["parameters"], layers["gflops"]
    return table


def by_module(**models: pd.DataFrame) -> pd.DataFrame:
    """Which kind of top-level layer holds the parameters and the FLOPs of each model, in %."""
    rows = []
    for label, layers in models.items():
        sums = layers.groupby("module")[["parameters", "gflops"]].sum()
        shares = (100 * sums / layers[["parameters", "gflops"]].sum()).add_suffix("_pct")
        part = sums[["parameters"]].join(shares).reset_index()
        rows.append(part.assign(model=NAMES[label], label=label)[["label", "model", *part]])
    table = pd.concat(rows)
    return table.sort_values(["model", "parameters"], ascending=[True, False], ignore_index=True)


def share_pct(modules: pd.DataFrame, label: str, *kinds: str) -> float:
    """Per cent of a model's parameters in these kinds of layers, from `by_module`."""
    own = modules[(modules["label"] == label) & modules["module"].isin(kinds)]
    return float(own["parameters_pct"].sum())


# --- time -------------------------------------------------------------------------------------------------------------


def timing(times: Timing) -> pd.DataFrame:
    """A row per timed network, the baseline first, its A/A control last: time, ratio to the baseline, "no change" shown?"""
    rows = []
    for key, row in [*times.rows.items(), (None, times.control)]:
        own = times.baseline if key is None else key
        name = NAMES.get(own, own)
        role = "control" if key is None else "baseline" if key == times.baseline else "variant"
        line = {"variant": f"{name} (again)" if key is None else name, "role": role}
        line |= {column: row[column] for column in ("latency_ms", "p90_ms", "fps", "ratio", "ratio_low", "ratio_high")}
        shown = "yes" if Ratio.of(row).equivalent else "not shown"
        rows.append(line | {"equivalent": "baseline" if role == "baseline" else shown})
    return pd.DataFrame(rows)


def models_timing(study: OpenStudy) -> pd.DataFrame:
    """Inference time of the trained models: the forward pass, and the whole path from picture to boxes."""
    parts = {"forward": "forward", "whole path": "whole_path"}
    tables = [timing(study.timing("models", part)).assign(measured=name) for name, part in parts.items()]
    table = pd.concat(tables, ignore_index=True)
    return table[["measured", *(column for column in table if column != "measured")]]


def grid(study: OpenStudy) -> pd.DataFrame:
    """Depth x width: parameters, FLOPs, and time relative to n's shape (0.33, 0.25), random weights."""
    times, rows = study.timing("grid"), []
    for shape, layers in zip(grid_shapes(study.settings), study.layers("grid").values(), strict=True):
        row = {"depth_multiple": shape.depth, "width_multiple": shape.width} | totals(layers)
        ratio = times[shape]
        row |= {"latency_ms": times.rows[shape]["latency_ms"], "ratio_to_n": ratio.value}
        rows.append(row | {"ratio_low": ratio.low, "ratio_high": ratio.high})
    return pd.DataFrame(rows)


# --- accuracy ---------------------------------------------------------------------------------------------------------


def beside_paper(printed: list[dict], models: dict[str, Model], times: Timing) -> pd.DataFrame:
    """Figure 2: accuracy and time of the models, paper | ours | difference; means over training seeds."""
    rows = []
    for label, line in zip(FIGURE_2, printed, strict=True):
        if label not in models:
            continue
        model = models[label]
        columns, time = model.score("test").row(), times.rows[model.label]
        row = {"label": model.label, "model": model.name, "seeds": len(model.nodes)}
        for metric in METRICS:
            row |= {f"{metric}_paper": line[metric], metric: columns[metric]}
            row |= {f"{metric}_difference": columns[metric] - line[metric]}
            row |= {name: columns[name] for name in (f"{metric}_low", f"{metric}_high")}
        row |= {"latency_ms_paper": line["latency_ms"], "latency_ms": time["latency_ms"], "p90_ms": time["p90_ms"]}
        row |= {"fps_paper": line["fps"], "fps": time["fps"]}
        rows.append(row | {f"{name}_to_n": time[name] for name in ("ratio", "ratio_low", "ratio_high")})
    return pd.DataFrame(rows)


def pretraining(study: OpenStudy) -> pd.DataFrame:
    """p and n from every starting point: steps, accuracy, and the difference to p from scratch with its interval."""
    graph, scratch, rows = study.graph, study.model("p").score(), []
    order = {"p": 0, "p-best": 1, "n": 9}
    labels = [label for label in study.models() if label != "s"]
    for label in sorted(labels, key=lambda label: order.get(label, 5)):
        parent = graph.trainings[label][1].split(":")[-1]
        starts = {"random": "random weights", "coco": "official COCO weights of n"}.get(parent, NAMES.get(parent))
        score = study.model(label).score()
        gain = score - scratch
        row = {"label": label, "model": NAMES[label], "starts_from": starts}
        row |= {"steps_before": all_steps(study, label) - graph.steps(label), "steps": graph.steps(label)}
        row |= score.row(limits=False) | {"mAP50_gain": gain.value / 100}
        rows.append(row | {"gain_low": gain.low / 100, "gain_high": gain.high / 100})
    return pd.DataFrame(rows)


def controls(study: OpenStudy) -> pd.DataFrame:
    """p (best) against every other p and n: points of mAP50 that it lies above them on test, and the steps of both.

    `steps` are of the whole way from random or official weights; `decided`: the interval does not hold 0.
    """
    best, steps, rows = study.model("p-best").score(), all_steps(study, "p-best"), []
    for label in (label for label in study.models() if label not in ("p-best", "s")):
        ahead = best - study.model(label).score()
        row = {"label": label, "compared_with": NAMES[label], "steps_p_best": steps}
        row |= {"steps": all_steps(study, label)} | ahead.columns("points_ahead", "ahead")
        rows.append(row | {"decided": ahead.low > 0 or ahead.high < 0})
    return pd.DataFrame(rows)


def all_steps(study: OpenStudy, label: str) -> int:
    """Steps of a training and of those that its weights come from; the official weights' own are not known to us."""
    parent = study.graph.trainings[label][1].split(":")[-1]
    return study.graph.steps(label) + (all_steps(study, parent) if parent in study.graph.trainings else 0)


def learning_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Learning curves, means over training seeds: loss every epoch, mAP on val where it was taken."""
    columns = ["epoch", "steps", "lr", "box", "obj", "cls", "loss", "mAP50", "mAP50_95"]
    means = curves.groupby(["label", "model", "epoch"], sort=False, as_index=False)[columns[1:]].mean()
    return means.assign(steps=means["steps"].astype(int))[["label", "model", *columns]]


def per_class(models: dict[str, Model]) -> pd.DataFrame:
    """AP50 on test, class by class (rows) and model by model (columns), means over training seeds."""
    columns = {}
    for model in models.values():
        rows = pd.concat(pd.DataFrame(record.metrics["test"]["per_class"]) for record in model.records)
        columns[model.name] = rows.groupby("name", sort=False)["AP50"].mean()
    return pd.DataFrame(columns).rename_axis("class").reset_index()


def val_and_test(study: OpenStudy, printed: list[dict]) -> pd.DataFrame:
    """Every model on val and on test, means over training seeds. Where val is train, as in coco128: on seen and unseen."""
    val = study.data["splits"]["val"]
    leaked, seen = val.get("seen_in_train", 0), "seen in training"
    seen = "unseen" if not leaked else seen if leaked == val["images"] else f"{leaked} of {val['images']} {seen}"
    paper, rows = {label: line["mAP50"] for label, line in zip(FIGURE_2, printed, strict=True)}, []
    for model in study.models().values():
        val, test = (model.score(split).row(limits=False) for split in ("val", "test"))
        row = {"label": model.label, "model": model.name, "val_images": seen}
        for metric in METRICS:
            row |= {f"{metric}_val": val[metric], f"{metric}_test": test[metric]}
        rows.append(row | {"mAP50_difference": val["mAP50"] - test["mAP50"], "mAP50_paper": paper.get(model.label)})
    return pd.DataFrame(rows)


def parity(study: OpenStudy) -> pd.DataFrame:
    """Ours beside what the original code computes with the same weights or recipe; empty where there is no reference.

    `low` and `high`: 95 % interval of our score, over training seeds (where something is trained) and images. Lowest and
    highest: of training seeds; on coco128, of orders in which images of equal shape share batches, which the original
    leaves open and which decides the rectangle that they are padded to.
    """
    settings = study.settings
    if settings.dataset == "coco128":
        ours = Score((study.record(study.graph.official_score("val")).metrics,), study.labelled("val"))
        runs = [*ours.by_seed, *study.record(study.graph.tie_orders("val")).metrics["rows"]]
    elif settings.dataset == "bccd" and settings.imgsz == 320 and settings.pretrain_epochs == 60:
        ours = study.model("n-coco").score("val")
        runs = list(ours.by_seed)
    else:
        return pd.DataFrame()
    (what, originals), columns, rows = ORIGINAL[settings.dataset], ours.row(), []
    for metric, original in zip(METRICS, zip(*originals, strict=True), strict=True):
        own = [run[metric] for run in runs]
        row = {"what": what, "measure": metric, "original": np.mean(original), "original_lowest": min(original)}
        row |= {"original_highest": max(original), "ours": columns[metric], "low": columns[f"{metric}_low"]}
        row |= {"high": columns[f"{metric}_high"], "lowest": min(own), "highest": max(own)}
        rows.append(row | {"ours_difference": columns[metric] - np.mean(original)})
    return pd.DataFrame(rows)


# --- pruning ----------------------------------------------------------------------------------------------------------


def paper_rows(printed: list[dict], model: Model, method: str, figure: int) -> pd.DataFrame:
    """Rows of Figure 3, 4 or 5 beside ours, in three readings of "module"; the ratio is asked, the sparsity achieved.

    "own": a convolution takes the ratio of the layer it sits in. "any Conv": every Conv takes Conv's, wherever it sits.
    "every conv": so does Detect, as in the loop of YOLOv5's own prune().
    """
    points = paper_points(figure, method).items()
    rows = [_paper_row(printed[i], model.pruned_score(point), reading) for (i, reading), point in points]
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def _paper_row(line: dict, score: Score, reading: str) -> dict:
    row = {name: line[name] for name in ("conv", "c3", "sppf")} | {"reading": reading}
    row |= {"sparsity_paper": line.get("sparsity"), "sparsity": score.sparsity}
    ours = score.row(limits=False)
    for metric in METRICS:
        row |= {f"{metric}_paper": line[metric], metric: ours[metric], f"{metric}_difference": ours[metric] - line[metric]}
    low, high = score.interval()
    return row | {"mAP50_low": low, "mAP50_high": high}


def control_row(even: Score) -> pd.DataFrame:
    """The row of Figure 3 that the paper lacks: as many zeros as by type of module, spread evenly."""
    row = {name: even.by_seed[0][name] for name in ("conv", "c3", "sppf")}
    low, high = even.interval()
    row |= {"reading": "own (control)", "sparsity": even.sparsity} | even.row(limits=False)
    return pd.DataFrame([row | {"mAP50_low": low, "mAP50_high": high}])


def same_readings(rows: pd.DataFrame) -> pd.DataFrame:
    """`paper_rows` with one row for the readings of "module" that give the same."""
    others = [name for name in rows if name != "reading"]
    return rows.groupby(others, sort=False, dropna=False)["reading"].agg(", ".join).reset_index()[list(rows)]


def sweeps(points: pd.DataFrame) -> pd.DataFrame:
    """Every point of a sweep, means over training seeds, with their standard deviation; `seed` is of random pruning."""
    keys = ["method", "modules", "seed", "ratio"]
    grouped = points.groupby(keys, sort=False)
    table = grouped[["sparsity", *METRICS]].mean().reset_index()
    several = points["training_seed"].nunique() > 1
    return table.assign(mAP50_sd=grouped["mAP50"].std().to_numpy()) if several else table


def largest_ratio(points: pd.DataFrame, keeps: float) -> dict[str, str]:
    """Method -> up to which ratio, all modules alike, mAP50 stays at `keeps` or above, in words."""
    means = points[points["modules"] == "all"].groupby(["method", "ratio"])["mAP50"].mean()
    found = {}
    for method, by_ratio in means.groupby(level="method"):
        kept = by_ratio.droplevel("method") >= keeps
        below = kept[~kept].index.min()
        passed = [ratio for ratio in kept.index if not ratio >= below]
        found[method] = f"up to a ratio of {max(passed):g}" if passed else "at no ratio tried"
    return found


def tiny_ratios(points: pd.DataFrame, dense: Score) -> Exact:
    """Largest ratio, all modules alike, that keeps 95 % of the unpruned mAP50: of whole filters beside single weights."""
    limit, means = claims.load()["structured-only-tiny-ratios"].at_most, sweeps(points)
    largest, tried = {}, means[(means["modules"] == "all") & (means["ratio"] > 0)]
    for method in ("l1-structured", "l1-unstructured"):
        kept = tried[tried["method"] == method].set_index("ratio")["mAP50"] >= 0.95 * dense.mAP50
        largest[method] = max((ratio for ratio in kept.index if kept[kept.index <= ratio].all()), default=0.0)
    filters, weights = largest.values()
    words = f"up to ratio {filters:g}" if filters else f"at no ratio tried (from {tried['ratio'].min():g})"
    text = f"95 % of mAP50 kept {words} structured, up to {weights:g} unstructured"
    return Exact(filters <= limit and filters < weights, text, not_learnt(dense.mAP50))


def costs(layers: pd.DataFrame, prefix: str) -> tuple[Estimate, str]:
    """Points of mAP50 that cutting half of the layers with a name's beginning loses more than the median layer; in words.

    The interval is over training seeds, each network on the same val images; with one seed there is none.
    """
    own, median = [], []
    for _, one in layers.groupby("training_seed"):
        lost = one.set_index("layer")["mAP50_lost"]
        own.append(100 * lost[lost.index.str.startswith(prefix)].mean())
        median.append(100 * lost.median())
    above = Estimate.of(np.subtract(own, median))
    more = f"{above} more" if above.seeds > 1 else "one training seed, so no interval"
    above = above if above.seeds > 1 else replace(above, doubt=more)
    return above, f"loses {np.mean(own):z.1f} points when half of it is cut, the median layer {np.mean(median):z.1f}: {more}"


def sensitivity(layers: pd.DataFrame) -> pd.DataFrame:
    """What pruning half of one convolution's weights costs, layer by layer, on val; means over training seeds."""
    keys = ["layer", "module", "weights", "ratio"]
    table = layers.groupby(keys, sort=False, as_index=False)[["sparsity", *METRICS, "mAP50_lost"]].mean()
    return table.sort_values("mAP50_lost", ascending=False, kind="stable", ignore_index=True)
