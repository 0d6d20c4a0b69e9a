"""What a cell of a notebook ends with: one table, figure or sentence; written to the report's folder too where one is set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from IPython.display import Markdown
from tabulate import tabulate

from yolop import files
from yolop.files import read_json, write_atomically
from yolop.paper import claims
from yolop.report.drawn import Drawn, on_drawn
from yolop.settings import STUDIES
from yolop.store import committed_path

DECIMALS = {  # by the end of a column's name, first match wins; any other number has three
    "parameters": 0, "_pct": 1, "gflops": 3, "_ms": 2, "_ms_paper": 1, "fps": 0, "_px": 0, "sparsity_of_weights": 2,
    "channels_removed": 2, "speed_up": 2, "by_zeros": 2, "p_value": 4, "ahead": 1, "ahead_low": 1, "ahead_high": 1, "_mb": 2,
    "sparsity": 4, "sparsity_paper": 4,
    "max_difference": 7, "lr": 6, "loss": 4, "box": 4, "obj": 4, "cls": 4,
}  # fmt: skip
SIGNED = ("_difference", "_gain", "gain_low", "gain_high", "_lost", "_ahead", "ahead_low", "ahead_high")
VERDICTS = "The paper's claims, judged by the numbers above."
# What no cell of a table may begin: a column, HTML, a link or an image, a formula. Names of classes come from strangers.
INERT = str.maketrans({"|": "\\|", "<": "&lt;", "[": "&#91;", "$": "&#36;"})


class _Report:
    """Where what is shown is also written, and for which study; set by `open_study`."""

    folder: Path | None = None
    study: Any = None  # an OpenStudy


def into(folder: Path | None, study: Any) -> None:
    """From now on write what is shown into a folder as well; None: into none."""
    _Report.folder, _Report.study = folder, study


def text(*sentences: str) -> Markdown:
    """Sentences as a paragraph."""
    _keep_manifest()
    return Markdown(" ".join(filter(None, sentences)))


def table(
    frame: pd.DataFrame, columns: list[str] | None = None, name: str = "", head: int | None = None, caption: str = "", mark=None
) -> Markdown:
    """A table, or some of its columns and first rows; with a name, the whole of it is also written as csv.

    Args:
        caption: what it shows, in a sentence above it.
        mark: a bool per row: the best or the decisive ones, which are set in bold.
    """
    keep(frame, name)
    if frame.attrs.get("verdicts"):
        _keep_verdicts(frame)
        columns, caption = columns or ["claim", "verdict", "estimate", "threshold"], caption or VERDICTS
    if frame.empty:
        return Markdown("*This study has nothing for this table.*")
    limits = _limits(frame)
    columns = list(dict.fromkeys(end for name in columns or frame for end in (name, *limits.get(name, ()))))
    shown = to_markdown(frame[columns].head(head), mark)
    return Markdown(f"*{caption}*\n\n{shown}" if caption else shown)


def keep(frame: pd.DataFrame, name: str) -> None:
    """Write a table as csv into the report's folder, where one is set, without showing it."""
    if name and len(frame):
        _write(f"tables/{name}.csv", frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    _keep_manifest()


def _keep_figure(figure: Drawn) -> None:
    """Write a figure of `plots` as svg, or as jpg where it is made of photographs."""
    if _Report.folder:
        photographic = figure.photographic
        _write(f"figures/{figure.name}.{'jpg' if photographic else 'svg'}", figure.jpeg() if photographic else figure.svg())
        _keep_manifest()


on_drawn.append(_keep_figure)


def _keep_verdicts(verdicts: pd.DataFrame) -> None:
    """Add verdicts on some claims to the claims.json of the report."""
    if _Report.folder:
        rows = json.loads(verdicts.to_json(orient="records"))
        order = list(claims.load())
        with FileLock(_Report.folder / ".lock"):
            known = {row["id"]: row for row in [*_claims_in(_Report.folder), *rows]}
            ordered = sorted(known.values(), key=lambda row: order.index(row["id"]))
            _write("claims.json", json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def nothing() -> Markdown:
    """In place of a figure that this study has no numbers for."""
    return Markdown("*This study has nothing for this figure.*")


def published_verdicts() -> dict[str, pd.DataFrame]:
    """Verdicts of every study whose report is published, by name."""
    return {name: verdicts(files.ROOT / "reports" / name) for name in published()}


def published() -> list[str]:
    """Names of the studies whose reports rest on committed records alone, in the order of STUDIES."""
    manifests = {name: files.ROOT / "reports" / name / "manifest.json" for name in STUDIES}
    runs = {name: read_json(path)["records"] for name, path in manifests.items() if path.exists()}
    return [name for name, ids in runs.items() if all(committed_path(files.ROOT, run).exists() for run in ids)]


def verdicts(report: Path | None = None) -> pd.DataFrame:
    """All verdicts of a report, from its claims.json; without a folder those of the open study.

    The notebooks before 06 gave them: into the folder `out`, or, where none is set, into the published report of the study.
    """
    own = report or _Report.folder or files.ROOT / "reports" / _Report.study.settings.report
    blank = pd.DataFrame([claims.blank(claim) for claim in claims.load().values()]).set_index("id", drop=False)
    rows = [row for row in _claims_in(own) if row["id"] in blank.index]
    blank.update(pd.DataFrame(rows, columns=blank.columns).set_index("id", drop=False))
    if report is None:
        keep(blank, "claims")
    return blank.reset_index(drop=True)


def _claims_in(folder: Path) -> list[dict]:
    return read_json(folder / "claims.json") if (folder / "claims.json").exists() else []


def _write(file: str, content: str | bytes) -> None:
    if _Report.folder:
        write_atomically(_Report.folder / file, content)


def _keep_manifest() -> None:
    """Add the records that were used to the manifest of the report."""
    if not _Report.folder:
        return
    used = {run: record.checksum for run, record in _Report.study.store.used.items()}
    path = _Report.folder / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_Report.folder / ".lock"):
        known = read_json(path)["records"] if path.exists() else {}
        if not used.items() <= known.items():
            content = {"study": _Report.study.settings.report, "records": known | used}
            write_atomically(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


# --- formats ----------------------------------------------------------------------------------------------------------


LIMITS = {"mAP50_gain": "gain_low", "points_ahead": "ahead_low", "ratio_to_n": "ratio_low", "ours": "low"}  # not <name>_low
WHOLE = {"conv": "Conv ratio", "c3": "C3 ratio", "sppf": "SPPF ratio", "after_holm": "after Holm", "nc": "classes", "n": "network"}
WHOLE |= {"fps": "FPS", "equivalent": "same within 2 %", "p90_ms": "90th percentile (ms)", "ours_difference": "difference"}
HEADS = {"mAP50_95": "mAP50-95", "_ms_paper": ", paper (ms)", "_paper": ", paper", "_ms": " (ms)", "_mb": " (MB)", "_px": " (px)"}
HEADS |= {"gflops": "GFLOPs", "_low_pct": "_pct low", "_pct": " (%)", "_": " "}


def formatted(frame: pd.DataFrame) -> pd.DataFrame:
    """A table as text with the decimals of its columns, an estimate and its interval in one cell; empty where there is no value."""

    def cell(name: str, value) -> str:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return ""
        if isinstance(value, (bool, np.bool_)):
            return "yes" if value else ""
        if isinstance(value, (float, np.floating)):
            if name.endswith("_multiple") or name in ("ratio", "conv", "c3", "sppf") and "ratio_low" not in frame:
                return f"{value:.4g}"
            decimals = next((d for end, d in DECIMALS.items() if name.endswith(end)), 3)
            sign = "+" if name.endswith(SIGNED) and name != "max_difference" else ""
            return f"{value:{sign}.{decimals}f}" if round(value, decimals) else f"{0:.{decimals}f}"  # never -0.0
        return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value).replace("mAP50_95", "mAP50-95")

    texts, limits = {name: [cell(name, value) for value in frame[name]] for name in frame.columns}, _limits(frame)
    for name, (low, high) in limits.items():
        rows = zip(texts[name], texts.pop(low), texts.pop(high), strict=True)
        texts[name] = [f"{v} ({low} to {high})" if low and high and not v == low == high else v for v, low, high in rows]
    return pd.DataFrame(texts)


def _limits(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Columns of estimates -> the columns of their intervals."""
    found = {}
    for name in frame:
        ends = LIMITS.get(name), f"{name}_low", name.replace("_to_n", "_low_to_n"), name.replace("_pct", "_low_pct")
        low = next((end for end in ends if end in frame and end != name), None)
        if low and (high := low.replace("low", "high")) in frame:
            found[name] = low, high
    return found


def to_markdown(frame: pd.DataFrame, mark=None) -> str:
    """A table in Markdown: numbers to the right, cells as plain text, units in the heads; rows with a true `mark` in bold."""
    shown = formatted(frame)
    cells = [[value.translate(INERT) for value in row] for row in shown.to_numpy().tolist()]
    sides = ["right" if pd.api.types.is_numeric_dtype(frame[name]) else "left" for name in shown]
    for row in (row for row, bold in zip(cells, () if mark is None else mark, strict=False) if bold):
        row[:] = [f"**{value.strip()}**" if value.strip() else "" for value in row]
    heads = [WHOLE.get(name, name) for name in shown]
    for part, words in HEADS.items():
        heads = [head.replace(part, words) for head in heads]
    return tabulate(cells, heads, "pipe", colalign=sides, disable_numparse=True, preserve_whitespace=False) + "\n"
