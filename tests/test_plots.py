"""Figures look the same wherever they are drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from matplotlib import font_manager

DRAWN = r"""
import hashlib, matplotlib
from yolop.report import plots
from matplotlib import rc_context
from matplotlib.figure import Figure
with rc_context(plots.STYLE):
    figure = Figure()
    axes = figure.subplots()
    axes.set_title("official coefficients")
    axes.set_xlabel(r"mAP$_{50}$ $\pm\,\hat{x} \times 10^{-3}$")
    print(hashlib.sha256(plots.to_svg(figure).encode()).hexdigest())
print(matplotlib.font_manager.findfont("DejaVu Sans").startswith(matplotlib.get_data_path()))
"""


@pytest.mark.parametrize("zone, language, seed", [("UTC", "C", "0"), ("Asia/Seoul", "de_DE.UTF-8", "7")])
@pytest.mark.parametrize(
    "listed", [[], ["/usr/share/fonts/nowhere/DejaVuSans.ttf"]], ids=["no fonts", "a strange font"]
)
def test_a_figure_has_the_same_bytes_whatever_the_users_font_list_and_locale(tmp_path, listed, zone, language, seed):
    entry = dict.fromkeys(["style", "variant", "stretch"], "normal") | {"weight": 400, "size": "scalable", "index": 0}
    entries = [entry | {"fname": path, "name": "DejaVu Sans", "__class__": "FontEntry"} for path in listed]
    body = {"_version": font_manager.FontManager.__version__, "ttflist": entries, "afmlist": []}
    body |= {"_FontManager__default_weight": "normal", "default_size": None, "__class__": "FontManager"}
    body |= {"defaultFamily": {"ttf": "DejaVu Sans", "afm": "Helvetica"}}
    (tmp_path / f"fontlist-v{font_manager.FontManager.__version__}.json").write_text(json.dumps(body))
    place = {"MPLCONFIGDIR": str(tmp_path), "TZ": zone, "LC_ALL": language, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", DRAWN], capture_output=True, text=True, env=os.environ | place)
    assert done.returncode == 0 and "findfont" not in done.stderr, done.stderr
    here = subprocess.run([sys.executable, "-c", DRAWN], capture_output=True, text=True, check=True)
    assert done.stdout == here.stdout and done.stdout.split()[1] == "True"
