"""The figures that are no charts of a table: the architecture, what the models see in pictures, and the search for p."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from yolop.report.drawn import DARK, GREY, MODELS, MODULES, WIDTH, canvas, drawable, figure, label_points

PLACES = {i: (0.0, -i * 1.0) for i in range(10)}  # of the layers' boxes
PLACES |= {i: (2.6, -9.0 + (i - 10) * 1.0) for i in range(10, 18)}  # up: towards finer maps
PLACES |= {i: (5.2, -3.25 - (i - 18) * 1.15) for i in range(18, 24)} | {24: (7.8, -2.0)}  # down again
OUTCOMES = {"hit": ("#ffffff", "-"), "miss": ("#f0e442", (0, (3, 2))), "false alarm": ("#ff4fa3", "-")}
CLASSES = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")  # of the commonest classes
OTHER_CLASS = "#ffffff"
HEADINGS = {"backbone 0-9": (0, 0.7), "head, up 10-17": (2.6, -1.3), "head, down 18-23": (5.2, -2.6)}


@figure("architecture")
def architecture(layers: pd.DataFrame) -> Figure:
    """The paper's Figure 1, drawn from the built network: the layers of n (number, module, channels out) and what feeds them.

    Columns: layer, from ("4, 6"), module, channels_n.
    """
    plot = Figure(figsize=(WIDTH, 7.2))
    ax = plot.add_axes((0, 0, 1, 1))
    arrow = {"arrowstyle": "-|>", "color": "#777777", "lw": 0.9}
    for layer, sources, module, channels in layers[["layer", "from", "module", "channels_n"]].itertuples(index=False):
        x, y = PLACES[layer]
        for sx, sy in (PLACES[int(source)] for source in str(sources).split(", ") if int(source) >= 0 and layer > 0):
            step = 0.32 if y > sy else -0.32
            start = (sx, sy + step) if sx == x else (sx + 1.0, sy)
            end = (x, y - step) if sx == x or y > sy + 3 else (x - 1.0, y)  # Detect is entered from below
            ax.annotate("", xy=end, xytext=start, arrowprops=arrow)
        style = {"boxstyle": "round,pad=0.02", "fc": MODULES[module], "ec": "none", "alpha": 0.45}
        ax.add_patch(FancyBboxPatch((x - 1.0, y - 0.3), 2.0, 0.6, **style))
        text = f"{layer}  {module}" + ("" if module == "Detect" else f", {channels}")
        ax.text(x, y, text, ha="center", va="center", color="#111111")
    for heading, (x, y) in HEADINGS.items():
        ax.text(x, y, heading, ha="center", va="center", color=DARK, fontweight="bold")
    ax.text(7.3, 0.7, "layer  module, channels out", ha="center", va="center", color=DARK)
    ax.set(xlim=(-1.2, 9.0), ylim=(-9.6, 1.1))
    ax.axis("off")
    return plot


@figure("labelled", photographic=True)
def labelled(metrics: dict) -> Figure:
    """Training pictures with their boxes: first the smallest and the largest object (in px as the networks see it), then others.

    `metrics` of a record of pictures: pictures (jpeg in base64, truth) and names of classes. Four pictures a row, a colour for
    each of the commonest classes.
    """
    images = _decoded(metrics["pictures"])
    truths = [p["truth"] for p in metrics["pictures"]]
    counts = Counter(int(kind) for truth in truths for kind, *_ in truth)
    inks = {kind: ink for (kind, _), ink in zip(counts.most_common(), CLASSES, strict=False)}
    rows, tallest = -(-len(images) // 4), max(image.shape[0] / image.shape[1] for image in images)
    plot, axes = canvas(WIDTH / 4 * tallest * rows + 0.2 * rows + 0.5, rows=rows, columns=4)
    for ax in axes.flat:
        ax.axis("off")
    sides = [(x2 - x1, y2 - y1, ax) for ax, truth in zip(axes.flat, truths, strict=False) for _, x1, y1, x2, y2 in truth]
    for what, pick in (("largest", max), ("smallest", min)):  # the smallest is named where both are in one picture
        width, height, ax = pick(sides, key=lambda side: side[0] * side[1])
        ax.set_title(f"{what}: {width:.0f} x {height:.0f} px", fontsize=8.5)
    for ax, image, truth in zip(axes.flat, images, truths, strict=False):
        ax.imshow(image)
        for kind, x1, y1, x2, y2 in truth:
            _frame(ax, (x1, y1, x2, y2), inks.get(int(kind), OTHER_CLASS), 1.2)
    names, families = drawable(metrics["names"])
    shown = {names[kind]: ink for kind, ink in inks.items()} | ({"others": OTHER_CLASS} if len(counts) > len(inks) else {})
    outlined = [withStroke(linewidth=4, foreground=DARK)]  # white shows on white paper too
    handles = [Line2D([], [], color=ink, lw=2.5, path_effects=outlined) for ink in shown.values()]
    prop = {"family": families, "size": 8.5}
    plot.legend(handles, shown, loc="outside lower center", ncol=4, prop=prop)
    return plot


@figure("pictures", photographic=True)
def pictures(metrics: dict, shown: int = 1) -> Figure:
    """What the networks see in the same test pictures: hits, misses and false alarms among boxes of at least 0.25 confidence.

    A hit has the true class and an IoU of 0.5 or more with a true box that no surer box has taken. `metrics` of a record of
    pictures: pictures (jpeg in base64, truth) and detections (label, boxes); the first `shown` pictures, a row a network.
    """
    images = _decoded(metrics["pictures"][:shown])
    truths = [p["truth"] for p in metrics["pictures"]]
    rows, tallest = metrics["detections"], max(image.shape[0] / image.shape[1] for image in images)
    wide = 1 if len(rows) < 3 else 2  # networks side by side
    tall, across = -(-len(rows) // wide), wide * len(images)
    plot, axes = canvas(WIDTH / across * tallest * tall + 0.25 * tall + 0.4, rows=tall, columns=across)
    for ax in axes.flat:
        ax.axis("off")
    for number, row in enumerate(rows):
        line = axes[number // wide, number % wide * len(images) :][: len(images)]
        line[0].set_title(row["label"], fontsize=11)
        for ax, image, truth, boxes in zip(line, images, truths, row["boxes"], strict=False):
            ax.imshow(image)
            for outcome, box in outcomes(truth, boxes):
                ink, dashes = OUTCOMES[outcome]
                _frame(ax, box, ink, 1.4, dashes)
    handles = [Line2D([], [], color=ink, lw=2.5, ls=dashes) for ink, dashes in OUTCOMES.values()]
    style = {"fontsize": 11, "facecolor": "#555555", "labelcolor": "white", "frameon": True}
    plot.legend(handles, list(OUTCOMES), loc="outside upper center", ncol=3, **style)
    return plot


def _decoded(pictures: list[dict]) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture["jpeg"])))) for picture in pictures]


def _frame(ax: Axes, box: Sequence[float], ink: str, width: float, dashes="-") -> None:
    """The outline of a box (x1, y1, x2, y2), dark below, so that it shows on light pictures too."""
    x1, y1, x2, y2 = box
    for edge, line in (("#111111", width + 1.2), (ink, width)):
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=edge, lw=line, ls=dashes))


def outcomes(truth: list, boxes: list) -> list[tuple[str, list]]:
    """(outcome, x1 y1 x2 y2) of every detected and every missed box of a picture.

    Args:
        truth: rows of class, x1, y1, x2, y2.
        boxes: rows of x1, y1, x2, y2, confidence, class.
    """
    left, found = list(truth), []
    for *box, _, kind in sorted(boxes, key=lambda box: -box[4]):
        fits = [(_iou(box, true[1:]), i) for i, true in enumerate(left) if true[0] == kind]
        overlap, best = max(fits, default=(0.0, 0))
        found.append(("hit" if overlap >= 0.5 else "false alarm", box))
        if overlap >= 0.5:
            left.pop(best)
    return [*found, *(("miss", true[1:]) for true in left)]


def _iou(a: list, b: list) -> float:
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / max(areas - width * height, 1e-9)


@figure("recipe")
def recipe(fits: pd.DataFrame) -> Figure:
    """Which p did the paper train? How many candidates print how many of its six sparsities, by kind of network.

    Columns: network, "0 of 6" to "6 of 6" (counts), as in `yolop.paper.recipe.fits_table`.
    """
    plot, [[ax]] = canvas(3.6)
    columns = [name for name in fits if name.endswith(" of 6")]
    names = []
    for row, ink in zip(fits.itertuples(index=False), (MODELS["p"], DARK, GREY, MODULES["C3"], MODELS["n"]), strict=False):
        counts = np.array([getattr(row, f"_{list(fits).index(name)}") for name in columns], float)
        some = counts > 0
        ax.plot(np.arange(7)[some], counts[some], "o-", color=ink, ms=5, lw=1.2)
        last = int(np.flatnonzero(some)[-1])
        names.append((last, counts[last], f"{row.network}: {counts[last]:,.0f} with {last}", ink))
    ax.set(yscale="log", xticks=range(7), xlim=(-0.3, 8.6), xlabel="sparsities of the paper that a candidate prints to the digit")
    ax.set_ylabel("candidates")
    label_points(ax, names)
    return plot
