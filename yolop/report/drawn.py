"""What the figures share: one style, one colour per model, points with given intervals, and `Drawn`, which a cell ends with."""

from __future__ import annotations

import functools
import inspect
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import font_manager, get_data_path, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

STYLE = {
    "figure.dpi": 100, "savefig.dpi": 100, "font.size": 9, "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],  # the first ships with matplotlib; the second, as wide, is for browsers
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True,
    "legend.frameon": False, "svg.fonttype": "none",
    "svg.hashsalt": "yolop",  # ids in the file depend on nothing but its content
}  # fmt: skip
WIDTH = 9.0  # inches, of every figure
GREY, DARK = "#999999", "#444444"
MODELS = {  # their colours
    "s": "#8c6bb1", "n": "#1f77b4", "p": "#d95f02", "p-best": "#1b9e77", "p-corpus": GREY, "n-coco": "#17a2c4",
    "p-coco": "#e6ab02", "p-coco-same-steps": "#b3de69", "p-same-steps": "#e7298a", "p-from-n": "#a6761d", "p-from-n-l1": "#666666",
    "n-other": "#9edae5", "p-other": "#843c39",
}  # fmt: skip
MODULES = {"Conv": "#4c78a8", "C3": "#f58518", "SPPF": "#54a24b", "Detect": "#b279a2", "Upsample": "#cccccc", "Concat": "#cccccc"}
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1)}  # a legend to the right of the axes, where it covers nothing


def own_fonts_first() -> None:
    """Let matplotlib find the fonts that it ships with before all others.

    Its list of fonts lies in the user's cache: made by another installation it may lack them or name another DejaVu first; then
    the same figure has other bytes.
    """
    fonts = font_manager.fontManager
    others, fonts.ttflist = fonts.ttflist, []
    for path in sorted(Path(get_data_path(), "fonts", "ttf").glob("*.ttf")):
        fonts.addfont(path)
    fonts.ttflist += others


own_fonts_first()


@dataclass(eq=False)
class Drawn:
    """A figure and the name of its file, without ending. A notebook shows it; the same data give the same bytes."""

    name: str
    figure: Figure
    photographic: bool = False  # made of photographs: shown and kept as JPEG, since SVG or PNG would have megabytes

    def svg(self) -> str:
        """SVG, with text as text and without a date."""
        text = self._saved("svg", metadata={"Date": None, "Creator": None}).decode()
        return re.sub(r"\s*\n(?!\s*<)", " ", text).rstrip() + "\n"  # an element a line

    def jpeg(self) -> bytes:
        """JPEG of quality 85, 100 pixels an inch."""
        return self._saved("jpeg", pil_kwargs={"quality": 85})

    def _saved(self, ending: str, **kwargs) -> bytes:
        buffer = io.BytesIO()
        with rc_context(STYLE):
            self.figure.savefig(buffer, format=ending, **kwargs)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes | None:
        return None if self.photographic else self._saved("png", metadata={"Software": None})

    def _repr_jpeg_(self) -> bytes | None:
        return self.jpeg() if self.photographic else None


on_drawn: list[Callable[[Drawn], None]] = []  # called with every figure that a function of `plots` returns


def figure(name: str, photographic: bool = False) -> Callable[[Callable[..., Figure]], Callable[..., Drawn]]:
    """Decorate a drawing function: it draws in our style, returns `Drawn`, and tells all in `on_drawn`."""

    def decorated(draw: Callable[..., Figure]) -> Callable[..., Drawn]:
        @functools.wraps(draw)
        def drawing(*args, **kwargs) -> Drawn:
            with rc_context(STYLE):
                plot = draw(*args, **kwargs)
                plot.draw_without_rendering()  # everything gets its place, once for all formats
                plot.set_layout_engine("none")
            drawn = Drawn(name, plot, photographic)
            for told in on_drawn:
                told(drawn)
            return drawn

        drawing.__signature__ = inspect.signature(draw).replace(return_annotation="Drawn")
        return drawing

    return decorated


def canvas(height: float, rows: int = 1, columns: int = 1, **kwargs) -> tuple[Figure, np.ndarray]:
    """An empty figure, `height` inches high, and its axes (rows, columns)."""
    plot = Figure(figsize=(WIDTH, height), layout="constrained")
    return plot, plot.subplots(rows, columns, squeeze=False, **kwargs)


def intervals(ax: Axes, x, y, low, high, across: str = "y", **style) -> None:
    """Points (x, y) with their intervals from `low` to `high`, computed before, along the axis `across`."""
    middle = np.asarray(y if across == "y" else x, dtype=float)
    error = np.clip([middle - np.asarray(low), np.asarray(high) - middle], 0, None)
    ax.errorbar(x, y, **{f"{across}err": error, "fmt": "o", "ms": 5, "lw": 1.2} | style)


def plain_log(ax: Axes, which: str) -> None:
    """Make the axis "x" or "y" logarithmic, with ticks written as 0.2, 0.3, 0.5, 0.7, 1, 2 and so on."""
    ax.set(**{f"{which}scale": "log"})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
