"""Every table of the report: a function from the evidence to a DataFrame, listed by name in TABLES."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from yolop.paper import audit, recipe
from yolop.study.graph import GRID, NAMES, ORIGINAL, RUNTIME_NAMES, SCOPES, Evidence, grid_label

SEED_DRAWS = 2000  # of training seeds, each on one bootstrap sample of the images


def dataset_table(e: Evidence) -> pd.DataFrame:
    """Images and boxes of the data set and of the pretraining corpus, split by split."""
    rows = []
    for corpus in (False, True) if e.study.pretraining == "corpus" else (False,):
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
        spec = e.shape(label)
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
    """Figure 2 of the paper: accuracy and time of the models, paper | ours | difference; means over training seeds."""
    timing = {row["label"]: row for row in e.latency("models")["forward"]}
    rows = []
    for printed in audit.figure(2):
        label = next(label for label, name in NAMES.items() if name == printed["model"])
        if label not in (*e.study.models, "p-best"):
            continue
        found, time = scores(e, label), timing[printed["model"]]
        row = {"model": printed["model"], "seeds": len(e.study.seeds)}
        for column in ("mAP50", "mAP50_95"):
            row |= {f"{column}_paper": printed[column], column: found[column]}
            row |= {f"{column}_difference": found[column] - printed[column]}
            row |= {f"{column}_low": found[f"{column}_low"], f"{column}_high": found[f"{column}_high"]}
        row |= {"latency_ms_paper": printed["latency_ms"], "latency_ms": time["latency_ms"], "p90_ms": time["p90_ms"]}
        row |= {"fps_paper": printed["fps"], "fps": time["fps"]}
        rows.append(row | {f"{name}_to_n": time[name] for name in ("ratio", "ratio_low", "ratio_high")})
    return pd.DataFrame(rows)


def pretraining_table(e: Evidence) -> pd.DataFrame:
    """p and n from every starting point: steps, accuracy, and the difference to p from scratch with its interval."""
    rows = []
    for label, (_, init, how) in e.trainings.items():
        if label == "s" or how == "corpus":
            continue
        found, scratch, parent = scores(e, label), scores(e, "p"), init.split(":")[-1]
        low, high = interval(found["mAP50_resampled"] - scratch["mAP50_resampled"])
        rows.append(
            {
                "model": NAMES[label],
                "starts_from": {"random": "random weights", "coco": "official COCO weights of n"}.get(
                    parent, NAMES.get(parent)
                ),
                "steps_before": e.trained(parent).metrics["steps"] if parent in e.trainings else 0,
                "steps": e.trained(label).metrics["steps"],
                "mAP50": found["mAP50"],
                "mAP50_95": found["mAP50_95"],
                "mAP50_gain": found["mAP50"] - scratch["mAP50"],
                "gain_low": low,
                "gain_high": high,
            }
        )
    order = {NAMES["p"]: 0, NAMES["p-best"]: 1, NAMES["n"]: 9}
    return pd.DataFrame(rows).sort_values(
        "model", key=lambda c: c.map(order).fillna(5), kind="stable", ignore_index=True
    )


def curves_table(e: Evidence) -> pd.DataFrame:
    """Learning curves, means over training seeds: loss every epoch, mAP on val where it was taken."""
    parts = []
    for label in e.trainings:
        curves = [pd.DataFrame(e.trained(label, seed).metrics["curve"]) for seed in e.study.seeds]
        curve = pd.concat(curves).groupby("epoch", as_index=False).mean()
        curve["steps"] = curve["steps"].astype(int)
        parts.append(curve.assign(model=NAMES[label], loss=curve[["box", "obj", "cls"]].sum(axis=1)))
    columns = ["model", "epoch", "steps", "lr", "box", "obj", "cls", "loss", "mAP50", "mAP50_95"]
    return pd.concat(parts, ignore_index=True)[columns]


def per_class_table(e: Evidence) -> pd.DataFrame:
    """AP50 on test, class by class (rows) and model by model (columns), means over training seeds."""
    columns = {}
    for label in (*e.study.models, "p-best"):
        found = [e.trained(label, seed).metrics["test"]["per_class"] for seed in e.study.seeds]
        columns[NAMES[label]] = {
            rows[0]["name"]: np.mean([row["AP50"] for row in rows]) for rows in zip(*found, strict=True)
        }
    return pd.DataFrame(columns).rename_axis("class").reset_index()


def val_and_test_table(e: Evidence) -> pd.DataFrame:
    """Every model on val and on test, means over training seeds. Where val is train, as in coco128: on seen and unseen."""
    seen = any("images of val are in train" in text for text in e.data().metrics["warnings"])
    printed = {row["model"]: row["mAP50"] for row in audit.figure(2)}
    rows = []
    for label in e.trainings:
        if label == "p-corpus":
            continue
        val, test = (scores(e, label, split) for split in ("val", "test"))
        row = {"model": NAMES[label], "val_images": "seen in training" if seen else "unseen"}
        for column in ("mAP50", "mAP50_95"):
            row |= {f"{column}_val": val[column], f"{column}_test": test[column]}
        row |= {"mAP50_difference": val["mAP50"] - test["mAP50"], "mAP50_paper": printed.get(NAMES[label])}
        rows.append(row)
    return pd.DataFrame(rows)


def parity_table(e: Evidence) -> pd.DataFrame:
    """Ours beside what the original code computes with the same weights or recipe; empty where there is no reference.

    `low` and `high`: 95 % interval of our mean, over training seeds (where something is trained) and images.
    """
    if e.study.dataset == "coco128":
        runs = [e.official_scores("val")]
    elif e.study.dataset == "bccd" and e.study.imgsz == 320 and e.study.pretrain_epochs == 60:
        runs = [e.trained("n-coco", seed).metrics["val"] for seed in e.study.seeds]
    else:
        return pd.DataFrame()
    found, rows = _over_seeds(runs), []
    for column, original in ORIGINAL[e.study.dataset]["scores"].items():
        ours = [run[column] for run in runs]
        row = {"what": ORIGINAL[e.study.dataset]["what"], "measure": column, "original": original, "runs": len(ours)}
        row |= {"ours": found[column], "low": found[f"{column}_low"], "high": found[f"{column}_high"]}
        row |= {"lowest_run": min(ours), "highest_run": max(ours), "ours_difference": found[column] - original}
        rows.append(row)
    return pd.DataFrame(rows)


READINGS = {"own": ("own", False), "any Conv": ("any-conv", False), "every conv": ("any-conv", True)}


def _paper_rows(e: Evidence, n: int, method: str) -> pd.DataFrame:
    """Rows of Figure 3, 4 or 5 beside ours, in three readings of "module"; sparsity asked is the paper's, achieved ours.

    "own": a convolution takes the ratio of the layer it sits in. "any Conv": every Conv takes Conv's, wherever it sits.
    "every conv": so does Detect, as in the loop of YOLOv5's own prune().
    """
    rows = []
    for printed in audit.figure(n):
        asked = {name: printed[name] for name in ("conv", "c3", "sppf")}
        for name, (reading, detect) in READINGS.items():
            ours = point(e, method, reading, detect=asked["conv"] if detect else 0.0, **asked)
            row = {**asked, "reading": name, "sparsity_paper": printed.get("sparsity"), "sparsity": ours["sparsity"]}
            for column in ("mAP50", "mAP50_95"):
                row |= {f"{column}_paper": printed[column], column: ours[column]}
                row |= {f"{column}_difference": ours[column] - printed[column]}
            rows.append(row | {name: ours[name] for name in ("mAP50_low", "mAP50_high")})
    if n == 3 and method == "l1-unstructured":  # the control: as many zeros as by type, spread evenly
        ours = control(e)
        row = {name: ours[name] for name in ("conv", "c3", "sppf", "sparsity", "mAP50", "mAP50_95")}
        rows.append(row | {"reading": "own (control)"} | {name: ours[name] for name in ("mAP50_low", "mAP50_high")})
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
    """Every sweep point: method, what it was asked of, ratio asked, sparsity achieved, mAP on test.

    Means over training seeds, with the standard deviation between them where there are several; `seed` is of random pruning.
    """
    scopes = {names: scope for scope, names in SCOPES.items()}
    rows = []
    for method in ("l1-unstructured", "l1-structured", "l1-global", "random-unstructured", "random-structured"):
        for found in zip(*(e.sweep(method, seed) for seed in e.study.seeds), strict=True):
            row = found[0]
            ratio = max(row[name] for name in ("conv", "c3", "sppf", "detect"))
            asked = tuple(name for name in ("conv", "c3", "sppf", "detect") if row[name] == ratio)
            out = {"method": method, "modules": scopes[asked], "seed": row["seed"], "ratio": ratio}
            out |= {name: np.mean([row[name] for row in found]) for name in ("sparsity", "mAP50", "mAP50_95")}
            rows.append(out | ({"mAP50_sd": np.std([row["mAP50"] for row in found], ddof=1)} if len(found) > 1 else {}))
    return pd.DataFrame(rows)


def sensitivity_table(e: Evidence) -> pd.DataFrame:
    """What pruning half of one convolution's weights costs, layer by layer, on val; means over training seeds."""
    columns = ["layer", "module", "weights", "ratio", "sparsity", "mAP50", "mAP50_95", "mAP50_lost"]
    table = pd.concat([pd.DataFrame(e.sensitivity(seed))[columns] for seed in e.study.seeds])
    table = table.groupby(columns[:4], sort=False, as_index=False).mean()
    return table.sort_values("mAP50_lost", ascending=False, kind="stable", ignore_index=True)


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


