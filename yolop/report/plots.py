"""Figures from tables: one function each, one colour per model everywhere, units on every axis.

A drawing function takes `frame` (name of a table -> DataFrame) and returns a matplotlib figure; it computes nothing. The one
figure that is no chart, `pictures`, takes its images from the evidence.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps, font_manager, get_data_path, rc_context
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from yolop.paper import audit
from yolop.paper.recipe import draw_recipe
from yolop.study.graph import NAMES, Evidence

STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "font.family": "DejaVu Sans",  # ships with matplotlib: see `own_fonts_first`
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "yolop",  # ids in the file depend on nothing but its content
    "svg.fonttype": "path",
}
COLOURS = {
    NAMES["s"]: "#8c6bb1",
    NAMES["n"]: "#1f77b4",
    NAMES["p"]: "#d95f02",
    NAMES["p-best"]: "#1b9e77",
    NAMES["p-corpus"]: "#999999",
    NAMES["n-coco"]: "#17a2c4",
    NAMES["p-coco"]: "#e6ab02",
    NAMES["p-same-steps"]: "#e7298a",
    NAMES["p-from-n"]: "#a6761d",
    NAMES["p-from-n-l1"]: "#666666",
}
MODULES = {
    "Conv": "#4c78a8",
    "C3": "#f58518",
    "SPPF": "#54a24b",
    "Detect": "#b279a2",
    "Upsample": "#cccccc",
    "Concat": "#cccccc",
}
METHODS = {
    "l1-unstructured": ("L1 unstructured", "#1f77b4", "-"),
    "l1-global": ("L1 global", "#1b9e77", "-"),
    "random-unstructured": ("random unstructured (3 seeds)", "#1f77b4", ":"),
    "l1-structured": ("L1 structured", "#d95f02", "-"),
    "random-structured": ("random structured (3 seeds)", "#d95f02", ":"),
}
Frame = Callable[[str], pd.DataFrame]


def own_fonts_first() -> None:
    """Let matplotlib find the fonts that it ships with before all others.

    Its list of fonts lies in the user's cache: made by another installation it may lack them (then every mathematical sign
    warns) or name another DejaVu first (then the same figure has other bytes).
    """
    fonts = font_manager.fontManager
    others, fonts.ttflist = fonts.ttflist, []
    for path in sorted(Path(get_data_path(), "fonts", "ttf").glob("*.ttf")):
        fonts.addfont(path)
    fonts.ttflist += others


own_fonts_first()


def draw(name: str, frame: Frame, evidence: Evidence) -> Figure:
    """The figure `name` of FIGURES."""
    with rc_context(STYLE):
        return FIGURES[name](evidence if name in FROM_RECORDS else frame)


def to_svg(figure: Figure) -> str:
    """SVG text, the same for the same data: no date, no random ids."""
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def to_png(figure: Figure) -> bytes:
    """PNG for showing inside a notebook."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def to_jpeg(figure: Figure) -> bytes:
    """JPEG, for the one figure that is made of photographs: as SVG or PNG it has megabytes."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="jpeg", bbox_inches="tight", pil_kwargs={"quality": 85})
    return buffer.getvalue()


def _axes(width: float = 7.0, height: float = 3.8, columns: int = 1, rows: int = 1, **kwargs):
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **kwargs)


def architecture(frame: Frame) -> Figure:
    """Figure 1: the layers of n and how they feed each other, drawn from the built model."""
    layers = frame("layers")
    figure = Figure(figsize=(8.2, 7.2))
    axes = figure.add_axes((0, 0, 1, 1))
    places = {i: (0.0, -i * 1.0) for i in range(10)}
    places |= {i: (2.6, -9.0 + (i - 10) * 1.0) for i in range(10, 18)}  # up: towards finer maps
    places |= {i: (5.2, -3.25 - (i - 18) * 1.15) for i in range(18, 24)}  # down again
    places[24] = (7.8, -2.0)
    for row in layers.itertuples():
        x, y = places[row.layer]
        for source in map(int, row[2].split(", ")):
            if source < 0 or row.layer == 0:
                continue
            sx, sy = places[source]
            if sx == x:
                start, end = (sx, sy - 0.32 if sy > y else sy + 0.32), (x, y + 0.32 if sy > y else y - 0.32)
            elif row.layer == 24 and source != 17:  # into Detect from below
                start, end = (sx + 1.0, sy), (x - 0.4 + 0.4 * (source - 20), y - 0.32)
            else:
                start, end = (sx + 1.0, sy), (x - 1.0, y)
            bend = "arc3,rad=0.12" if row.layer == 24 and source != 17 else "arc3,rad=0"
            style = {"arrowstyle": "-|>", "color": "#777777", "lw": 0.9, "connectionstyle": bend}
            axes.annotate("", xy=end, xytext=start, arrowprops=style)
        colour = MODULES[row.module]
        box = FancyBboxPatch((x - 1.0, y - 0.3), 2.0, 0.6, boxstyle="round,pad=0.02", fc=colour, ec="none", alpha=0.85)
        axes.add_patch(box)
        light = "white" if row.module not in ("Upsample", "Concat") else "#333333"
        out = "" if row.module == "Detect" else f"  {row.channels_n}"
        axes.text(x, y, f"{row.layer}  {row.module}{out}", ha="center", va="center", color=light, fontsize=9)
    titles = ((0, 0.7, "backbone 0-9"), (2.6, -1.3, "head, up 10-17"), (5.2, -2.6, "head, down 18-23"))
    for x, y, text in titles:
        axes.text(x, y, text, ha="center", va="center", color="#333333", fontweight="bold")
    axes.set(xlim=(-1.2, 9.0), ylim=(-9.6, 1.1))
    axes.axis("off")
    return figure


def parameters_by_layer(frame: Frame) -> Figure:
    """Who holds the parameters and the FLOPs: n and p, layer by layer."""
    layers = frame("layers")
    figure, axes = _axes(8, 4.6, rows=2, sharex=True)
    for ax, column, unit in zip(axes, ("parameters", "gflops"), ("parameters (thousands)", "GFLOPs"), strict=True):
        scale = 1e-3 if column == "parameters" else 1
        for shift, label in ((-0.2, "n"), (0.2, "p")):
            ax.bar(
                layers["layer"] + shift,
                layers[f"{column}_{label}"] * scale,
                0.4,
                color=COLOURS[NAMES[label]],
                label=NAMES[label],
            )
        ax.set_ylabel(unit)
        ax.grid(axis="x", visible=False)
    axes[0].legend()
    axes[1].set_xticks(
        layers["layer"], [f"{i} {m}" for i, m in zip(layers["layer"], layers["module"], strict=True)], rotation=90
    )
    return figure


def scaling_grid(frame: Frame) -> Figure:
    """Time against parameters over depth and width; n and p marked."""
    grid = frame("grid")
    figure, ax = _axes(7, 4)
    depths = sorted(grid["depth_multiple"].unique())
    for depth, colour in zip(depths, colormaps["viridis"](np.linspace(0.1, 0.85, len(depths))), strict=True):
        part = grid[grid["depth_multiple"] == depth].sort_values("parameters")
        errors = [part["ratio_to_n"] - part["ratio_low"], part["ratio_high"] - part["ratio_to_n"]]
        ax.errorbar(
            part["parameters"] / 1e6,
            part["ratio_to_n"],
            np.abs(errors),
            fmt="o-",
            ms=4,
            lw=1,
            color=colour,
            label=f"depth {depth:g}",
        )
    for label, depth, width in (("n", 0.33, 0.25), ("p", 0.16, 0.20)):
        row = grid[(grid["depth_multiple"] == depth) & (grid["width_multiple"] == width)].iloc[0]  # p: the default one
        style = {"arrowstyle": "-", "color": "#555555", "lw": 0.8}
        where = (18, -28) if label == "n" else (-34, 22)
        ax.annotate(
            label,
            (row["parameters"] / 1e6, row["ratio_to_n"]),
            xytext=where,
            textcoords="offset points",
            arrowprops=style,
            fontweight="bold",
            color=COLOURS[NAMES[label]],
        )
    ax.axhline(1, color="#999999", lw=0.8)
    ax.set(xscale="log", xlabel="parameters (millions)", ylabel="inference time / that of n")
    ax.set_xticks([0.5, 1, 2, 4, 7], ["0.5", "1", "2", "4", "7"])
    ax.minorticks_off()
    ax.legend()
    return figure


def accuracy_and_time(frame: Frame) -> Figure:
    """Figure 2 as a picture: mAP50 against time relative to n, ours (filled, with interval) and the paper's (hollow)."""
    ours = frame("figure-2")
    printed = pd.DataFrame(audit.figure(2))
    printed["ratio"] = printed["latency_ms"] / printed.loc[printed["model"] == NAMES["n"], "latency_ms"].iloc[0]
    figure, ax = _axes(7, 4)
    for row in ours.itertuples():
        colour = COLOURS[row.model]
        error = [[max(row.mAP50 - row.mAP50_low, 0)], [max(row.mAP50_high - row.mAP50, 0)]]
        ax.errorbar(row.ratio_to_n, row.mAP50, error, fmt="o", color=colour, capsize=3, label=row.model)
        theirs = printed[printed["model"] == row.model].iloc[0]
        ax.plot(theirs["ratio"], theirs["mAP50"], "o", mfc="none", color=colour)
    ax.plot([], [], "o", mfc="none", color="#555555", label="the paper's")
    ax.set(xlabel="inference time / that of n", ylabel="mAP50 (test)")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def learning_curves(frame: Frame) -> Figure:
    """Training loss and mAP50 on val against steps, every training of the study."""
    curves = frame("learning-curves")
    figure, (left, right) = _axes(9.5, 3.8, columns=2)
    for model, part in curves.groupby("model", sort=False):
        scored = part.dropna(subset="mAP50")
        left.plot(part["steps"], part["loss"], color=COLOURS[model], lw=1.2)
        right.plot(scored["steps"], scored["mAP50"], "o-", ms=3, color=COLOURS[model], lw=1.2, label=model)
    left.set(xlabel="steps (batches)", ylabel="training loss (box + obj + cls)", yscale="log")
    right.set(xlabel="steps (batches)", ylabel="mAP50 (val; corpus: its own val)", ylim=(0, 1))
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def pretraining(frame: Frame) -> Figure:
    """What each starting point gives p: difference of mAP50 to p from scratch, with interval."""
    table = frame("pretraining").iloc[1:]
    figure, ax = _axes(7, 2.8)
    for y, row in enumerate(table.itertuples()):
        ax.plot([100 * row.gain_low, 100 * row.gain_high], [y, y], color=COLOURS[row.model], lw=2)
        ax.plot(100 * row.mAP50_gain, y, "o", color=COLOURS[row.model])
    ax.axvline(0, color="#999999", lw=0.8)
    ax.set_yticks(range(len(table)), table["model"])
    ax.invert_yaxis()
    ax.set_xlabel("mAP50 over p from scratch (points, 95 % interval)")
    return figure


