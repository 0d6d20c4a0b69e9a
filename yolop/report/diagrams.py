"""The figures that are no charts of a table: the architecture, what the models see in pictures, and the search for p."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from PIL import Image

from yolop.paper.recipe import CLASSES, ROWS, deviations, in_words
from yolop.report.drawn import BESIDE, DARK, MODULES, WIDTH, canvas, figure

PLACES = {i: (0.0, -i * 1.0) for i in range(10)}  # of the layers' boxes
PLACES |= {i: (2.6, -9.0 + (i - 10) * 1.0) for i in range(10, 18)}  # up: towards finer maps
PLACES |= {i: (5.2, -3.25 - (i - 18) * 1.15) for i in range(18, 24)} | {24: (7.8, -2.0)}  # down again
HEADINGS = {"backbone 0-9": (0, 0.7), "head, up 10-17": (2.6, -1.3), "head, down 18-23": (5.2, -2.6)}


@figure("architecture")
def architecture(layers: pd.DataFrame) -> Figure:
    """The paper's Figure 1: the layers of n and how they feed each other. Columns: layer, from ("4, 6"), module, channels_n."""
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
        style = {"boxstyle": "round,pad=0.02", "fc": MODULES[module], "ec": "none", "alpha": 0.6}
        ax.add_patch(FancyBboxPatch((x - 1.0, y - 0.3), 2.0, 0.6, **style))
        text = f"{layer}  {module}" + ("" if module == "Detect" else f", {channels}")
        ax.text(x, y, text, ha="center", va="center", color="#111111")
    for heading, (x, y) in HEADINGS.items():
        ax.text(x, y, heading, ha="center", va="center", color=DARK, fontweight="bold")
    ax.text(7.8, 0.7, "layer  module, channels out", ha="center", va="center", color=DARK)
    ax.set(xlim=(-1.2, 9.0), ylim=(-9.6, 1.1))
    ax.axis("off")
    return plot


@figure("pictures", photographic=True)
def pictures(metrics: dict) -> Figure:
    """The same test pictures seen by each model, with boxes of at least 0.25 confidence; the first row is the truth.

    `metrics` of a record of pictures: names, pictures (jpeg in base64, truth) and detections (label, boxes).
    """
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(p["jpeg"])))) for p in metrics["pictures"]]
    rows = {"truth": [[[*box[1:], 1.0, box[0]] for box in p["truth"]] for p in metrics["pictures"]]}
    rows |= {row["label"]: row["boxes"] for row in metrics["detections"]}
    classes = sorted({int(box[5]) for per_image in rows.values() for boxes in per_image for box in boxes})
    colours = {kind: colormaps["tab10" if len(classes) <= 10 else "tab20"](i % 20) for i, kind in enumerate(classes)}
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    plot, axes = canvas(WIDTH / (len(images) + 0.8) * tallest * len(rows) + 0.5, rows=len(rows), columns=len(images))
    for line, (label, per_image) in zip(axes, rows.items(), strict=True):
        for ax, image, boxes in zip(line, images, per_image, strict=True):
            ax.imshow(image)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            for x1, y1, x2, y2, _, kind in boxes:
                ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colours[int(kind)], lw=1.6))
        line[0].set_ylabel(label.replace(", ", ",\n"), rotation=0, ha="right", va="center")
    handles = [Patch(fc="none", ec=colours[kind], lw=1.6) for kind in classes]
    names = [metrics["names"][kind] for kind in classes]
    style = {"loc": "outside upper center", "ncol": min(len(names), 6), "title": "boxes of at least 0.25 confidence"}
    legend = plot.legend(handles, names, **style)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a class may be called $x
    return plot


@figure("recipe")
def recipe(metrics: dict) -> Figure:
    """The six sparsities of the nearest candidates and of the named networks: how far each is from the printed one.

    `metrics` of a record of the search (`yolop.paper.recipe`): nearest and named.
    """
    firsts = [next((r for r in metrics["nearest"] if r["class"] == name), None) for name in CLASSES]
    networks: dict[tuple, dict] = {}  # each once
    for row in [*filter(None, firsts), *metrics["named"]]:
        networks.setdefault((*row["repeats"], *row["channels"], *row["reading"]), row)
    rows = list(networks.values())
    plot, [[ax]] = canvas(0.62 * len(rows) + 1.1)
    ax.axvspan(-1, 1, color="#e6e6e6", lw=0)
    shades = ("#08519c", "#4292c6", "#9ecae1", "#a63603", "#f16913", "#fdae6b")
    for i, (row, colour) in enumerate(zip(ROWS, shades, strict=True)):
        off = [deviations(np.array(r["values"]))[i] for r in rows]
        marker, kind = ("o", "unstructured") if row[0] == 4 else ("s", "structured")
        ax.plot(off, np.arange(len(rows)) + 0.12 * (i - 2.5), marker, ms=5, color=colour, label=f"{kind}, {row[1]:g}")
    ax.set_yticks(range(len(rows)), [_network(row) for row in rows], fontsize=7.5)
    ax.grid(axis="y", visible=False)
    ax.hlines(np.arange(1, len(rows)) - 0.5, -2000, 2000, color="#cccccc", lw=0.8)
    ax.set_xscale("symlog", linthresh=1)
    ticks = (-1000, -100, -10, -1, 0, 1, 10, 100, 1000)
    ax.set_xticks(ticks, [f"{tick}" for tick in ticks])
    ax.set(xlim=(-2000, 2000), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xlabel("computed minus printed sparsity\n(half-units of the last printed digit; grey band: prints alike)")
    ax.legend(title="ratio of Conv", **BESIDE)
    return plot


def _network(row: dict) -> str:
    """Three lines: what the network is and how many sparsities it fits, its shape, and what is cut."""
    name = f"({row['depth']:g}, {row['width']:g})" if "depth" in row else row["class"]
    repeats, channels = ("-".join(map(str, row[key])) for key in ("repeats", "channels"))
    return f"{name}: {row['fits']} of 6\nC3 {repeats}, channels {channels}, nc {row['nc']}\n{in_words(row['reading'])}"