def trained_zeros_table(e: Evidence) -> pd.DataFrame:
    """n made smaller while it trains, all from the same dense n and for as many steps: zeros by magnitude or at random, and
    channels really removed. `kept_pct`: of the mAP50-95 of the dense control with the same seeds, with the interval; NaN if
    that is 0."""
    variants = [(share, "global", 0.0) for share in e.study.sparsities]
    variants += [(e.control_sparsity(), allocation, 0.0) for allocation in ("layer", "random")]
    variants += [(0.0, "global", removed) for removed in e.removed]
    rows, control = [], _shrunk_scores(e, 0.0)
    for sparsity, allocation, removed in variants:
        found = _shrunk_scores(e, sparsity, allocation, removed)
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = interval(100 * found["mAP50_95_resampled"] / control["mAP50_95_resampled"])
            kept = 100 * np.float64(found["mAP50_95"]) / control["mAP50_95"]
        how = ALLOCATIONS[allocation] if sparsity else f"{removed:.0%} of channels removed" if removed else "dense"
        row = {"n": how, "sparsity_of_weights": sparsity, "seeds": len(e.study.seeds)}
        row |= {name: found[name] for name in ("mAP50", "mAP50_low", "mAP50_high", "mAP50_95")}
        row |= {"kept_pct": kept, "kept_low_pct": low, "kept_high_pct": high}
        rows.append(row)
    return pd.DataFrame(rows)