def sweeps(frame: Frame) -> Figure:
    """mAP50 against the sparsity achieved, every method, all modules at one ratio."""
    table = frame("sweeps").query("modules == 'all'")
    dense = frame("pretraining").set_index("model").loc[NAMES["p-best"], "mAP50"]
    figure, ax = _axes(9, 4.2)
    for method, (label, colour, line) in METHODS.items():
        part = table[table["method"] == method]
        mean = part.groupby("ratio")[["sparsity", "mAP50"]].mean()
        ax.plot(mean["sparsity"], mean["mAP50"], line, marker="o", ms=3.5, color=colour, label=label, lw=1.3)
        if "mAP50_sd" in part and method.startswith("l1"):  # between training seeds
            sd = part.groupby("ratio")["mAP50_sd"].mean()
            ax.fill_between(mean["sparsity"], mean["mAP50"] - sd, mean["mAP50"] + sd, color=colour, alpha=0.15, lw=0)
        if method.startswith("random"):
            ax.plot(part["sparsity"], part["mAP50"], ".", ms=3, color=colour, alpha=0.6)
    ax.axhline(dense, color="#999999", lw=0.8)
    ax.text(1, dense, "unpruned", ha="right", va="bottom", color="#666666")
    ax.set(
        xlabel="sparsity achieved (share of all parameters that are zero)",
        ylabel="mAP50 (test)",
        xlim=(0, 1),
        ylim=(0, None),
    )
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def sweeps_by_module(frame: Frame) -> Figure:
    """One kind of module pruned at a time: mAP50 against the ratio asked of it."""
    table = frame("sweeps")
    colours = {"all": "#222222", "all + Detect": "#999999", **{m: MODULES[m] for m in ("Conv", "C3", "SPPF", "Detect")}}
    figure, axes = _axes(9, 3.8, columns=2, sharey=True)
    for ax, method in zip(axes, ("l1-unstructured", "l1-structured"), strict=True):
        for modules, part in table[table["method"] == method].groupby("modules", sort=False):
            line = "--" if modules == "all + Detect" else "-"
            ax.plot(part["ratio"], part["mAP50"], line, marker="o", ms=3, color=colours[modules], label=modules, lw=1.3)
        ax.set(xlabel="ratio asked of these modules", title=METHODS[method][0], xlim=(0, 1), ylim=(0, None))
    axes[0].set_ylabel("mAP50 (test)")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), title="pruned")
    return figure


