"""Every figure shows its table, with x and y where they belong, and looks the same wherever it is drawn."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager, rcParams
from matplotlib.colors import to_rgb
from PIL import Image

from yolop.report import diagrams, drawn, plots

TESTS = Path(__file__).resolve().parent


def table(columns: str, *rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


LAYERS = table(
    "layer from module channels_n parameters_n parameters_p gflops_n gflops_p",
    (0, "-1", "Conv", 16, 1760, 1500, 0.09, 0.08), (1, "0", "C3", 32, 4672, 4000, 0.06, 0.05),
    (2, "0, 1", "Concat", 48, 0, 0, 0, 0),
)  # fmt: skip
GRID = table(
    "depth_multiple width_multiple parameters ratio_to_n ratio_low ratio_high",
    (0.33, 0.25, 2_000_000, 1.0, 0.98, 1.03), (0.16, 0.20, 1_200_000, 0.85, 0.84, 0.88), (0.16, 0.50, 6_000_000, 1.9, 1.8, 2.2),
)  # fmt: skip
FIGURE_2 = table(
    "label mAP50 mAP50_low mAP50_high mAP50_paper ratio_to_n ratio_low_to_n ratio_high_to_n latency_ms_paper",
    ("n", 0.87, 0.84, 0.90, 0.944, 1.0, 0.99, 1.02, 20.0), ("p", 0.86, 0.83, 0.89, 0.912, 0.84, 0.80, 0.87, 17.0),
)  # fmt: skip
CURVES = table(
    "label seed epoch steps loss mAP50",
    ("p", 0, 1, 10, 0.3, 0.5), ("p", 0, 2, 20, 0.2, 0.6), ("p", 1, 1, 10, 0.5, 0.6), ("p", 1, 2, 20, 0.1, 0.8),
)  # fmt: skip
PRETRAINING = table("label mAP50_gain gain_low gain_high", ("p", 0, 0, 0), ("p-best", 0.05, 0.03, 0.08), ("n", 0.01, -0.02, 0.04))
POINTS = table(
    "method modules seed training ratio sparsity mAP50",
    ("l1-structured", "all", 0, 0, 0.1, 0.08, 0.5), ("l1-structured", "all", 0, 1, 0.1, 0.10, 0.7),
    ("l1-structured", "all", 0, 0, 0.3, 0.28, 0.2), ("l1-structured", "C3", 0, 0, 0.3, 0.05, 0.4),
)  # fmt: skip
SENSITIVITY = table(
    "layer module mAP50_lost",
    ("model.24.m.0", "Detect", 0.21), ("model.10.conv", "Conv", 0.01), ("model.2.cv1", "C3", 0.02), ("model.0.conv", "Conv", 0.07),
)  # fmt: skip
PRUNED = table(
    "role variant ratio ratio_low ratio_high",
    ("baseline", "p", 1, 1, 1), ("variant", "L1 0.3", 1.01, 0.99, 1.03), ("control", "p again", 0.99, 0.98, 1.005),
)  # fmt: skip
TENSORS = pd.DataFrame(
    {"layout": "CSR", "path": "matrix product", "kernel": 1, "stride": 1, "side": 8, "c1": [8, 8, 8, 8, 16, 16], "c2": 8}
    | {"sparsity": [0.5, 0.9] * 3, "ratio": [2.0, 0.4, 3.0, 0.5, 7.0, 0.9]}
).assign(c2=[8, 8, 16, 16, 8, 8])  # fmt: skip
ZEROS = table(
    "sparsity_of_weights allocation channels_removed kept_pct kept_low_pct kept_high_pct",
    (0, "", 0, 100, 100, 100), (0.9, "global", 0, 96, 94, 98), (0.9, "layer", 0, 82, 79, 85), (0, "", 0.5, 91, 88, 94),
    (0.8, "blocks", 0, 97, 95, 99), (0.8, "blocks", 0.5, 90, 88, 92),
)  # fmt: skip
ATLAS = table(
    "kernel stride c1 c2 side sparsity ratio ratio_low ratio_high",
    (1, 1, 8, 16, 40, None, 1.0, 0.9, 1.1), (1, 1, 8, 16, 40, 0.0, 2.0, 1.9, 3.0), (1, 1, 8, 16, 40, 0.9, 0.25, 0.2, 1.3),
    (3, 2, 4, 4, 80, 0.0, 1.0, 1.0, 1.0), (3, 2, 4, 4, 80, 0.9, 0.5, 0.4, 0.6),
)  # fmt: skip
UNIFORM = table(
    "label imgsz_px engine sparsity ratio ratio_low ratio_high",
    ("n", 320, False, 0, 1.25, 0.94, 1.3), ("n", 320, True, 0, 0.5, 0.4, 0.7), ("n", 320, True, 0.9, 0.25, 0.2, 0.5),
)  # fmt: skip
CONFIGURATIONS = table(
    "what network runtime sparsity imgsz_px ratio ratio_low ratio_high mAP50_95 mAP50_95_low mAP50_95_high front",
    ("n, PyTorch", "n", "pytorch", 0, 320, 1.0, 0.97, 1.02, 0.58, 0.56, 0.61, False),
    ("n, zeros", "zeros", "sparse", 0.9, 320, 0.5, 0.4, 0.6, 0.60, 0.55, 0.65, True),
    ("n, 192 px", "n", "pytorch", 0, 192, 0.3, 0.28, 0.33, 0.51, 0.50, 0.52, True),
)  # fmt: skip


def photograph() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(buffer, "jpeg")
    return base64.b64encode(buffer.getvalue()).decode()


PICTURES = {"names": ["$x", "cell"], "pictures": [{"jpeg": photograph(), "truth": [[1, 5, 6, 15, 26]]}]}
PICTURES |= {"detections": [{"label": "n", "boxes": [[[2, 3, 12, 9, 0.7, 0]]]}]}
FITS = pd.DataFrame([{"network": "n"} | dict(zip([f"{n} of 6" for n in range(7)], (90, 8, 0, 0, 2, 0, 0), strict=True))])
DRAWN = [  # what, arguments, labels of x and y, lines (axes, x, y) that must be drawn, intervals (axes, from, to)
    ("scaling_grid", [GRID], ["width multiple", "that of n"], [(0, [0.2, 0.5], [0.85, 1.9])], [(0, (0.5, 1.8), (0.5, 2.2))]),
    ("accuracy_and_time", [FIGURE_2], ["time / that of n", "mAP50"], [(1, [0.84], [0.86]), (0, [0.85], [0.912])],
     [(1, (0.84, 0.83), (0.84, 0.89)), (1, (0.80, 0.86), (0.87, 0.86))]),
    ("learning_curves", [CURVES], ["", ""], [(0, [10, 20], [0.55, 0.7])], []),
    ("pretraining", [PRETRAINING], ["from scratch (points)", ""], [(0, [5], [0]), (0, [1], [1])], [(0, (-2, 1), (4, 1))]),
    ("sweeps", [POINTS, 0.9], ["share of all parameters", "mAP50 kept (%"],
     [(1, [0.09, 0.28], [200 / 3, 200 / 9]), (1, [0.0309, 0.0209, 0.00994], [82900 / 967, 86300 / 967, 96600 / 967])], []),
    ("sweeps_by_module", [POINTS], ["ratio asked", "mAP50 (test)"], [(0, [0.1, 0.3], [0.6, 0.2]), (0, [0.3], [0.4])], []),
    ("sensitivity", [SENSITIVITY], ["convolution", "(points, val)"], [(0, [0, 2], [7, 1]), (0, [3], [21])], [(0, (1, 0), (1, 2))]),
    ("latency_pruned", [PRUNED], ["that of dense p", ""], [(0, [1.01], [1]), (0, [0.99], [0])], [(0, (0.98, 0), (1.005, 0))]),
    ("sparse_tensors", [TENSORS], ["zeros among", "time / "], [(0, [0.5, 0.9], [3, 0.5])], []),
    ("trained_zeros", [ZEROS], ["zeros among the weights of all convolutions (%)", "mAP50-95 kept (%"],
     [(0, [90], [96]), (0, [90], [82]), (0, [80], [97])], [(0, (90, 94), (90, 98))]),
    ("uniform_zeros", [UNIFORM], ["zeros in every layer (%)", "speed-up over dense n"],
     [(0, [0, 90], [2, 4]), (0, [0, 1], [0.8, 0.8])], [(0, (90, 2), (90, 5))]),
    ("configurations", [CONFIGURATIONS], ["time / that of dense n", "mAP50-95 (test"], [(0, [0.3, 0.5], [0.51, 0.60])],
     [(0, (0.5, 0.55), (0.5, 0.65)), (0, (0.28, 0.51), (0.33, 0.51))]),
    ("parameters_by_layer", [LAYERS], ["", "parameters (thousands)"], [], []),
    ("atlas", [ATLAS], ["zeros (% of the weights)", "speed-up"], [(0, [0, 90], [0.5, 4]), (0, [0, 90], [1, 8])], []),
    ("atlas_by_shape", [ATLAS], ["zeros among the layer's weights (%)", ""], [(0, [1.5], [0.5])], []),
    ("architecture", [LAYERS], ["", ""], [], []),
    ("pictures", [PICTURES], ["", ""], [], []),
    ("recipe", [FITS], ["sparsities of the paper", "candidates"], [(0, [0, 1, 4], [90, 8, 2])], []),
]  # fmt: skip


def draw(name: str) -> drawn.Drawn:
    return next(getattr(plots, name)(*arguments) for what, arguments, *_ in DRAWN if what == name)


@pytest.mark.parametrize(("name", "arguments", "labels", "lines", "bounds"), DRAWN, ids=[case[0] for case in DRAWN])
def test_a_figure_shows_its_table_with_x_and_y_where_they_belong(name, arguments, labels, lines, bounds):
    axes = getattr(plots, name)(*arguments).figure.axes
    assert labels[0] in axes[0].get_xlabel() and labels[1] in axes[0].get_ylabel()
    for i, x, y in lines:
        shown = [np.asarray(line.get_xydata(), float) for line in axes[i].lines]
        shown = [points[~np.isnan(points).any(axis=1)] for points in shown]
        assert any(len(p) == len(x) and np.allclose(p, np.column_stack([x, y]), atol=1e-9) for p in shown), (x, y, shown)
    for i, start, end in bounds:
        segments = [s for many in axes[i].collections if hasattr(many, "get_segments") for s in many.get_segments()]
        assert any(len(s) == 2 and np.allclose(s, [start, end]) for s in segments), (start, end, segments)


def test_bars_cells_boxes_and_marks_are_the_tables_own():
    upper, lower = draw("parameters_by_layer").figure.axes
    assert [bar.get_height() for bar in upper.patches] == pytest.approx([1.76, 4.672, 0, 1.5, 4, 0])
    assert [bar.get_height() for bar in lower.patches] == [0.09, 0.06, 0, 0.08, 0.05, 0] and lower.get_ylabel() == "GFLOPs"
    cells = draw("atlas_by_shape").figure.axes[0]
    assert cells.collections[0].get_array().ravel().tolist() == [-1, 2, 0, 1]  # log2 of half and of four times as fast
    assert [t.get_text() for t in (cells.get_yticklabels()[1], *cells.get_xticklabels())] == ["3x3 /2  4 > 4  80 px", "0", "90"]
    (seen,) = draw("pictures").figure.axes
    boxes = {(*box.get_xy(), box.get_width(), box.get_height()) for box in seen.patches}
    assert boxes == {(5, 6, 10, 20), (2, 3, 10, 6)}  # one missed, one false alarm
    shown = diagrams.labelled(PICTURES).figure
    assert {(*box.get_xy(), box.get_width(), box.get_height()) for box in shown.axes[0].patches} == {(5, 6, 10, 20)}
    assert shown.axes[0].get_title("left") == "smallest: 10 x 20 px"
    assert [text.get_text() for text in shown.legends[0].get_texts()] == ["cell"]
    texts = {text.get_text(): text.get_position()[1] for text in draw("architecture").figure.axes[0].texts}
    assert texts["0  Conv, 16"] > texts["1  C3, 32"] > texts["2  Concat, 48"]
    map_ = draw("configurations").figure.axes[0]
    assert {"n, 192 px", "n, zeros", "n"} <= {text.get_text() for text in map_.texts}


def test_a_hit_is_the_surest_box_of_the_true_class_that_overlaps_by_half():
    truth = [[1, 0, 0, 10, 10], [0, 20, 0, 30, 10]]
    boxes = [[0, 0, 10, 9, 0.6, 1], [1, 0, 10, 10, 0.9, 1], [20, 0, 30, 10, 0.8, 1], [0, 0, 10, 4, 0.95, 1]]
    found = diagrams.outcomes(truth, boxes)
    assert [what for what, _ in found] == ["false alarm", "hit", "false alarm", "false alarm", "miss"]
    assert found[1][1] == [1, 0, 10, 10] and found[-1][1] == [20, 0, 30, 10]


def test_names_that_no_font_can_draw_become_numbers_and_a_line_says_so(capsys, monkeypatch):
    latin, arabic = "Zelle \u00e4", "\u0643\u0644\u0628"
    assert drawn.drawable(["cell", latin, arabic]) == (["cell", latin, arabic], ["DejaVu Sans"])
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(drawn, "_letters", lambda path: frozenset(map(ord, "cel" if path == drawn.OWN_FONT else "")))
    assert drawn.drawable(["cell", "\uac1c"]) == (["cell", "1"], ["DejaVu Sans"])
    assert "no font here has letters such as '\\uac1c': class numbers are drawn" in capsys.readouterr().out
    monkeypatch.setattr(drawn, "_letters", lambda path: frozenset(map(ord, "cel" if path == drawn.OWN_FONT else "\uac1c")))
    shown, (own, other) = drawn.drawable(["cell", "\uac1c"])
    assert shown == ["cell", "\uac1c"] and own == "DejaVu Sans" != other


def test_text_in_any_colour_can_be_read_on_white():
    for hue in (*drawn.MODELS.values(), *drawn.MODULES.values(), drawn.GREY, drawn.CHANNELS, "#000000"):
        rgb = np.array(to_rgb(drawn.readable(hue)))
        light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (light + 0.05) >= 4.5, hue
    assert drawn.readable("#333333") == "#333333"  # what can be read stays as it is


def test_bands_reach_from_the_lowest_to_the_highest_seed():
    band = draw("sweeps").figure.axes[1].collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band.round(9)} >= {(0.09, round(500 / 9, 9)), (0.09, round(700 / 9, 9))}


def test_listeners_are_told_of_every_figure_and_the_style_stays_inside(monkeypatch):
    told, before = [], dict(rcParams)
    monkeypatch.setattr(drawn, "on_drawn", [told.append])
    chart, photograph = draw("sweeps"), draw("pictures")
    assert told == [chart, photograph] and [one.name for one in told] == ["sweeps", "pictures"]
    assert chart._repr_png_().startswith(b"\x89PNG") and chart._repr_jpeg_() is None
    assert photograph._repr_jpeg_() == photograph.jpeg() and photograph._repr_png_() is None
    assert "share of all parameters that is zero</text>" in chart.svg()
    assert dict(rcParams) == before


ALL = """
import hashlib, sys, test_plots
print(hashlib.sha256("".join(test_plots.draw(name).svg() for name, *_ in test_plots.DRAWN).encode()).hexdigest())
print("torch" in sys.modules)
"""


def test_figures_have_the_same_bytes_whatever_the_users_font_list_and_locale(tmp_path):
    entry = dict.fromkeys(["style", "variant", "stretch"], "normal") | {"weight": 400, "size": "scalable", "index": 0}
    entry |= {"fname": "/usr/share/fonts/nowhere/DejaVuSans.ttf", "name": "DejaVu Sans", "__class__": "FontEntry"}
    version = font_manager.FontManager.__version__
    body = {"_version": version, "ttflist": [entry], "afmlist": [], "_FontManager__default_weight": "normal"}
    body |= {"default_size": None, "__class__": "FontManager", "defaultFamily": {"ttf": "DejaVu Sans", "afm": "Helvetica"}}
    (tmp_path / f"fontlist-v{version}.json").write_text(json.dumps(body))
    place = {"MPLCONFIGDIR": f"{tmp_path}", "TZ": "Asia/Seoul", "LC_ALL": "de_DE.UTF-8", "PYTHONHASHSEED": "7"}
    place["PYTHONPATH"] = os.pathsep.join([f"{TESTS}", f"{TESTS.parent}"])
    done = subprocess.run([sys.executable, "-c", ALL], capture_output=True, text=True, env=os.environ | place)
    assert done.returncode == 0 and "findfont" not in done.stderr, done.stderr
    here = "".join(draw(name).svg() for name, *_ in DRAWN)
    assert done.stdout.split() == [hashlib.sha256(here.encode()).hexdigest(), "False"]