ALLOCATIONS = {
    "global": "zeros: the smallest of all weights",
    "layer": "zeros: the smallest of each layer",
    "random": "zeros: at random in each layer",
}


def _shrunk_scores(e: Evidence, sparsity: float, allocation: str = "global", removed: float = 0.0) -> dict:
    return _over_seeds([e.shrunk(sparsity, allocation, removed, seed).metrics["test"] for seed in e.study.seeds])


def narrowing_table(e: Evidence) -> pd.DataFrame:
    """Channels really removed from n, untrained: parameters and time in PyTorch, over those of the whole n. `for_time`: the
    given times (`narrowed_to`) that a share comes nearest to; those are trained. The second row is the A/A control."""
    table = pd.DataFrame(e.narrowing_times())
    table["network"] = [f"n, {share:.0%} of channels removed" if share else "n" for share in table["removed"]]
    again = table["label"].str.contains("again")
    table.loc[again, "network"] = "n (again)"
    table = table.sort_values("removed", kind="stable")
    given = e.shares_for_times.items()
    table["for_time"] = [
        ", ".join(f"{time:g}" for time, nearest in given if nearest == share) for share in table["removed"]
    ]
    return table[["network", "parameters", "latency_ms", "ratio", "ratio_low", "ratio_high", "for_time"]]