def sensitivity(frame: Frame) -> Figure:
    """Points of mAP50 lost on val when half of one convolution's weights go, in the order of the network."""
    table = frame("sensitivity").copy()
    table["order"] = [[int(p) if p.isdigit() else -1 for p in name.split(".")[1:]] + [name] for name in table["layer"]]
    table = table.sort_values("order", key=lambda s: s.map(lambda o: [o[0], *map(str, o[1:])]), ignore_index=True)
    figure, ax = _axes(9, 3.6)
    for module, part in table.groupby("module", sort=False):
        ax.vlines(part.index, 0, 100 * part["mAP50_lost"], color=MODULES[module], lw=1)
        ax.plot(part.index, 100 * part["mAP50_lost"], "o", ms=4, color=MODULES[module], label=module)
    firsts = table.groupby(table["layer"].str.split(".").str[1], sort=False).head(1)
    ax.set_xticks(firsts.index, firsts["layer"].str.split(".").str[1] + " " + firsts["module"], rotation=90, fontsize=8)
    ax.axhline(0, color="#999999", lw=0.8)
    ax.set(xlabel="convolution, by layer of the network", ylabel="mAP50 lost (points, val)")
    ax.legend()
    return figure


def latency_pruned(frame: Frame) -> Figure:
    """Time of pruned p over dense p with intervals, and the band within which we call it unchanged."""
    table = frame("latency-pruned")
    table = table.iloc[1:]
    figure, ax = _axes(7, 2.9)
    ax.axvspan(0.98, 1.02, color="#eeeeee")
    for y, row in enumerate(table.itertuples()):
        colour = "#999999" if row.variant.endswith("(again)") else COLOURS[NAMES["p-best"]]
        ax.plot([row.ratio_low, row.ratio_high], [y, y], color=colour, lw=2)
        ax.plot(row.ratio, y, "o", color=colour)
    ax.axvline(1, color="#999999", lw=0.8)
    names = [name.replace(f"{NAMES['p-best']} (again)", "A/A control: dense again") for name in table["variant"]]
    ax.set_yticks(range(len(table)), names)
    ax.invert_yaxis()
    ax.set_xlabel("inference time / that of dense p (95 % interval; grey band: within 2 %)")
    return figure


