"""The figures of notebook 05: what zeros, fewer channels and other runtimes do to accuracy and time. As in `plots`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from yolop.report.drawn import CHANNELS, DARK, GREY, MODELS, canvas, figure, intervals, label_points, plain_log, short
from yolop.study.names import RUNTIME_NAMES

GROUPS = {"p-best": ("smaller model, p", MODELS["p-best"]), "channels": ("channels removed", CHANNELS), "zeros": ("zeros", DARK)}
GROUPS |= {"n": ("all weights of n", MODELS["n"])}
MARKERS = dict(zip(RUNTIME_NAMES.values(), ("o", "s", "^", "D", "v", "P", "X", "*"), strict=True))
SHAPE = ["kernel", "stride", "side", "c1", "c2"]  # of a convolution


@figure("sparse-tensors")
def sparse_tensors(rows: pd.DataFrame) -> Figure:
    """Do PyTorch's sparse tensors help? Time of p's layers as sparse matrix products: median and middle half of the layers.

    Columns: layout, path, kernel, stride, side, c1, c2, sparsity, ratio.
    """
    plot, [axes] = canvas(3.6, columns=rows["layout"].nunique(), sharey=True)
    dashes = {"matrix product": "-", "unfold, then matrix product": (0, (4, 1.5))}
    plain_log(axes[0], "y", (1, 2, 5), "{x:g}x")
    for ax, (layout, part) in zip(axes, rows.groupby("layout", sort=False), strict=True):
        names = []
        for path, own in part.groupby("path", sort=False):
            style = {"color": DARK, "ls": dashes[path], "err_kws": {"alpha": 0.2, "lw": 0}}
            sns.lineplot(own, x="sparsity", y="ratio", estimator="median", errorbar=("pi", 50), **style, ax=ax)
            medians = own.groupby("sparsity")["ratio"].median()
            kernel = "1x1 kernels" if path == "matrix product" else "larger kernels"
            middle = len(medians) // 2
            names.append((medians.index[middle], medians.iloc[middle], kernel, DARK))
        ax.axhline(1, color=GREY, lw=1)
        ax.set(xlabel="zeros among the layer's weights (%)", title=f"torch.sparse, {layout}")
        ax.set_xticks(ticks := [0.3, 0.5, 0.7, 0.9], [f"{100 * tick:g}" for tick in ticks])
        label_points(ax, names)
    axes[0].set_ylabel("time / faster dense way (below 1x: sparse wins)")
    return plot


@figure("trained-zeros")
def trained_zeros(rows: pd.DataFrame) -> Figure:
    """How many zeros n bears when it is trained with them: mAP50-95 (test) in % of the dense control, 95 % intervals.

    Columns: sparsity_of_weights (0..1), allocation, channels_removed (only rows of 0 are drawn), kept_pct, kept_low_pct,
    kept_high_pct. The dense control has none and is the line at 100.
    """
    plot, [[ax]] = canvas(3.6)
    rows = rows[(rows["channels_removed"] == 0) & (rows["sparsity_of_weights"] > 0)]
    names = []
    chosen = {"global": ("the smallest of all weights", DARK, "o-"), "layer": ("the smallest of each layer", DARK, "s")}
    chosen |= {"blocks": ("the smallest blocks of four", DARK, "D:")}
    for allocation, (name, ink, marker) in (chosen | {"random": ("random weights of each layer", GREY, "X")}).items():
        part = rows[rows["allocation"] == allocation].sort_values("sparsity_of_weights")
        x = 100 * part["sparsity_of_weights"]
        intervals(ax, x, part["kept_pct"], part["kept_low_pct"], part["kept_high_pct"], fmt=marker, color=ink, capsize=3)
        names += [(x.iloc[0], part["kept_pct"].iloc[0], name, ink)] if len(part) else []
    ax.axhline(100, color=GREY, lw=0.8)
    ax.set(xlabel="zeros among the weights of all convolutions (%)", ylabel="mAP50-95 kept (% of dense, test)")
    ax.set_xlim(min(100 * rows["sparsity_of_weights"].min() - 5, 80), 100)
    ax.locator_params("x", integer=True)
    label_points(ax, names)
    return plot


@figure("atlas")
def atlas(rows: pd.DataFrame) -> Figure:
    """Which convolutions gain from skipping zeros: speed-up over dense PyTorch, median and range of all shapes of a kind.

    Columns: kernel, stride, c1, c2, side, sparsity (controls have none and are not drawn), ratio. Dashed: the median over the
    same engine without zeros, so what the zeros alone bring.
    """
    rows = rows.dropna(subset="sparsity")
    without = rows[rows["sparsity"] == 0].set_index(SHAPE)["ratio"].rename("without")
    rows = rows.join(without, on=SHAPE).assign(speed_up=1 / rows["ratio"], zeros=100 * rows["sparsity"])
    rows["by_zeros"] = rows["without"] / rows["ratio"]
    kinds = rows.groupby(["kernel", "stride"])
    wide = min(len(kinds), 2)
    plot, axes = canvas(0.6 + 2.3 * -(-len(kinds) // wide), rows=-(-len(kinds) // wide), columns=wide, sharex=True, sharey=True)
    plain_log(axes[0, 0], "y", (1, 2, 5), "{x:g}x")
    for ax, ((kernel, stride), part) in zip(axes.flat, kinds, strict=False):
        median = {"x": "zeros", "estimator": "median", "color": DARK}
        sns.lineplot(part, y="speed_up", errorbar=("pi", 100), lw=1.6, err_kws={"alpha": 0.2, "lw": 0}, **median, ax=ax)
        sns.lineplot(part, y="by_zeros", errorbar=None, lw=1.2, ls="--", **median, ax=ax)
        ax.axhline(1, color=GREY, lw=1)
        count = len(part[SHAPE].drop_duplicates())
        title = f"{kernel}x{kernel}{', stride 2' * (stride == 2)} ({count} shapes)"
        ax.set(title=title, xlabel="zeros (% of the weights)", ylabel="speed-up")
    first = axes[0, 0]
    own = next(iter(kinds))[1]
    middle = own[own["zeros"] == own["zeros"].quantile(interpolation="nearest")]
    ends = [(middle["zeros"].iloc[0], middle[name].median()) for name in ("speed_up", "by_zeros")]
    label_points(first, [(*end, name, DARK) for end, name in zip(ends, ("over dense PyTorch", "by zeros alone"), strict=True)])
    return plot


@figure("atlas-by-shape")
def atlas_by_shape(rows: pd.DataFrame) -> Figure:
    """Speed-up of every convolution shape (kernel, /2: stride 2, channels in > out, side of the map) by its zeros; dot: unclear.

    Columns: kernel, stride, c1, c2, side, sparsity (controls have none and are not drawn), ratio, ratio_low, ratio_high. Unclear
    is where the interval reaches across 1.
    """
    rows = rows.dropna(subset="sparsity").sort_values(SHAPE, ascending=[True, True, False, True, True])
    kernels = rows["kernel"].map("{0}x{0}".format) + rows["stride"].map({1: "", 2: " /2"})
    shapes = kernels + rows["c1"].map("  {} > ".format) + rows["c2"].astype(str) + rows["side"].map("  {} px".format)
    rows = rows.assign(shape=pd.Categorical(shapes, shapes.unique()), speed_up=-np.log2(rows["ratio"]))
    rows["unclear"] = (rows["ratio_low"] < 1) & (rows["ratio_high"] > 1)
    cells, unclear = (rows.pivot(index="shape", columns="sparsity", values=name) for name in ("speed_up", "unclear"))
    plot, [[ax]] = canvas(1.2 + 0.155 * len(cells))
    ticks = {"xticklabels": [f"{100 * share:g}" for share in cells], "yticklabels": cells.index}
    sns.heatmap(cells, vmin=-3, vmax=3, cmap="RdBu", cbar=False, **ticks, ax=ax)
    y, x = np.nonzero(unclear.to_numpy(dtype=bool))
    ax.plot(x + 0.5, y + 0.5, ".", color=DARK, ms=3)
    ax.tick_params("y", labelsize=7.5, length=0)
    ax.tick_params("x", rotation=0)
    ax.set(xlabel="zeros among the layer's weights (%)", ylabel="")
    bar = plot.colorbar(ax.collections[0], ax=ax, ticks=range(-3, 4), aspect=60, pad=0.01)
    bar.ax.set_yticklabels([f"{2.0**i:g}x" for i in range(-3, 4)])
    bar.set_label("speed-up over dense PyTorch (blue: the engine is faster)")
    return plot


@figure("uniform-zeros")
def uniform_zeros(rows: pd.DataFrame) -> Figure:
    """Whole networks with zeros spread evenly, in the engine: speed-up over dense n in PyTorch, 95 % intervals.

    Columns: label, imgsz_px, engine (bool), sparsity (0..1), ratio, ratio_low, ratio_high. Dotted: the same network dense in
    PyTorch; that of n is the A/A control.
    """
    sizes = sorted(rows["imgsz_px"].unique())
    plot, [axes] = canvas(3.6, columns=len(sizes), sharey=True)
    rows = rows.assign(
        zeros=100 * rows["sparsity"], speed_up=1 / rows["ratio"], low=1 / rows["ratio_high"], high=1 / rows["ratio_low"]
    )
    for ax, size in zip(axes, sizes, strict=True):
        names = []
        for (label, engine), own in rows[rows["imgsz_px"] == size].groupby(["label", "engine"]):
            if not engine:
                ax.axhline(own["speed_up"].item(), color=MODELS[label], lw=1, ls=":")
                continue
            intervals(ax, own["zeros"], own["speed_up"], own["low"], own["high"], fmt="o-", color=MODELS[label])
            names.append((own["zeros"].iloc[1], own["speed_up"].iloc[1], f"{short(label)}, sparse engine", MODELS[label]))
        dotted = rows[(rows["imgsz_px"] == size) & ~rows["engine"]]
        names += [(40, row.speed_up, f"{short(row.label)}, dense in PyTorch", MODELS[row.label]) for row in dotted.itertuples()]
        ax.set(xlabel="zeros in every layer (%)", title=f"{size} px", ylim=(0, None), xticks=range(0, 101, 20))
        label_points(ax, names)
    axes[0].set_ylabel("speed-up over dense n")
    return plot


@figure("configurations")
def configurations(rows: pd.DataFrame) -> Figure:
    """Which way to a faster n loses least? The best way of each speed (line) and dense n in PyTorch by name, all others pale.

    Columns: what, network, runtime, sparsity, imgsz_px, ratio, ratio_low, ratio_high, mAP50_95, mAP50_95_low, mAP50_95_high,
    front (bool). Accuracy on test in its own runtime, time over that of dense n in PyTorch; 95 % intervals; hollow: smaller images.
    """
    plot, [[ax]] = canvas(6.4)
    kind = rows["network"].where(rows["network"].isin(GROUPS), "n").mask(rows["sparsity"] > 0, "zeros")
    named = rows["front"].astype(bool) | (rows.index == rows.index[0])
    smaller = rows["imgsz_px"] < rows["imgsz_px"].max()
    for i in rows.index:
        row, ink = rows.loc[i], GROUPS[kind[i]][1] if named[i] else "#cfcfcf"
        at = [row["ratio"]], [row["mAP50_95"]]
        style = {"fmt": "none", "color": ink, "lw": 0.8, "zorder": 2 if named[i] else 1}
        if named[i]:
            intervals(ax, *at, [row["mAP50_95_low"]], [row["mAP50_95_high"]], **style)
            intervals(ax, *at, [row["ratio_low"]], [row["ratio_high"]], across="x", **style)
        dot = {"marker": MARKERS[RUNTIME_NAMES[row["runtime"]]], "mec": ink, "mfc": "white" if smaller[i] else ink, "ms": 6.5}
        ax.plot(*at, ls="none", zorder=3 if named[i] else 1, **dot)
    front = rows[rows["front"].astype(bool)].sort_values("ratio")
    ax.plot(front["ratio"], front["mAP50_95"], color=DARK, lw=0.8, zorder=1)
    plain_log(ax, "x")
    ax.set(xlabel="inference time / that of dense n in PyTorch", ylabel="mAP50-95 (test, in its own runtime)")
    for group, (name, ink) in GROUPS.items():
        ax.plot([], [], "o", color=ink, label=name) if group in set(kind) else None
    for runtime in (RUNTIME_NAMES[name] for name in rows["runtime"].unique()):
        ax.plot([], [], MARKERS[runtime], color=GREY, label=runtime)
    ax.set_xlim(rows["ratio"].min() / 2.2, 1.6)
    ax.set_ylim(rows.loc[named, "mAP50_95_low"].min() - 0.01, rows.loc[named, "mAP50_95_high"].max() + 0.03)
    plot.legend(loc="outside lower center", ncol=3, fontsize=8.5)
    shown = rows[named].sort_values("mAP50_95", ascending=False)
    zeros = shown["what"].str.contains("%")  # what is left of their names says enough
    words = shown["what"].mask(zeros, shown["what"].str.removeprefix("fine-tuned n, "))
    runtimes = "|".join(sorted(RUNTIME_NAMES.values(), key=len, reverse=True))  # which the markers tell
    words = words.str.replace(f", ({runtimes})", "", regex=True).str.replace(r"n from COCO weights|n from scratch", "n", regex=True)
    inks = (GROUPS[kind[i]][1] for i in shown.index)
    label_points(ax, list(zip(shown["ratio"], shown["mAP50_95"], words, inks, strict=True)), size=8)
    return plot