def atlas_table(e: Evidence) -> pd.DataFrame:
    """Every different convolution of s, n and p at many sparsities: the engine's time over dense PyTorch's; "dense again" is
    the A/A control."""
    table = pd.DataFrame(e.atlas())
    table["models"] = [", ".join(f"{n} x {model}" for model, n in counts.items()) for counts in table["counts"]]
    columns = ["kernel", "stride", "c1", "c2", "side", "models", "sparsity", "path", "dense_ms", "sparse_ms"]
    return table[[*columns, "ratio", "ratio_low", "ratio_high"]]


def break_even_table(e: Evidence) -> pd.DataFrame:
    """The atlas in short: for each kind of convolution and sparsity, how many shapes gain, and the median speed-up."""
    table = atlas_table(e).dropna(subset="sparsity")
    table["kind"] = table["kernel"].map("{0}x{0}".format) + table["stride"].map({1: "", 2: ", stride 2"})
    table = table.assign(faster=table["ratio_high"] < 1, speed_up=1 / table["ratio"])
    grouped = table.groupby(["kind", "sparsity"], sort=True)
    return grouped.agg(
        shapes=("faster", "size"),
        shapes_faster=("faster", "sum"),
        median_speed_up=("speed_up", "median"),
        best_speed_up=("speed_up", "max"),
    ).reset_index()


def uniform_table(e: Evidence) -> pd.DataFrame:
    """Whole networks with zeros spread evenly, random weights: the engine against PyTorch's dense n, and how much of its time
    the atlas predicts from the layers alone (the rest: pooling, copies, decoding, waiting)."""
    rows = []
    for imgsz in e.uniform_sizes:
        timing = _by_label(e.uniform_times(imgsz))
        for (model, runtime, sparsity), name in e.uniform_labels().items():
            row = timing[name]
            predicted = None
            if runtime == "sparse" and imgsz == e.study.imgsz:
                predicted = _predicted_ms(e, model, sparsity)
            dense = timing[e.uniform_labels()[model, "pytorch", 0.0]]["ratio"]
            rows.append(
                {"model": NAMES[model], "imgsz_px": imgsz, "runtime": RUNTIME_NAMES[runtime], "sparsity": sparsity}
                | {"latency_ms": row["latency_ms"], "layers_predicted_ms": predicted}
                | {name: row[name] for name in ("ratio", "ratio_low", "ratio_high")}
                | {"speed_up_over_own_dense": dense / row["ratio"]}
            )
    return pd.DataFrame(rows)


def _predicted_ms(e: Evidence, model: str, sparsity: float) -> float:
    rows = [r for r in e.atlas() if r["sparsity"] == sparsity]
    return sum(row["sparse_ms"] * row["counts"].get(model, 0) for row in rows)


def _by_label(rows: list[dict]) -> dict[str, dict]:
    """Timing rows by label; the row of the baseline is its A/A control."""
    return {row["label"].removesuffix(" (again)"): row for row in rows}


def roads_table(e: Evidence) -> pd.DataFrame:
    """Every way to make n faster: mAP on test in its own runtime and square frames (means over training seeds), time over
    that of dense n in PyTorch, size on disk as it is and compressed. `front`: no other is both faster and more accurate.
    What is trained on without zeros is the same network as n, and has its times."""
    timing = _by_label(e.road_times())
    scored = [e.road_scores(seed) for seed in e.study.seeds]
    rows = []
    for i, (label, (road, deployment)) in enumerate((e.roads() | e.road_controls()).items()):
        found = _over_seeds([per_seed[i] for per_seed in scored])
        timed = timing[f"n, {RUNTIME_NAMES[deployment.runtime]}" if road == "trained on" else label]
        row = {"what": label, "road": road, "seeds": len(scored)}
        row |= {name: found[name] for name in ("mAP50", "mAP50_95", "mAP50_95_low", "mAP50_95_high")}
        row |= {name: timed[name] for name in ("latency_ms", "ratio", "ratio_low", "ratio_high")}
        row |= {name: scored[0][i][name] for name in ("file_mb", "compressed_mb")}
        rows.append(row)
    table = pd.DataFrame(rows)
    table["front"] = [
        "yes" if not ((table["ratio"] < r.ratio) & (table["mAP50_95"] >= r.mAP50_95)).any() else ""
        for r in table.itertuples()
    ]
    return table


def audit_table(e: Evidence) -> pd.DataFrame:
    """Does the paper agree with itself? Its own figures recomputed."""
    return pd.DataFrame(audit.audit())