def sparse_tensors(frame: Frame) -> Figure:
    """Each layer of p as a sparse matrix product: time over the dense convolution, against sparsity."""
    table = frame("sparse-tensors")
    figure, axes = _axes(9, 3.8, columns=table["layout"].nunique(), sharey=True, squeeze=False)
    paths = {"matrix product": MODULES["Conv"], "unfold, then matrix product": MODULES["C3"]}
    for ax, (layout, part) in zip(axes[0], table.groupby("layout", sort=False), strict=True):
        for (path, *_), layer in part.groupby(["path", "c1", "c2", "kernel", "stride", "side"], sort=False):
            ax.plot(layer["sparsity"], layer["ratio"], color=paths[path], lw=0.8, alpha=0.7)
        ax.axhline(1, color="#333333", lw=1)
        ax.set(xlabel="sparsity of the layer's weights", title=f"torch.sparse, {layout}", yscale="log")
    axes[0][0].set_ylabel("time / faster dense way (below 1: sparse wins)")
    for path, colour in paths.items():
        axes[0][-1].plot([], [], color=colour, label="1x1: " + path if path == "matrix product" else "larger: " + path)
    figure.legend(loc="outside lower center", ncol=2)
    return figure


def trained_zeros(frame: Frame) -> Figure:
    """mAP50-95 of n with trained zeros, in % of the dense control with the same training, and the other ways to be small."""
    table = frame("trained-zeros")
    figure, ax = _axes(7, 3.8)
    zeros = table[table["n"].str.contains("smallest of all") | (table["n"] == "dense")]
    others = table[~table.index.isin(zeros.index) & (table["sparsity_of_weights"] > 0)]
    for part, colour, marker, label in (
        (zeros, METHODS["l1-global"][1], "o-", "the smallest of all weights"),
        (
            others[others["n"].str.contains("each layer") & others["n"].str.contains("small")],
            "#1f77b4",
            "s",
            "of each layer",
        ),
        (others[others["n"].str.contains("random")], "#999999", "x", "at random"),
    ):
        kept = part["kept_pct"]
        error = [kept - part["kept_low_pct"], part["kept_high_pct"] - kept]
        x = 100 * part["sparsity_of_weights"]
        ax.errorbar(x, kept, np.clip(error, 0, None), fmt=marker, color=colour, capsize=3, lw=1.2, ms=5, label=label)
    ax.axhline(100, color="#999999", lw=0.8)
    ax.set(
        xlabel="zeros among the weights of all convolutions (%)", ylabel="mAP50-95 kept (% of the dense control, test)"
    )
    ax.legend(title="zeros are")
    return figure


