"""The figures: functions from tables to `Drawn`. One meaning for each colour, names at points and lines, units on every axis.

The columns that a function names are those of the reports' tables; `label` is a key of `yolop.study.names.NAMES`, `role` one of
"baseline", "variant" and "control". seaborn draws what is a statistic of a long table: the mean, and a band from the lowest
to the highest seed. Intervals that a table has are drawn as they are. The first line of a docstring is the figure's caption.
"""

from __future__ import annotations

from textwrap import fill

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from yolop.paper import audit
from yolop.report.diagrams import architecture, labelled, pictures, recipe  # noqa: F401 (so that all figures are found here)
from yolop.report.drawn import (
    BESIDE,
    DARK,
    GREY,
    MODELS,
    MODULES,
    PAPER,
    canvas,
    colour,
    figure,
    intervals,
    label_points,
    plain_log,
    readable,
    short,
)  # fmt: skip
from yolop.report.scores import Score
from yolop.report.speed_plots import atlas, atlas_by_shape, configurations, sparse_tensors, trained_zeros, uniform_zeros  # noqa: F401

OVER_SEEDS = {"errorbar": ("pi", 100), "err_kws": {"alpha": 0.18, "lw": 0}, "lw": 1.4}
DOTS = {"marker": "o", "ms": 4, "mew": 0}
METHODS = {  # name, colour, dashes
    "l1-unstructured": ("smallest weights of each layer", MODELS["p-best"], ""),
    "l1-global": ("smallest weights of all", MODELS["p-best"], (4, 1.5)),
    "random-unstructured": ("random weights", GREY, (1, 1.5)),
    "l1-structured": ("smallest filters of each layer", MODELS["p-best"], ""),
    "random-structured": ("random filters", GREY, (1, 1.5)),
}
TITLES = {"unstructured": "single weights (paper's Figure 4)", "structured": "whole filters (paper's Figure 5)"}
SCOPES = {"all": DARK, "all + Detect": GREY} | {kind: MODULES[kind] for kind in ("Conv", "C3", "SPPF", "Detect")}
GRID_MARKS = {"n": (0.33, 0.25), "p": (0.16, 0.20)}  # depth, width; p's default


@figure("parameters-by-layer")
def parameters_by_layer(layers: pd.DataFrame) -> Figure:
    """Where the parameters and the FLOPs (at the study's image size) of n and p are, layer by layer.

    Columns: layer, module, parameters_n, parameters_p, gflops_n, gflops_p.
    """
    plot, [[upper], [lower]] = canvas(4.6, rows=2, sharex=True)
    for shift, label in ((-0.2, "n"), (0.2, "p")):
        style = {"width": 0.4, "color": MODELS[label], "label": label}
        upper.bar(layers["layer"] + shift, layers[f"parameters_{label}"] / 1000, **style)
        lower.bar(layers["layer"] + shift, layers[f"gflops_{label}"], **style)
    for ax, unit in ((upper, "parameters (thousands)"), (lower, "GFLOPs")):
        ax.set_ylabel(unit)
        ax.grid(axis="x", visible=False)
    upper.legend(loc="upper left")
    lower.set_xticks(layers["layer"], layers["layer"].astype(str) + " " + layers["module"], rotation=90)
    lower.set_xlabel("layer")
    return plot