def claims_table(e: Evidence) -> pd.DataFrame:
    """Every checkable sentence of the paper: our estimate, its interval, the verdict."""
    from yolop.paper.claims import verdicts

    return pd.DataFrame(verdicts(e))


def _of_zeros(build: Callable[[Evidence], pd.DataFrame]) -> Callable[[Evidence], pd.DataFrame]:
    """A table that is empty where a study trains no zeros."""
    return lambda e: build(e) if e.trained_zeros else pd.DataFrame()


TABLES = {  # one that is empty for a study is no part of it
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
    "val-and-test": val_and_test_table,
    "parity": parity_table,
    "recipe-fits": lambda e: recipe.fits_table(e.recipe()),
    "recipe-nearest": lambda e: recipe.nearest_table(e.recipe()),
    "recipe-readings": lambda e: recipe.readings_table(e.recipe()),
    "recipe-chance": lambda e: recipe.chance_table(e.recipe()),
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
    "trained-zeros": _of_zeros(trained_zeros_table),
    "narrowing": lambda e: narrowing_table(e) if e.study.narrowed_to else pd.DataFrame(),
    "atlas": _of_zeros(atlas_table),
    "break-even": _of_zeros(break_even_table),
    "uniform-zeros": _of_zeros(uniform_table),
    "roads": _of_zeros(roads_table),
    "audit": audit_table,
    "claims": claims_table,
}


def _timing(rows: list[dict]) -> pd.DataFrame:
    columns = ["label", "latency_ms", "p90_ms", "fps", "ratio", "ratio_low", "ratio_high", "equivalent"]
    table = pd.DataFrame(rows)[columns].rename(columns={"label": "variant"})
    table["equivalent"] = table["equivalent"].map({True: "yes", False: "not shown"})
    table.loc[0, "equivalent"] = "baseline"
    return table


def scores(e: Evidence, label: str, split: str = "test") -> dict:
    """Scores of a model on a split: mean over training seeds, on bootstrap samples (`*_resampled`), with interval."""
    return _over_seeds([e.trained(label, seed).metrics[split] for seed in e.study.seeds])


def point(e: Evidence, method: str, reading: str = "own", **asked: float) -> dict:
    """One row of the sweep "figures", mean over training seeds."""
    wanted = {"method": method, "reading": reading, "conv": 0.0, "c3": 0.0, "sppf": 0.0, "detect": 0.0} | asked
    found = (e.sweep("figures", seed) for seed in e.study.seeds)
    return _over_seeds([next(r for r in rows if all(r[k] == v for k, v in wanted.items())) for rows in found])


def control(e: Evidence) -> dict:
    """The control of Figure 3, mean over training seeds."""
    return _over_seeds([e.control(seed) for seed in e.study.seeds])


def _over_seeds(found: list[dict]) -> dict:
    """Scores of the first with the means of all, and the 95 % intervals of these means.

    The bootstrap draws training seeds and images, the same for every model: differences of two are paired in both.
    """
    out = found[0] | {name: float(np.mean([f[name] for f in found])) for name in ("mAP50", "mAP50_95")}
    if "sparsity" in found[0]:
        out["sparsity"] = float(np.mean([f["sparsity"] for f in found]))
    for name in ("mAP50", "mAP50_95"):
        if f"{name}_resampled" in found[0]:
            drawn = np.array([f[f"{name}_resampled"] for f in found])
            if len(found) > 1:
                seeds = np.random.default_rng(0).integers(0, len(found), (SEED_DRAWS, len(found)))
                drawn = drawn[seeds, (np.arange(SEED_DRAWS) % drawn.shape[1])[:, None]].mean(axis=1)
            else:
                drawn = drawn[0]
            out |= {f"{name}_resampled": drawn} | dict(
                zip((f"{name}_low", f"{name}_high"), interval(drawn), strict=True)
            )
    return out


def difference(x: dict, y: dict) -> tuple[float, float, float]:
    """Points of mAP50 that one of `scores`, `point` or `control` has over another, with the 95 % interval, paired."""
    return 100 * (x["mAP50"] - y["mAP50"]), *interval(100 * (x["mAP50_resampled"] - y["mAP50_resampled"]))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