def atlas(frame: Frame) -> Figure:
    """Heat map: speed-up of every convolution shape by its zeros; a dot where the interval reaches across 1."""
    table = frame("atlas").dropna(subset="sparsity")
    keys = ["kernel", "stride", "side", "c1", "c2"]
    ascending = [True, True, False, True, True]
    shapes = table[keys].drop_duplicates().sort_values(keys, ascending=ascending)
    shapes = [tuple(map(int, row)) for row in shapes.to_numpy()]
    sparsities = sorted(table["sparsity"].unique())
    cells = {(*(int(getattr(r, k)) for k in keys), r.sparsity): r for r in table.itertuples()}
    values = np.array([[1 / cells[(*shape, s)].ratio for s in sparsities] for shape in shapes])
    figure, ax = _axes(6.5, 1.2 + 0.13 * len(shapes))
    image = ax.imshow(np.log2(values), cmap="RdBu", vmin=-3, vmax=3, aspect="auto")
    for y, shape in enumerate(shapes):
        for x, s in enumerate(sparsities):
            row = cells[(*shape, s)]
            if row.ratio_low < 1 < row.ratio_high:
                ax.plot(x, y, ".", color="#555555", ms=2.5)
    ax.set_xticks(range(len(sparsities)), [f"{100 * s:g}" for s in sparsities])
    names = [f"{k}x{k}{' /2' if stride == 2 else ''}  {c1} > {c2}  {side} px" for k, stride, side, c1, c2 in shapes]
    ax.set_yticks(range(len(shapes)), names, fontsize=5.5)
    ax.set_xlabel("zeros among the layer's weights (%)")
    ax.grid(visible=False)
    bar = figure.colorbar(image, ax=ax, ticks=range(-3, 4), aspect=50, pad=0.02)
    bar.ax.set_yticklabels([f"{2.0**i:g}x" for i in range(-3, 4)])
    bar.set_label("speed-up over dense PyTorch (blue: the engine is faster)")
    return figure


