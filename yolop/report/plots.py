"""The figures: functions from tables to `Drawn`, with one colour per model and units on every axis.

The columns that a function names are those of the reports' tables; `label` is a key of `yolop.study.names.NAMES`, `role` one of
"baseline", "variant" and "control". seaborn draws what is a statistic of a long table: the mean, and a band from the lowest
to the highest seed. Intervals that a table has are drawn as they are.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from yolop.report.diagrams import architecture, pictures, recipe  # noqa: F401 (so that all figures are found here)
from yolop.report.drawn import BESIDE, DARK, GREY, MODELS, MODULES, canvas, figure, intervals, plain_log
from yolop.report.scores import Score
from yolop.study.names import NAMES, RUNTIME_NAMES, ZEROS

OVER_SEEDS = {"errorbar": ("pi", 100), "err_kws": {"alpha": 0.18, "lw": 0}, "lw": 1.3}
DOTS = {"marker": "o", "ms": 4, "mew": 0}
METHODS = {  # name, colour, dashes
    "l1-unstructured": ("L1 unstructured", "#1f77b4", ""),
    "l1-global": ("L1 global", "#1b9e77", ""),
    "random-unstructured": ("random unstructured", "#1f77b4", (1, 1.5)),
    "l1-structured": ("L1 structured", "#d95f02", ""),
    "random-structured": ("random structured", "#d95f02", (1, 1.5)),
}
SCOPES = {"all": "#222222", "all + Detect": GREY} | {kind: MODULES[kind] for kind in ("Conv", "C3", "SPPF", "Detect")}
GROUPS = {  # of configurations: what makes n faster
    "none": ("nothing (dense n in PyTorch)", "#222222"),
    "p": ("a smaller model, p (best.pt)", MODELS["p-best"]),
    "channels": ("channels removed", "#a6761d"),
    "sparse": ("sparse engine, with or without zeros", "#d95f02"),
    "zeros elsewhere": ("trained zeros in other runtimes", GREY),
    "runtime": ("another runtime", "#1f77b4"),
    "fine-tuned": ("dense n, fine-tuned for as long", "#17becf"),
    "resolution": ("smaller images", "#e7298a"),
}
MARKERS = dict(zip(RUNTIME_NAMES.values(), ("o", "s", "^", "D", "v", "P", "X"), strict=True))
SHAPE = ["kernel", "stride", "side", "c1", "c2"]  # of a convolution
GRID_MARKS = {"n": (0.33, 0.25, (18, -28)), "p": (0.16, 0.20, (-34, 22))}  # depth, width, place of the letter; p's default


@figure("parameters-by-layer")
def parameters_by_layer(layers: pd.DataFrame) -> Figure:
    """Where the parameters and FLOPs of n and p are. Columns: layer, module, parameters_n, parameters_p, gflops_n, gflops_p."""
    plot, [[upper], [lower]] = canvas(4.6, rows=2, sharex=True)
    for shift, label in ((-0.2, "n"), (0.2, "p")):
        style = {"width": 0.4, "color": MODELS[label], "label": NAMES[label]}
        upper.bar(layers["layer"] + shift, layers[f"parameters_{label}"] / 1000, **style)
        lower.bar(layers["layer"] + shift, layers[f"gflops_{label}"], **style)
    for ax, unit in ((upper, "parameters (thousands)"), (lower, "GFLOPs")):
        ax.set_ylabel(unit)
        ax.grid(axis="x", visible=False)
    upper.legend()
    lower.set_xticks(layers["layer"], layers["layer"].astype(str) + " " + layers["module"], rotation=90)
    lower.set_xlabel("layer")
    return plot


@figure("scaling-grid")
def scaling_grid(grid: pd.DataFrame) -> Figure:
    """Time against parameters over depth and width; n and p are marked.

    Columns: depth_multiple, width_multiple, parameters, ratio_to_n, ratio_low, ratio_high.
    """
    plot, [[ax]] = canvas(4)
    grid = grid.assign(millions=grid["parameters"] / 1e6)
    style = {"hue": "depth_multiple", "palette": "crest", "legend": "full", "lw": 1} | DOTS
    sns.lineplot(grid, x="millions", y="ratio_to_n", **style, ax=ax)
    intervals(ax, grid["millions"], grid["ratio_to_n"], grid["ratio_low"], grid["ratio_high"], fmt="none", ecolor=GREY, zorder=1)
    for label, (depth, width, place) in GRID_MARKS.items():
        row = grid[(grid["depth_multiple"] == depth) & (grid["width_multiple"] == width)].squeeze()
        style = {"color": MODELS[label], "fontweight": "bold", "textcoords": "offset points", "arrowprops": {"arrowstyle": "-"}}
        ax.annotate(label, (row["millions"], row["ratio_to_n"]), xytext=place, **style)
    ax.axhline(1, color=GREY, lw=0.8)
    plain_log(ax, "x")
    ax.set(xlabel="parameters (millions)", ylabel="inference time / that of n")
    ax.legend(title="depth multiple", **BESIDE)
    return plot


@figure("accuracy-and-time")
def accuracy_and_time(figure_2: pd.DataFrame) -> Figure:
    """The paper's Figure 2 as a picture: mAP50 against time relative to n, ours with intervals, the paper's hollow.

    Columns: label, mAP50, mAP50_low, mAP50_high, mAP50_paper, ratio_to_n, ratio_low_to_n, ratio_high_to_n, latency_ms_paper.
    """
    plot, [[ax]] = canvas(4)
    dense = figure_2.loc[figure_2["label"] == "n", "latency_ms_paper"].item()
    hollow = {"marker": "o", "ms": 9, "mfc": "none", "mew": 1.5, "ls": "none"}
    for row in figure_2.itertuples():
        at, style = ([row.ratio_to_n], [row.mAP50]), {"color": MODELS[row.label], "capsize": 3}
        intervals(ax, *at, [row.ratio_low_to_n], [row.ratio_high_to_n], across="x", **style)
        intervals(ax, *at, [row.mAP50_low], [row.mAP50_high], label=NAMES[row.label], **style)
        ax.plot(row.latency_ms_paper / dense, row.mAP50_paper, color=MODELS[row.label], **hollow)
    ax.plot([], [], color=DARK, label="the paper's", **hollow)
    ax.set(xlabel="inference time / that of n", ylabel="mAP50 (test)")
    ax.legend(**BESIDE)
    return plot


@figure("learning-curves")
def learning_curves(curves: pd.DataFrame) -> Figure:
    """Training loss and mAP50 on val against steps. Columns: label, steps, loss, mAP50; a row per training, seed and epoch."""
    plot, [[left, right]] = canvas(3.8, columns=2)
    labels = curves["label"].unique()
    hue = {"hue": curves["label"].map(NAMES), "palette": {NAMES[label]: MODELS[label] for label in labels}}
    sns.lineplot(curves, x="steps", y="loss", **hue, **OVER_SEEDS, legend=False, ax=left)
    sns.lineplot(curves, x="steps", y="mAP50", **hue, **OVER_SEEDS, **DOTS, ax=right)
    left.set(xlabel="steps (batches)", ylabel="training loss (box + obj + cls)", ylim=(0, None))
    right.set(xlabel="steps (batches)", ylabel="mAP50 (val; corpus: its own val)", ylim=(0, 1))
    right.legend(**BESIDE)
    return plot


@figure("pretraining")
def pretraining(pretraining: pd.DataFrame) -> Figure:
    """What each starting point gives: mAP50 over p from scratch. Columns: label, mAP50_gain, gain_low, gain_high."""
    rows = pretraining[pretraining["label"] != "p"]
    points = 100 * rows[["mAP50_gain", "gain_low", "gain_high"]]
    plot = _forest(points, rows["label"].map(NAMES), rows["label"].map(MODELS), centre=0)
    plot.axes[0].set_xlabel("mAP50 over p from scratch (points, test, 95 % interval)")
    return plot


@figure("sweeps")
def sweeps(points: pd.DataFrame, dense: Score | float) -> Figure:
    """mAP50 against sparsity achieved (mean of the seeds), all modules at one ratio; `dense` is the unpruned mAP50.

    Columns: method, modules, ratio, sparsity, mAP50; a row per point, seed of random pruning and training seed.
    """
    plot, [[ax]] = canvas(4.2)
    points = points[points["modules"] == "all"]
    sparsity = points.groupby(["method", "ratio"])["sparsity"].transform("mean")
    names = points["method"].map({method: name for method, (name, _, _) in METHODS.items()})
    style = {"palette": {name: colour for name, colour, _ in METHODS.values()}} | DOTS | OVER_SEEDS
    style |= {"dashes": {name: dashes for name, _, dashes in METHODS.values()}}
    sns.lineplot(points, x=sparsity, y="mAP50", hue=names, style=names, **style, ax=ax)
    dense = getattr(dense, "mAP50", dense)
    ax.axhline(dense, color=GREY, lw=0.8)
    ax.text(1, dense, "unpruned", ha="right", va="bottom", color=DARK)
    xlabel = "sparsity achieved (share of all parameters that are zero)"
    ax.set(xlabel=xlabel, ylabel="mAP50 (test)", xlim=(0, 1), ylim=(0, None))
    ax.legend(**BESIDE)
    return plot


@figure("sweeps-by-module")
def sweeps_by_module(points: pd.DataFrame) -> Figure:
    """One kind of module pruned at a time, by L1: mAP50 against the ratio asked of it.

    Columns: method, modules, ratio, mAP50; a row per point and training seed.
    """
    points = points[points["method"].isin(["l1-unstructured", "l1-structured"])]
    plot, [axes] = canvas(3.8, columns=points["method"].nunique(), sharey=True)
    style = {"hue": "modules", "style": "modules", "palette": SCOPES} | DOTS | OVER_SEEDS
    style |= {"dashes": dict.fromkeys(SCOPES, "") | {"all + Detect": (3, 2)}}
    for ax, (method, part) in zip(axes, points.groupby("method", sort=False), strict=True):
        sns.lineplot(part, x="ratio", y="mAP50", **style, legend=ax is axes[-1] and "full", ax=ax)
        ax.set(xlabel="ratio asked of these modules", title=METHODS[method][0], xlim=(0, 1), ylim=(0, None))
    axes[0].set_ylabel("mAP50 (test)")
    axes[-1].legend(title="pruned", **BESIDE)
    return plot


@figure("sensitivity")
def sensitivity(layers: pd.DataFrame) -> Figure:
    """mAP50 lost on val when one convolution is pruned, in the order of the network. Columns: layer, module, mAP50_lost."""
    plot, [[ax]] = canvas(3.6)
    layers = layers.assign(number=layers["layer"].str.split(".").str[1].astype(int))  # of "model.2.cv1.conv"
    layers = layers.sort_values(["number", "layer"], ignore_index=True)
    for module, part in layers.groupby("module", sort=False):
        ax.vlines(part.index, 0, 100 * part["mAP50_lost"], color=MODULES[module], lw=1)
        ax.plot(part.index, 100 * part["mAP50_lost"], "o", ms=4, color=MODULES[module], label=module)
    firsts = layers.drop_duplicates("number")
    ax.set_xticks(firsts.index, firsts["number"].astype(str) + " " + firsts["module"], rotation=90, fontsize=8)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set(xlabel="convolution, by layer of the network", ylabel="mAP50 lost (points, val)")
    ax.legend(**BESIDE)
    return plot


@figure("latency-pruned")
def latency_pruned(rows: pd.DataFrame) -> Figure:
    """Time of pruned p over dense p. Columns: role, variant, ratio, ratio_low, ratio_high; the baseline is not drawn."""
    rows = rows[rows["role"] != "baseline"]
    control = rows["role"] == "control"
    names, colours = rows["variant"].mask(control, "A/A control: dense again"), control.map({True: GREY, False: MODELS["p-best"]})
    plot = _forest(rows[["ratio", "ratio_low", "ratio_high"]], names, colours, centre=1)
    plot.axes[0].axvspan(0.98, 1.02, color="#eeeeee", lw=0)
    plot.axes[0].set_xlabel("inference time / that of dense p (95 % interval; grey band: within 2 %)")
    return plot


@figure("sparse-tensors")
def sparse_tensors(rows: pd.DataFrame) -> Figure:
    """Each layer of p as a sparse matrix product (thin) and their median: time over the dense convolution, against sparsity.

    Columns: layout, path, kernel, stride, side, c1, c2, sparsity, ratio.
    """
    plot, [axes] = canvas(3.8, columns=rows["layout"].nunique(), sharey=True)
    paths = {"matrix product": MODULES["Conv"], "unfold, then matrix product": MODULES["C3"]}
    rows = rows.assign(shape=rows.groupby(SHAPE).ngroup())
    style = {"x": "sparsity", "y": "ratio", "hue": "path", "palette": paths, "legend": False}
    for ax, (layout, part) in zip(axes, rows.groupby("layout", sort=False), strict=True):
        sns.lineplot(part, **style, units="shape", estimator=None, lw=0.6, alpha=0.5, ax=ax)
        sns.lineplot(part, **style, estimator="median", errorbar=None, lw=2.4, ax=ax)
        ax.axhline(1, color="#333333", lw=1)
        plain_log(ax, "y")
        ax.set(xlabel="sparsity of the layer's weights", title=f"torch.sparse, {layout}")
    for size, (path, colour) in zip(("1x1 kernels", "larger kernels"), paths.items(), strict=True):
        axes[0].plot([], [], color=colour, lw=2.4, label=f"{size}: {path} (median)")
    axes[0].set_ylabel("time / faster dense way (below 1: sparse wins)")
    plot.legend(loc="outside lower center", ncol=2)
    return plot


@figure("trained-zeros")
def trained_zeros(rows: pd.DataFrame) -> Figure:
    """mAP50-95 of n with trained zeros, in % of the dense control, by how the zeros are chosen.

    Columns: sparsity_of_weights (0..1), allocation, channels_removed (only rows of 0 are drawn), kept_pct, kept_low_pct,
    kept_high_pct. The dense control, without zeros, begins the line of "global".
    """
    plot, [[ax]] = canvas(3.8)
    rows = rows[rows["channels_removed"] == 0]
    allocation = rows["allocation"].mask(rows["sparsity_of_weights"] == 0, "global")
    for name, colour, marker in (("global", "#1b9e77", "o-"), ("layer", "#1f77b4", "s"), ("random", GREY, "X")):
        part = rows[allocation == name].sort_values("sparsity_of_weights")
        x, style = 100 * part["sparsity_of_weights"], {"fmt": marker, "color": colour, "capsize": 3, "label": ZEROS[name]}
        intervals(ax, x, part["kept_pct"], part["kept_low_pct"], part["kept_high_pct"], **style)
    ax.axhline(100, color=GREY, lw=0.8)
    xlabel = "zeros among the weights of all convolutions (%)"
    ax.set(xlabel=xlabel, ylabel="mAP50-95 kept (% of the dense control, test)")
    ax.legend(**BESIDE)
    return plot


@figure("atlas")
def atlas(rows: pd.DataFrame) -> Figure:
    """Heat maps: speed-up of every convolution shape by its zeros; a dot where the interval reaches across 1.

    Columns: kernel, stride, c1, c2, side, sparsity (controls have none and are not drawn), ratio, ratio_low, ratio_high.
    """
    rows = rows.dropna(subset="sparsity").sort_values(SHAPE, ascending=[True, True, False, True, True])
    parts = [part for _, part in rows.groupby(rows["kernel"] > 1)]
    plot, [axes] = canvas(1.5 + 0.155 * max(len(part[SHAPE].drop_duplicates()) for part in parts), columns=len(parts))
    for ax, part in zip(axes, parts, strict=True):
        kernels = part["kernel"].map("{0}x{0}".format) + part["stride"].map({1: "", 2: " /2"})
        shapes = kernels + part["c1"].map("  {} > ".format) + part["c2"].astype(str) + part["side"].map("  {} px".format)
        part = part.assign(shape=pd.Categorical(shapes, shapes.unique()), speed_up=-np.log2(part["ratio"]))
        part["unclear"] = (part["ratio_low"] < 1) & (part["ratio_high"] > 1)
        cells, unclear = (part.pivot(index="shape", columns="sparsity", values=name) for name in ("speed_up", "unclear"))
        ticks = {"xticklabels": [f"{100 * share:g}" for share in cells], "yticklabels": cells.index}
        sns.heatmap(cells, vmin=-3, vmax=3, cmap="RdBu", cbar=False, **ticks, ax=ax)
        y, x = np.nonzero(unclear.to_numpy(dtype=bool))
        ax.plot(x + 0.5, y + 0.5, ".", color=DARK, ms=3)
        ax.tick_params("y", labelsize=7, length=0)
        ax.tick_params("x", rotation=0)
        ax.set(xlabel="zeros among the layer's weights (%)", ylabel="")
    bar = plot.colorbar(axes[0].collections[0], ax=axes, ticks=range(-3, 4), aspect=50, pad=0.01)
    bar.ax.set_yticklabels([f"{2.0**i:g}x" for i in range(-3, 4)])
    bar.set_label("speed-up over dense PyTorch (blue: the engine is faster; dot: the interval reaches across 1)")
    plot.suptitle("rows: kernel (/2: stride 2), channels in > out, side of the map that goes in", fontsize=9)
    return plot


@figure("uniform-zeros")
def uniform_zeros(rows: pd.DataFrame) -> Figure:
    """Whole networks: time over that of dense n in PyTorch against evenly spread zeros, one panel per image size.

    Columns: label, imgsz_px, runtime, sparsity (0..1), latency_ms, layers_predicted_ms, ratio, ratio_low, ratio_high.
    """
    sizes = sorted(rows["imgsz_px"].unique())
    plot, [axes] = canvas(3.8, columns=len(sizes), sharey=True)
    predicted = rows["layers_predicted_ms"].astype(float) / rows["latency_ms"] * rows["ratio"]
    rows = rows.assign(runtime=rows["runtime"].replace(RUNTIME_NAMES), zeros=100 * rows["sparsity"], predicted=predicted)
    sparse, dense = (rows[rows["runtime"] == RUNTIME_NAMES[runtime]] for runtime in ("sparse", "pytorch"))
    style = {"x": "zeros", "hue": "label", "palette": MODELS, "errorbar": None, "legend": False}
    for ax, size in zip(axes, sizes, strict=True):
        part = sparse[sparse["imgsz_px"] == size]
        sns.lineplot(part, y="ratio", lw=1.2, **style, ax=ax)
        sns.lineplot(part, y="predicted", ls="--", lw=0.9, **style, ax=ax)
        for label, own in part.groupby("label"):
            intervals(ax, own["zeros"], own["ratio"], own["ratio_low"], own["ratio_high"], color=MODELS[label])
        for row in dense[dense["imgsz_px"] == size].itertuples():
            ax.axhline(row.ratio, color=MODELS[row.label], lw=0.9, ls=":")
        ax.set(xlabel="zeros in every layer (%)", title=f"{size} px", ylim=(0, None), xticks=part["zeros"].unique())
    for label in sparse["label"].unique():
        axes[0].plot([], [], "o-", ms=5, color=MODELS[label], label=f"{NAMES[label]}, sparse engine")
    axes[0].plot([], [], "--", color=DARK, lw=0.9, label="its layers alone, from the atlas")
    axes[0].plot([], [], ":", color=DARK, lw=0.9, label="dense, in PyTorch")
    axes[0].set_ylabel("inference time / that of dense n in PyTorch")
    plot.legend(loc="outside lower center", ncol=4)
    return plot


@figure("configurations")
def configurations(rows: pd.DataFrame) -> Figure:
    """Accuracy against time for every way to make n faster; a line joins those that no other beats in both, numbered.

    Columns: what, group, runtime, mAP50_95, mAP50_95_low, mAP50_95_high, ratio, ratio_low, ratio_high, front (bool).
    """
    plot, [[ax]] = canvas(5.2)
    at, pale = (rows["ratio"], rows["mAP50_95"]), {"fmt": "none", "color": "#cccccc", "lw": 0.7, "zorder": 1}
    intervals(ax, *at, rows["mAP50_95_low"], rows["mAP50_95_high"], **pale)
    intervals(ax, *at, rows["ratio_low"], rows["ratio_high"], across="x", **pale)
    groups = rows["group"].map({group: name for group, (name, _) in GROUPS.items()}).rename("faster by")
    runtimes = rows["runtime"].replace(RUNTIME_NAMES)
    style = {"hue": groups, "style": runtimes, "palette": dict(GROUPS.values()), "markers": MARKERS, "s": 42}
    sns.scatterplot(rows, x="ratio", y="mAP50_95", **style, ax=ax)
    front = rows[rows["front"].astype(bool)].sort_values("ratio", ignore_index=True)
    ax.plot(front["ratio"], front["mAP50_95"], color=DARK, lw=0.9, zorder=1)
    for i, row in front.iterrows():
        place = (6, -10) if i % 2 else (-9, 5)  # neighbours on the line may lie close together
        style = {"textcoords": "offset points", "fontsize": 8, "fontweight": "bold"}
        ax.annotate(f"{i + 1}", (row["ratio"], row["mAP50_95"]), xytext=place, **style)
    names = "\n".join(f"{i + 1}  {what}" for i, what in front["what"].items())
    ax.text(1.03, 0, names, transform=ax.transAxes, fontsize=8, va="bottom")
    plain_log(ax, "x")
    ax.set(xlabel="inference time / that of dense n in PyTorch", ylabel="mAP50-95 (test, own runtime)")
    ax.legend(fontsize=8, **BESIDE)
    return plot


def _forest(rows: pd.DataFrame, names: pd.Series, colours: pd.Series, centre: float) -> Figure:
    """Values with their intervals (the columns of `rows`), a named line each, the first on top; a line at `centre`."""
    plot, [[ax]] = canvas(0.8 + 0.32 * len(rows))
    for y, (values, colour) in enumerate(zip(rows.to_numpy(), colours, strict=True)):
        value, low, high = values[:, None]
        intervals(ax, value, [y], low, high, across="x", color=colour, lw=2)
    ax.axvline(centre, color=GREY, lw=0.8)
    ax.set_yticks(range(len(rows)), names)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    return plot
