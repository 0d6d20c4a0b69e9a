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
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox

from yolop.study.names import NAMES

STYLE = {
    "figure.dpi": 100, "savefig.dpi": 100, "font.size": 9.5, "axes.titlesize": 10, "axes.labelsize": 9.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],  # the first ships with matplotlib; the second, as wide, is for browsers
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True,
    "axes.titlelocation": "left", "legend.frameon": False, "svg.fonttype": "none",
    "text.hinting": "none",  # as wide as in a browser
    "svg.hashsalt": "yolop",  # ids in the file depend on nothing but its content
}  # fmt: skip
OWN_FONT = str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
WIDTH = 6.2  # inches, of every figure: its text can still be read on a phone
# One meaning for each colour in all figures, told apart by colour-blind eyes too (Okabe and Ito's, and Tol's, colours).
GREY, DARK = "#8a8a8a", "#333333"  # controls and chance; zeros, and (hollow) what the paper prints
MODELS = {"s": "#cc79a7", "n": "#0072b2", "p": "#d55e00", "p-best": "#009e73"}
MODULES = {"Conv": "#332288", "C3": "#e69f00", "SPPF": "#56b4e9", "Detect": "#882255", "Upsample": "#cccccc", "Concat": "#cccccc"}
CHANNELS = "#997700"  # networks without a share of their channels
PAPER = {"marker": "o", "mfc": "white", "mec": DARK, "color": DARK, "mew": 1.4, "ms": 7}
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1)}  # a legend to the right of the axes, where it covers nothing


def colour(label: str) -> str:
    """The colour of a model: its own, or that of its shape."""
    return MODELS.get(label) or MODELS[label[0]]


def readable(colour: str) -> str:
    """A colour for text: darkened until its contrast on white is 4.5 (WCAG 2), so that it can be read."""
    rgb, limit = np.array(to_rgb(colour)), 1.05 / 4.5 - 0.05
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear *= min(1.0, 0.97 * limit / max(linear @ [0.2126, 0.7152, 0.0722], 1e-9))
    return to_hex(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def short(label: str) -> str:
    """A model's name for use beside a point: "p (best.pt)"."""
    return NAMES[label].removeprefix("YOLOv5")


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


def drawable(names: list[str]) -> tuple[list[str], list[str]]:
    """Names as the fonts of this machine can draw them, and the families to draw them with.

    For letters that matplotlib's own font lacks, the installed fonts that have the most of them follow; a name that no font can
    draw becomes its number, and a line on the console says so. Only for figures that are pictures: SVG keeps text as text.
    """
    families, missing = list(STYLE["font.sans-serif"][:1]), {ord(letter) for name in names for letter in name} - _letters(OWN_FONT)
    if missing:
        fonts = (entry for entry in font_manager.fontManager.ttflist if entry.style == "normal" and "Last Resort" not in entry.name)
        paths = {entry.fname: entry.name for entry in fonts}  # Last Resort has a square for everything
        known = sorted(((len(missing & _letters(path)), path) for path in paths), reverse=True)
        for gain, path in known:
            if gain and missing & _letters(path):
                families.append(paths[path])
                missing -= _letters(path)
    shown = [str(number) if missing & set(map(ord, name)) else name for number, name in enumerate(names)]
    if missing:
        print(f"no font here has letters such as {chr(min(missing))!a}: class numbers are drawn; install one, e.g. fonts-noto-cjk")
    return shown, families


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """Code points that a font file has glyphs for; none of one that cannot be read."""
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError, TypeError):
        return frozenset()


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
CAPTIONS: dict[str, str] = {}  # name of a figure -> what it shows: the first line of the docstring of its function


def figure(name: str, photographic: bool = False) -> Callable[[Callable[..., Figure]], Callable[..., Drawn]]:
    """Decorate a drawing function: it draws in our style, returns `Drawn`, and tells all in `on_drawn`."""

    def decorated(draw: Callable[..., Figure]) -> Callable[..., Drawn]:
        CAPTIONS[name] = draw.__doc__.splitlines()[0]

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


def plain_log(ax: Axes, which: str, subs: tuple[int, ...] = (1, 2, 3, 5, 7), form: str = "{x:g}") -> None:
    """Make the axis "x" or "y" logarithmic, with ticks written as 0.2, 0.3, 0.5, 0.7, 1, 2 and so on."""
    ax.set(**{f"{which}scale": "log"})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(form)
    axis.set_minor_locator(NullLocator())


def label_points(ax: Axes, points: list[tuple[float, float, str, str]], size: float = 8.5) -> None:
    """Write names beside points (x, y, name, colour) where they cover no other name, and as little as possible of what is drawn.

    The axes must have their final scales and hold all that a name should not cover.
    """
    ax.figure.draw_without_rendering()
    others, inside, taken, pixel = _drawn_places(ax), ax.get_window_extent(), [], ax.figure.dpi / 72
    places = [(side * (8 + 6 * far), up) for far in range(5) for up in (0, 9, -9, 18, -18, 30, -30, 45, -45) for side in (1, -1)]
    places.sort(key=lambda place: place[0] ** 2 + place[1] ** 2)
    for x, y, name, own in points:
        text = ax.text(x, y, name, fontsize=size)
        wide, high = text.get_window_extent().size
        text.remove()
        costs = []
        for rank, (right, up) in enumerate(places):
            point = ax.transData.transform((x, y))
            left, middle = point + pixel * np.array([right, up]) - [wide * (right < 0), 0]
            box = Bbox.from_bounds(left - 2, middle - high / 2 - 2, wide + 4, high + 4)
            outside = box.x0 < inside.x0 or box.y0 < inside.y0 or box.y1 > inside.y1 or box.x1 > inside.x1 + 5
            leader = np.empty((0, 2))  # where the name stands apart from its point
            if max(abs(right) - 8, abs(up) - 9) > 0:
                leader = point + np.linspace(0, 1, 12)[:, None] * pixel * np.array([right, up])
            crossed = sum(other.count_contains(leader) > 0 for other in taken)
            cost = box.count_contains(others) + 40 * (box.count_overlaps(taken) + crossed) + 100 * outside + 0.1 * rank
            costs.append((cost, rank, box, leader))
        _, rank, box, leader = min(costs, key=lambda found: found[:2])
        side = "left" if places[rank][0] > 0 else "right"
        style = {"textcoords": "offset points", "fontsize": size, "color": readable(own), "va": "center", "ha": side}
        style["bbox"] = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5}  # what is below a name pales
        if len(leader):
            style["arrowprops"] = {"arrowstyle": "-", "color": own, "lw": 0.6, "shrinkA": 0, "shrinkB": 4}
            style["arrowprops"]["relpos"] = (float(side == "right"), 0.5)  # from the end of the name that is near
        ax.annotate(name, (x, y), xytext=places[rank], **style)
        taken.append(box)
        others = np.concatenate([others, leader])


def _drawn_places(ax: Axes) -> np.ndarray:
    """Places (k, 2), in pixels, of the points and along the lines of some axes."""
    paths = [line.get_transform().transform(line.get_xydata()) for line in ax.lines]
    for many in ax.collections:
        if hasattr(many, "get_segments"):
            paths += [many.get_transform().transform(segment) for segment in many.get_segments()]
    along = np.linspace(0, 1, 40)[:, None]
    places = [start + along * (end - start) for path in paths for start, end in zip(path[:-1], path[1:], strict=True)]
    places += [np.repeat(path, 8, axis=0) for path in paths if len(path)]  # points weigh more than lines
    found = np.concatenate(places) if places else np.empty((0, 2))
    return found[np.isfinite(found).all(axis=1)]