def uniform_zeros(frame: Frame) -> Figure:
    """Whole networks: time over that of dense n in PyTorch against evenly spread zeros, one panel per image size."""
    table = frame("uniform-zeros")
    sizes = sorted(table["imgsz_px"].unique())
    figure, axes = _axes(4.2 * len(sizes) + 1.5, 3.6, columns=len(sizes), sharey=True, squeeze=False)
    for ax, size in zip(axes[0], sizes, strict=True):
        part = table[table["imgsz_px"] == size]
        for model in (NAMES["n"], NAMES["p"]):
            own = part[(part["model"] == model) & (part["runtime"] == "sparse engine")]
            error = [own["ratio"] - own["ratio_low"], own["ratio_high"] - own["ratio"]]
            x = 100 * own["sparsity"]
            ax.errorbar(x, own["ratio"], np.clip(error, 0, None), fmt="o-", ms=4, color=COLOURS[model])
            dense = part[(part["model"] == model) & (part["runtime"] == "PyTorch")]["ratio"].iloc[0]
            ax.axhline(dense, color=COLOURS[model], lw=0.9, ls=":")
            if own["layers_predicted_ms"].notna().all():
                scale = own["layers_predicted_ms"] / own["latency_ms"] * own["ratio"]
                ax.plot(x, scale, "--", lw=0.9, color=COLOURS[model])
        ax.set(xlabel="zeros in every layer (%)", title=f"{size} px", ylim=(0, None))
    for model in (NAMES["n"], NAMES["p"]):
        axes[0][0].plot([], [], "o-", ms=4, color=COLOURS[model], label=f"{model}, sparse engine")
    axes[0][0].plot([], [], "--", color="#555555", lw=0.9, label="its layers alone, from the atlas")
    axes[0][0].plot([], [], ":", color="#555555", lw=0.9, label="dense, in PyTorch")
    axes[0][0].set_ylabel("inference time / that of dense n in PyTorch")
    figure.legend(loc="outside lower center", ncol=4)
    return figure


ROADS = {
    "none": ("dense n in PyTorch", "#222222"),
    "p": ("a smaller model (p)", COLOURS[NAMES["p-best"]]),
    "channels": ("channels removed", "#a6761d"),
    "sparse": ("trained zeros, sparse engine", "#d95f02"),
    "zeros elsewhere": ("the same zeros in other runtimes", "#999999"),
    "runtime": ("another runtime", "#1f77b4"),
    "trained on": ("dense n trained on as long, any runtime", "#17becf"),
    "resolution": ("smaller images", "#e7298a"),
}


