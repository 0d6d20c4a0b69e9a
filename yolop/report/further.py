"""Trainings that the paper leaves out: other shapes than n and p, longer ones, and training again after pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from yolop.report.drawn import BESIDE, DARK, MODELS, canvas, figure, intervals, label_points, plain_log
from yolop.report.scores import Score
from yolop.specs import GRID, RETRAINED
from yolop.study.further import shape_of
from yolop.study.names import NAMES

if TYPE_CHECKING:
    from yolop.report.opened import OpenStudy

WAYS = dict(zip(RETRAINED, ("L1 unstructured", "L1 structured", "L1 by type", "L1 unstructured, as many zeros"), strict=True))


def shapes(study: OpenStudy) -> pd.DataFrame:
    """Accuracy against time of every shape that is trained from scratch alike; empty if the study trains no other shapes.

    Times are of notebook 02's grid, relative to n. `points_over_p`: points of mAP50 above p, on the same images and seeds.
    `on_front`: no other shape here is at least as fast and more accurate, by the means.
    """
    settings, own = study.settings, study.graph.shape
    if not settings.shapes or own("p") not in GRID:
        return pd.DataFrame()
    models = {own(label): study.model(label) for label in settings.models if own(label) in GRID}
    models |= {shape_of(text): study.shaped(text) for text in settings.shapes}
    times, p, rows = study.timing("grid"), study.model("p"), []
    for shape, model in models.items():
        score, ratio = model.score(), times[shape]
        over = score - p.score()
        row = {"label": model.label, "model": model.name, "depth": shape.depth, "width": shape.width}
        rows.append(row | ratio.columns("ratio_to_n", "ratio") | score.row("mAP50") | over.columns("points_over_p", "over"))
    table = pd.DataFrame(rows).sort_values("ratio_to_n", ignore_index=True)
    return table.assign(on_front=table["mAP50"] > table["mAP50"].cummax().shift(fill_value=-1))


def shapes_found(table: pd.DataFrame) -> str:
    """Whether p is on the front of `shapes`, and which shapes that are no slower have at least its mAP50."""
    p = table[table["label"] == "p"].squeeze()
    better = table[(table["ratio_to_n"] <= p["ratio_to_n"]) & (table["mAP50"] >= p["mAP50"]) & (table["label"] != "p")]
    place = f"By the means, p {'lies' if p['on_front'] else 'does not lie'} on the front of these {len(table)} shapes."
    if better.empty:
        return f"{place} None of them is as fast and as accurate."
    points = "{0.model}, {0.ratio_to_n:.2f} of n's time, {0.points_over_p:+.1f} ({0.over_low:+.1f} to {0.over_high:+.1f}) points"
    return f"{place} At least as fast and as accurate: {'; '.join(points.format(row) for row in better.itertuples())}."


def longer(study: OpenStudy) -> pd.DataFrame:
    """s, n and p from scratch for the study's epochs and for several times as many: the first training seed of each.

    `points_over_n`: points of mAP50 above n of the same length; the intervals are over images, not over the luck of training.
    Empty if the study trains none for longer.
    """
    settings, rows = study.settings, []
    for times in (1, settings.longer) if settings.longer else ():
        models = {label: study.model(label) if times == 1 else study.longer(label) for label in settings.models}
        scores = {label: Score(model.score().by_seed[:1], study.labelled("test")) for label, model in models.items()}
        for label, score in scores.items():
            over = score - scores["n"]
            row = {"label": label, "model": NAMES[label], "epochs": settings.epochs * times} | score.row()
            rows.append(row | over.columns("points_over_n", "over"))
    return pd.DataFrame(rows)


def retrained(study: OpenStudy) -> pd.DataFrame:
    """p (best) pruned once and trained again, its zeros kept: a row per way and ratio; empty if the study trains none.

    `mAP50_pruned` is before training again. `points_kept`: points of mAP50 above the control, p (best) trained for as long
    again without zeros, which is the row with a ratio of 0. `sparsity` is of all parameters.
    """
    ratios = sorted(ratio for ratio in study.settings.retrained if ratio)
    if not ratios:
        return pd.DataFrame()
    dense, rows = study.retrained(RETRAINED[0], 0).score(), []
    for way, ratio in [(RETRAINED[0], 0.0), *((way, ratio) for way in RETRAINED for ratio in ratios)]:
        model = study.retrained(way, ratio)
        score, starts = model.score(), pd.DataFrame(record.metrics["start"] for record in model.records)
        over = score - dense
        row = {"way": WAYS[way] if ratio else "nothing pruned", "ratio": ratio, "sparsity": starts["sparsity"].mean()}
        row |= {"mAP50_pruned": starts["mAP50"].mean()} | score.row("mAP50")
        rows.append(row | over.columns("points_kept", "kept"))
    return pd.DataFrame(rows)


def retrained_found(table: pd.DataFrame) -> str:
    """What training again gives at the highest ratio, way by way, in words; empty where nothing was trained again."""
    if table.empty:
        return ""
    rows = table[table["ratio"] == table["ratio"].max()].itertuples()
    ways = [f"{r.mAP50:.3f} in place of {r.mAP50_pruned:.3f} ({r.way}, {r.sparsity:.0%} of all parameters zero)" for r in rows]
    return (
        f"Pruned at {table['ratio'].max():.0%} and trained again with its zeros kept, p (best) has mAP50 {'; '.join(ways)};"
        f" with nothing pruned and trained as long {table['mAP50'].iloc[0]:.3f}."
    )


@figure("shapes")
def shapes_plot(table: pd.DataFrame) -> Figure:
    """Accuracy against time of shapes, written as depth x width; the line is the front.

    Columns as of `shapes`.
    """
    plot, [[ax]] = canvas(4.2)
    front = table[table["on_front"]]
    ax.step(front["ratio_to_n"], front["mAP50"], where="post", color="#cccccc", lw=1, zorder=1)
    names = []
    for row in table.itertuples():
        ink = MODELS.get(row.label, DARK)
        intervals(ax, [row.ratio_to_n], [row.mAP50], [row.mAP50_low], [row.mAP50_high], color=ink, ecolor="#d5d5d5")
        names.append((row.ratio_to_n, row.mAP50, row.label if row.label in MODELS else f"{row.depth:g} x {row.width:g}", ink))
    plain_log(ax, "x", (1, 1.2, 1.5, 2, 7, 8, 9))
    label_points(ax, names)
    ax.set(xlabel="inference time / that of n", ylabel="mAP50 (test), 95 % intervals")
    return plot


@figure("retrained")
def retrained_plot(table: pd.DataFrame) -> Figure:
    """mAP50 by sparsity right after pruning (dotted) and after training again (solid), and of p that lost nothing (line).

    Columns as of `retrained`.
    """
    plot, [[ax]] = canvas(4.2)
    colours = dict(zip(WAYS.values(), sns.color_palette("colorblind"), strict=False))
    for way, rows in table[table["ratio"] > 0].groupby("way", sort=False):
        ax.plot(100 * rows["sparsity"], rows["mAP50_pruned"], ls=":", marker="o", ms=3, color=colours[way])
        style = {"fmt": "o-", "color": colours[way], "label": way}
        intervals(ax, 100 * rows["sparsity"], rows["mAP50"], rows["mAP50_low"], rows["mAP50_high"], **style)
    dense = float(table.loc[table["ratio"] == 0, "mAP50"].iloc[0])
    ax.axhline(dense, color=DARK, lw=0.8, label="nothing pruned, trained as long")
    ax.plot([], [], ls=":", color=DARK, label="before training again")
    ax.set(xlabel="zeros among all parameters, %", ylabel="mAP50 on test")
    ax.legend(**BESIDE)
    return plot