@figure("scaling-grid")
def scaling_grid(grid: pd.DataFrame) -> Figure:
    """What width and depth cost in time: inference time over that of n's shape, with 95 % intervals; random weights.

    Columns: depth_multiple, width_multiple, parameters, ratio_to_n, ratio_low, ratio_high.
    """
    plot, [[ax]] = canvas(3.8)
    greys = sns.color_palette("Greys", 10)[3 :: 6 // max(grid["depth_multiple"].nunique() - 1, 1)]  # the palest could not be seen
    style = {"hue": grid["depth_multiple"].map("{:g}".format), "palette": greys, "lw": 1.2, "marker": None}
    sns.lineplot(grid, x="width_multiple", y="ratio_to_n", **style, ax=ax)
    at = grid["width_multiple"], grid["ratio_to_n"]
    intervals(ax, *at, grid["ratio_low"], grid["ratio_high"], fmt="none", ecolor=GREY, zorder=1)
    names = []
    for label, (depth, width) in GRID_MARKS.items():
        row = grid[(grid["depth_multiple"] == depth) & (grid["width_multiple"] == width)].squeeze()
        ax.plot(width, row["ratio_to_n"], "o", ms=8, color=MODELS[label])
        text = f"{label}: depth {depth:g}, width {width:g}, {row['parameters'] / 1e6:.2f} million parameters"
        names.append((width, row["ratio_to_n"], text, MODELS[label]))
    ax.axhline(1, color=GREY, lw=0.8)
    label_points(ax, names)
    ax.set(xlabel="width multiple (channels)", ylabel="inference time / that of n")
    ax.legend(title="depth multiple")
    return plot


@figure("accuracy-and-time")
def accuracy_and_time(figure_2: pd.DataFrame) -> Figure:
    """The paper's Figure 2 as a picture: from n to the smaller p, and to p with custom pretraining; paper beside ours.

    Columns: label, mAP50, mAP50_low, mAP50_high, mAP50_paper, ratio_to_n, ratio_low_to_n, ratio_high_to_n, latency_ms_paper.
    """
    plot, [axes] = canvas(3.9, columns=2, sharex=True)
    rows = figure_2.set_index("label", drop=False)
    printed = rows["latency_ms_paper"] / rows.loc["n", "latency_ms_paper"]
    sides = ((rows["mAP50_paper"], printed, "the paper"), (rows["mAP50"], rows["ratio_to_n"], "this study, 95 % intervals"))
    for ax, (accuracy, time, title) in zip(axes, sides, strict=True):
        ours = ax is axes[1]
        for row in rows.itertuples():
            at, ink = ([time[row.label]], [accuracy[row.label]]), {"color": MODELS[row.label], "ms": 7}
            if ours:
                intervals(ax, *at, [row.ratio_low_to_n], [row.ratio_high_to_n], across="x", **ink)
                intervals(ax, *at, [row.mAP50_low], [row.mAP50_high], **ink)
            else:
                ax.plot(*at, **PAPER | ink | {"mec": MODELS[row.label]}, ls="none")
        path = [label for label in ("n", "p", "p-best") if label in rows.index]
        for start, end in zip(path, path[1:], strict=False):
            ends = {"xytext": (time[start], accuracy[start]), "xy": (time[end], accuracy[end])}
            ax.annotate("", **ends, arrowprops={"arrowstyle": "-|>", "color": DARK, "shrinkA": 6, "shrinkB": 6})
        ax.set(xlabel="inference time / that of n", ylabel="mAP50" + " (test)" * ours, title=title)
        ax.margins(0.25, 0.12)
    if "s" in rows.index:  # it takes more than twice as long as n
        plain_log(axes[0], "x", (1, 1.5, 2, 3, 5, 7))
    for ax, (accuracy, time, _) in zip(axes, sides, strict=True):
        label_points(ax, [(time[label], accuracy[label], short(label), MODELS[label]) for label in rows.index])
    return plot


@figure("learning-curves")
def learning_curves(curves: pd.DataFrame) -> Figure:
    """Accuracy on the val split while training: mean and range over the training seeds, each model among all others (grey).

    Columns: label, steps, mAP50; a row per training, seed and epoch. Only trainings on the data set itself can be compared.
    """
    curves, labels = curves.dropna(subset="mAP50"), list(curves["label"].unique())
    wide = min(len(labels), 3)
    tall = -(-len(labels) // wide)
    plot, axes = canvas(0.6 + 1.6 * tall, rows=tall, columns=wide, sharex=True, sharey=True)
    for ax in axes.flat[len(labels) :]:
        ax.set_visible(False)
    means = curves.groupby(["label", "steps"])["mAP50"].mean()
    for label, ax in zip(labels, axes.flat, strict=False):
        for other in labels:
            ax.plot(means[other].index, means[other], color="#cccccc", lw=0.7, zorder=1)
        part = curves[curves["label"] == label]
        sns.lineplot(part, x="steps", y="mAP50", color=colour(label), **OVER_SEEDS, ax=ax)
        ax.set_title(fill(short(label), 20), fontsize=9, color=readable(colour(label)))
        ax.set(xlabel="", ylabel="", ylim=(0, 1))
    plot.supxlabel("training steps (batches)", fontsize=9.5)
    plot.supylabel("mAP50 (val)", fontsize=9.5)
    return plot


@figure("pretraining")
def pretraining(pretraining: pd.DataFrame) -> Figure:
    """What each starting point is worth: mAP50 over p from scratch, test, with 95 % intervals.

    Columns: label, mAP50_gain, gain_low, gain_high.
    """
    rows = pretraining[pretraining["label"] != "p"].sort_values("mAP50_gain", ascending=False)
    points = 100 * rows[["mAP50_gain", "gain_low", "gain_high"]]
    plot = _forest(points, rows["label"].map(short), rows["label"].map(colour), centre=0, form="{:+.1f} ({:+.1f} to {:+.1f})")
    plot.axes[0].set_xlabel("mAP50 over p from scratch (points)")
    return plot


@figure("sweeps")
def sweeps(points: pd.DataFrame, dense: Score | float) -> Figure:
    """How much of mAP50 pruning without retraining keeps, by sparsity achieved, all modules at one ratio; band: seeds.

    Columns: method, modules, ratio, sparsity, mAP50; a row per point, seed of random pruning and training seed. `dense`: unpruned
    mAP50. Hollow: the paper's Figures 4 and 5 over its own unpruned network, and the range that they cover.
    """
    plot, [axes] = canvas(3.9, columns=2, sharex=True, sharey=True)
    points = points[points["modules"] == "all"]
    sparsity = points.groupby(["method", "ratio"])["sparsity"].transform("mean")
    points = points.assign(at=sparsity, kept=100 * points["mAP50"] / getattr(dense, "mAP50", dense))
    plain_log(axes[0], "x", (1, 3), "{x:g}")
    for ax, kind, number in zip(axes, ("unstructured", "structured"), (4, 5), strict=True):
        own = [method for method in METHODS if ("structured" == method.split("-")[1]) == (kind == "structured")]
        names = []
        for method in (method for method in own if method in set(points["method"])):
            name, ink, dashes = METHODS[method]
            part = points[points["method"] == method]
            style = {"color": ink, "ls": (0, dashes) if dashes else "-"} | DOTS | OVER_SEEDS
            sns.lineplot(part, x="at", y="kept", **style, ax=ax)
            means = part.groupby("at")["kept"].mean()
            at = means.index[means >= 50][-1] if (means >= 50).any() else means.index[0]
            names.append((at, means[at], name, ink))
        printed = pd.DataFrame(audit.figure(number))
        asked = printed[["conv", "c3", "sppf"]].max(axis=1)
        zeros = printed["sparsity"].where(printed["sparsity"] < 2 * asked, printed["sparsity"] / 10)  # 0.0994 at 0.01: see audit
        kept = 100 * printed["mAP50"] / audit.figure(3)[0]["mAP50"]
        ax.axvspan(zeros.min(), zeros.max(), color="#eeeeee", lw=0, zorder=0)
        ax.plot(zeros, kept, **PAPER, ls="none")
        ax.axhline(100, color=GREY, lw=0.8)
        ax.set(xlabel="share of all parameters that is zero", title=TITLES[kind], ylim=(0, None))
        ax.set_ylabel("mAP50 kept (% of unpruned, test)")
        names.append((zeros.iloc[0], kept.iloc[0], "the paper", DARK))
        label_points(ax, names)
    return plot


@figure("sweeps-by-module")
def sweeps_by_module(points: pd.DataFrame) -> Figure:
    """Which kind of module can be pruned: mAP50 (test) when one kind at a time is pruned by L1, against the ratio asked of it.

    Columns: method, modules, ratio, mAP50; a row per point and training seed; band: training seeds.
    """
    points = points[points["method"].isin(["l1-unstructured", "l1-structured"])]
    plot, [axes] = canvas(3.6, columns=points["method"].nunique(), sharey=True)
    style = {"hue": "modules", "style": "modules", "palette": SCOPES} | DOTS | OVER_SEEDS
    style |= {"dashes": dict.fromkeys(SCOPES, "") | {"all + Detect": (3, 2)}}
    for ax, (method, part) in zip(axes, points.groupby("method", sort=False), strict=True):
        sns.lineplot(part, x="ratio", y="mAP50", **style, legend=ax is axes[-1] and "full", ax=ax)
        kind = "single weights" if method.endswith("unstructured") else "whole filters"
        ax.set(xlabel="ratio asked of these modules", title=kind, xlim=(0, 1), ylim=(0, None), xticks=(0, 0.2, 0.4, 0.6, 0.8))
    axes[0].set_ylabel("mAP50 (test)")
    axes[-1].legend(title="pruned", **BESIDE)
    return plot


@figure("sensitivity")
def sensitivity(layers: pd.DataFrame) -> Figure:
    """Where pruning hurts: mAP50 lost on val when half of the weights of one convolution are zeroed, layer by layer.

    Columns: layer, module, mAP50_lost.
    """
    plot, [[ax]] = canvas(3.6)
    layers = layers.assign(number=layers["layer"].str.split(".").str[1].astype(int))  # of "model.2.cv1.conv"
    layers = layers.sort_values(["number", "layer"], ignore_index=True)
    for module, part in layers.groupby("module", sort=False):
        ax.vlines(part.index, 0, 100 * part["mAP50_lost"], color=MODULES[module], lw=1)
        ax.plot(part.index, 100 * part["mAP50_lost"], "o", ms=4, color=MODULES[module], label=module)
    plot.legend(loc="outside upper center", ncol=4)
    worst = layers.nlargest(4, "mAP50_lost")
    label_points(ax, [(i, 100 * row["mAP50_lost"], row["layer"].removeprefix("model."), DARK) for i, row in worst.iterrows()])
    middles = layers.index.to_series().groupby(layers["number"]).mean()
    ax.set_xticks(middles, middles.index, rotation=90, fontsize=8)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set(xlabel="convolution, by number of its layer", ylabel="mAP50 lost (points, val)")
    return plot


@figure("latency-pruned")
def latency_pruned(rows: pd.DataFrame) -> Figure:
    """Does pruning make p faster? Inference time over that of dense p, 95 % intervals; grey band: within 2 % of no change.

    Columns: role, variant, ratio, ratio_low, ratio_high; the baseline is not drawn, the A/A control comes first.
    """
    rows = rows[rows["role"] != "baseline"].sort_values("role", kind="stable")
    control = rows["role"] == "control"
    names, inks = (rows["variant"].mask(control, "A/A control: dense again"), control.map({True: GREY, False: MODELS["p-best"]}))
    plot = _forest(rows[["ratio", "ratio_low", "ratio_high"]], names, inks, centre=1, form="{:.3f} ({:.3f} to {:.3f})")
    plot.axes[0].axvspan(0.98, 1.02, color="#eeeeee", lw=0)
    plot.axes[0].set_xlabel("inference time / that of dense p")
    return plot


def _forest(rows: pd.DataFrame, names: pd.Series, inks: pd.Series, centre: float, form: str) -> Figure:
    """Values with their intervals (the columns of `rows`), a named line each, the first on top; a line at `centre`."""
    plot, [[ax]] = canvas(0.8 + 0.32 * len(rows))
    for y, (values, ink) in enumerate(zip(rows.to_numpy(), inks, strict=True)):
        value, low, high = values[:, None]
        intervals(ax, value, [y], low, high, across="x", color=ink, lw=2)
        ax.text(1.01, y, form.format(*values), transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)
    ax.axvline(centre, color=GREY, lw=0.8)
    ax.set_yticks(range(len(rows)), names)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.locator_params("x", nbins=6)
    return plot