def roads(frame: Frame) -> Figure:
    """Accuracy against measured time for every road from dense n, with intervals; the line joins what nothing else beats."""
    table = frame("roads")
    figure, ax = _axes(9, 4.8)
    for road, (label, colour) in ROADS.items():
        part = table[table["road"] == road]
        y = part["mAP50_95"]
        error = np.clip([y - part["mAP50_95_low"], part["mAP50_95_high"] - y], 0, None)
        ax.errorbar(part["ratio"], y, error, fmt="o", ms=5, color=colour, lw=0.7, label=label)
    front = table[table["front"] == "yes"].sort_values("ratio")
    ax.plot(front["ratio"], front["mAP50_95"], color="#555555", lw=0.9, zorder=0)
    for i, row in enumerate(front.itertuples(), 1):
        place = (4, 4) if i % 2 else (4, -11)  # neighbours on the line may lie close together
        offset = {"xytext": place, "textcoords": "offset points", "fontsize": 8, "fontweight": "bold"}
        ax.annotate(str(i), (row.ratio, row.mAP50_95), **offset)
    names = [f"{i}  {row.what}" for i, row in enumerate(front.itertuples(), 1)]
    ax.text(1.02, 0, "\n".join(names), transform=ax.transAxes, fontsize=7.5, va="bottom")
    ax.set(xscale="log", xlabel="inference time / that of dense n in PyTorch", ylabel="mAP50-95 (test, own runtime)")
    low, high = table["ratio"].min(), table["ratio"].max()
    ticks = [t for t in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0) if 0.8 * low < t < 1.25 * high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def pictures(evidence: Evidence) -> Figure:
    """The same test pictures seen by each model: boxes at confidence 0.25; the first row is the truth."""
    import base64

    from PIL import Image

    found = evidence.pictures()
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(p["jpeg"])))) for p in found["pictures"]]
    rows = {"truth": [[[*t[1:], 1.0, t[0]] for t in p["truth"]] for p in found["pictures"]]}
    rows |= {row["label"]: row["boxes"] for row in found["detections"]}
    figure, axes = _axes(1.9 * len(images) + 1.6, 1.95 * len(rows), columns=len(images), rows=len(rows), squeeze=False)
    colours = colormaps["tab10"](np.arange(10))
    for line, (label, per_image) in zip(axes, rows.items(), strict=True):
        for ax, image, boxes in zip(line, images, per_image, strict=True):
            ax.imshow(image)
            ax.set(xticks=[], yticks=[])
            for x1, y1, x2, y2, confidence, c in boxes:
                colour = colours[int(c) % 10]
                ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.4))
                text = found["names"][int(c)] + ("" if label == "truth" else f" {confidence:.2f}")
                box = {"fc": colour, "ec": "none", "pad": 0.6}
                above = y1 > image.shape[0] * 0.08
                ax.text(
                    x1,
                    y1 if above else y2,
                    text,
                    fontsize=5.5,
                    color="white",
                    va="bottom" if above else "top",
                    bbox=box,
                    clip_on=True,
                    parse_math=False,  # a class may be called $x
                )
        name = label.replace(", ", ",\n")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return figure


FIGURES = {
    "architecture": architecture,
    "parameters-by-layer": parameters_by_layer,
    "scaling-grid": scaling_grid,
    "accuracy-and-time": accuracy_and_time,
    "learning-curves": learning_curves,
    "pretraining": pretraining,
    "sweeps": sweeps,
    "sweeps-by-module": sweeps_by_module,
    "sensitivity": sensitivity,
    "latency-pruned": latency_pruned,
    "sparse-tensors": sparse_tensors,
    "trained-zeros": trained_zeros,
    "atlas": atlas,
    "uniform-zeros": uniform_zeros,
    "roads": roads,
    "pictures": pictures,
    "recipe": lambda evidence: draw_recipe(evidence.recipe()),
}
OF_ZEROS = ("trained-zeros", "atlas", "uniform-zeros", "roads")  # drawn where a study trains zeros
FROM_RECORDS = ("pictures", "recipe")  # what they show is in no table
PHOTOGRAPHIC = ("pictures",)  # shown and kept as JPEG
