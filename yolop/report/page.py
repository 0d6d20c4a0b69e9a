"""index.html: the report that a stranger reads top to bottom, one file without network, scripts or machine paths."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from yolop.paper import claims
from yolop.report import plots, reporting, tables
from yolop.study.graph import Evidence

CSS = """
:root { color-scheme: light; --ink: #222; --soft: #666; --line: #ddd; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1.2rem; }
p { max-width: 46rem; }
.answer { font-size: 1.05rem; border-left: 4px solid #1b9e77; padding-left: 1rem; }
.note, figcaption, footer { color: var(--soft); font-size: .88rem; }
figure { margin: 1rem 0; }
figure svg, figure img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
@media (max-width: 40rem) { figure { overflow-x: auto; } figure svg { max-width: none; width: 40rem; } }
table { border-collapse: collapse; font-size: .85rem; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
td.number { text-align: right; white-space: nowrap; }
.verdict { white-space: nowrap; font-weight: 600; }
.holds { color: #12775a; } .does-not-hold { color: #b3261e; } .undecided { color: #8a6100; } .not-run { color: #666; }
pre { background: #f5f5f5; padding: .7rem 1rem; overflow-x: auto; font-size: .85rem; }
nav a { margin-right: 1rem; }
"""


def table_html(table: pd.DataFrame, columns: list[str] | None = None) -> str:
    """A table, its numbers to the right and verdicts in colour, in a box that scrolls sideways on a phone."""
    table = table[columns] if columns else table
    text = reporting.shown(table)
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    head = "".join(f"<th>{html.escape(reporting.heading(name))}</th>" for name in text)
    body = []
    for row in text.itertuples(index=False):
        cells = []
        for name, value, number in zip(text, row, numeric, strict=True):
            text_html = html.escape(value)
            if name == "table":  # where the numbers of a claim stand
                text_html = f'<a href="tables/{text_html}.md">{text_html}</a>'
            judged = value in (claims.HOLDS, claims.FAILS, claims.OPEN, claims.NOT_RUN)
            kind = f"verdict {value.replace(' ', '-')}" if judged else "number" if number else ""
            cells.append(f'<td class="{kind}">{text_html}</td>' if kind else f"<td>{text_html}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def zeros(e: Evidence, say: Callable, figure: Callable, table: Callable) -> list[str]:
    """What comes after the paper: an engine that skips zeros, zeros that are trained in, and the other roads."""
    if not e.trained_zeros:
        return []
    columns = [
        "what",
        "mAP50",
        "mAP50_95",
        "latency_ms",
        "ratio",
        "ratio_low",
        "ratio_high",
        "file_mb",
        "compressed_mb",
    ]
    return [
        "<h2>Zeros that do become speed</h2>",
        say("{zeros_answer}"),
        figure("uniform-zeros", "Whole networks with evenly spread zeros in an engine that skips them."),
        figure("trained-zeros", "What n keeps of its accuracy when the zeros come while it trains."),
        table("trained-zeros"),
        table("narrowing"),
        "<h2>Every road to a faster n</h2>",
        figure("roads", "Accuracy against measured time; the line joins what nothing else beats."),
        say("{advice}"),
        table("roads", columns),
        "<h2>Which layer gains, and from how many zeros on</h2>",
        table("break-even"),
        figure("atlas", "Every convolution of s, n and p: blue where the engine beats dense PyTorch."),
    ]


def index_html(e: Evidence, folder: Path) -> str:
    """The page, from records alone. `folder` is where the executed notebooks lie that it links to."""
    frames: dict[str, pd.DataFrame] = {}

    def frame(name: str) -> pd.DataFrame:
        if name not in frames:
            frames[name] = tables.TABLES[name](e)
        return frames[name]

    def say(template: str, kind: str = "") -> str:
        return f'<p class="{kind}">{html.escape(reporting.sentence(e, template))}</p>'

    def figure(name: str, caption: str) -> str:
        drawn = plots.draw(name, frame, e)
        if name in plots.PHOTOGRAPHIC:
            data = base64.b64encode(plots.to_jpeg(drawn)).decode()
            image = f'<img alt="{html.escape(caption)}" src="data:image/jpeg;base64,{data}">'
            return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"
        svg = plots.to_svg(drawn)
        svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{html.escape(caption)}" ', 1)
        # ids are made unique per figure, since several figures share one page
        for mark in (' id="', 'xlink:href="#', "url(#"):
            svg = svg.replace(mark, f"{mark}{name}-")
        return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"

    def table(name: str, columns: list[str] | None = None) -> str:
        found = frame(name)
        return table_html(found, columns and [c for c in columns if c in found]) if len(found) else ""

    record = e.trained("n")
    host = record.host
    notebooks = sorted(path.name for path in (folder / "notebooks").glob("[0-9]*.ipynb") if "failed" not in path.name)
    links = " ".join(f'<a href="notebooks/{html.escape(name)}">{html.escape(name[:2])}</a>' for name in notebooks)
    accuracy = ["model", "seeds", "mAP50_paper", "mAP50", "mAP50_low", "mAP50_high"]
    accuracy += ["mAP50_95_paper", "mAP50_95", "mAP50_95_low", "mAP50_95_high"]
    time = ["model", "latency_ms_paper", "latency_ms", "p90_ms", "fps_paper", "fps"]
    time += ["ratio_to_n", "ratio_low_to_n", "ratio_high_to_n"]
    pruned = ["conv", "c3", "sppf", "reading", "sparsity_paper", "sparsity", "mAP50_paper", "mAP50", "mAP50_95"]
    parts = [
        "<h1>Shrinking and pruning YOLOv5: what of the paper holds?</h1>",
        '<p class="note">A reproduction of Park and Kim, <em>A Study on Deep Learning Performance Improvement Based on YOLOv5</em> '
        f"(2022), on the study &ldquo;{html.escape(e.study.name)}&rdquo;. "
        "&ldquo;p&rdquo; is a YOLOv5 smaller than n, not the driving network called YOLOP.</p>",
        "<h2>Question</h2>",
        "<p>The paper shrinks YOLOv5n to a smaller p, restores its accuracy by custom pretraining, sets weights to zero by L1 norm and "
        "kind of module, and finds that the zeros bring no speed. We train, prune and time everything again, add the controls that "
        "it lacks, and judge each of its sentences.</p>",
        "<h2>Answer</h2>",
        say(
            "Of {claims} claims {claims_hold} hold here, {claims_fail} do not, {claims_open} are undecided, {claims_not_run} not run. "
            "Our p takes {p_less_time_pct:.0f} % less time than n; its mAP50 differs by {p_points} points. Custom pretraining changes p by "
            "{best_points} points, but against p trained from scratch for as many steps in all the difference is "
            "{best_over_same_steps_points}. {masks_equivalent} of {masks} pruned networks are shown to take the dense one's time "
            "within 2 %: masks alone bring no speed.",
            "answer",
        ),
        say("The data: {data_set}.", "note"),
        say(
            "Read with care: {seed_note}. Test split: {test_images} images, {test_boxes} boxes, {nc} classes, {imgsz} px.",
            "note",
        ),
        "<h2>Figure 2: the models</h2>",
        table_html(frame("figure-2"), accuracy),
        table_html(frame("figure-2"), time),
        figure(
            "accuracy-and-time", "Accuracy against time relative to n; filled: ours with interval, hollow: the paper's."
        ),
        "<p>Levels come from the data and cannot be compared; order and distances can.</p>",
        "<h2>Custom pretraining and the controls beside it</h2>",
        say("Here, {pretraining_way}."),
        table_html(frame("pretraining")),
        figure("pretraining", "What each starting point gives p over training from scratch."),
        figure("learning-curves", "Learning curves of every training."),
        "<h2>Pruning without retraining</h2>",
        "<p>Ratio is what is asked, sparsity what share of all parameters is zero. Three readings of &ldquo;module&rdquo;: "
        "in <em>own</em> a convolution takes the ratio of the layer that it sits in, in <em>any Conv</em> all but Detect take Conv&rsquo;s, "
        "in <em>every conv</em> Detect too.</p>",
        figure(
            "sweeps", "All modules at one ratio: small weights against chance, single weights against whole filters."
        ),
        figure("sweeps-by-module", "One kind of module at a time."),
        "<h2>Figure 3: one ratio against ratios by module</h2>",
        table("figure-3", pruned),
        say(
            "The last row is the control that the paper lacks: as many zeros as by type of module, spread evenly. By type over that "
            "control: {control_points} points of mAP50."
        ),
        "<h2>Figure 4: L1 unstructured</h2>",
        table_html(frame("figure-4"), pruned),
        "<h2>Figure 5: L1 structured</h2>",
        table_html(frame("figure-5"), pruned),
        "<h2>Which p did the paper train, and what did it prune?</h2>",
        say(
            "{recipe_candidates:,} candidates by arithmetic alone: depth, width, classes, readings of module, ways to count. None that is not "
            "larger than n prints all six sparsities of Figures 4 and 5; {recipe_five_not_larger} print five, and pseudo-papers whose network is "
            "not among the candidates do as well in {recipe_chance_as_many_low_pct:.0f} to {recipe_chance_as_many_high_pct:.0f} % of cases. So p "
            "stays unknown. Firm is that SPPF and C3 were cut at Conv's ratio: the ratios by module had no effect."
        ),
        table("recipe-fits"),
        figure("recipe", "How far candidates print from the paper's six sparsities; grey: the same digits."),
        "<h2>Seen and unseen images</h2>",
        "<p>YOLOv5&rsquo;s tutorial validates coco128 on its training images. Every model on val and on test:</p>",
        table("val-and-test"),
        *(["<h2>Is our code faithful?</h2>", table("parity")] if len(frame("parity")) else []),
        "<h2>Zeros and speed</h2>",
        figure("latency-pruned", "Time of pruned networks over the dense one."),
        figure("sparse-tensors", "p's layers as sparse matrix products, the only way PyTorch has for sparse weights."),
        table_html(frame("conv2d-refusals")),
        *zeros(e, say, figure, table),
        "<h2>Look at it</h2>",
        figure("pictures", "The same test pictures: the truth, then each network, then p with weights zeroed."),
        "<h2>Every claim, judged</h2>",
        table_html(frame("claims"), ["claim", "where", "estimate", "threshold", "verdict", "table"]),
        "<p>The verdicts of this study beside those of the others that are published:</p>",
        table_html(claims.ledger(e)),
        "<h2>Does the paper agree with itself?</h2>",
        say("{audit_wrong} of {audit_rows} checks of its own arithmetic do not add up."),
        table_html(frame("audit")),
        "<h2>Limits</h2>",
        "<p>Small data sets, short trainings, few seeds, one machine, small images. Intervals of time ratios are over five "
        "processes of one run. The paper&rsquo;s data, classes, image size, schedule and p are "
        "not printed, so what fails here may hold there.</p>",
        "<h2>Run it again</h2>",
        f"<pre>.venv/bin/python -m yolop run {html.escape(e.study.name)}\n.venv/bin/python -m yolop verify {html.escape(e.study.name)}</pre>",
        f"<nav>Executed notebooks: {links}</nav>" if links else "",
        f"<footer><p>Computed on {html.escape(str(host['cpu']))}, {host['cores']} cores, Python {host['python']}, torch "
        f"{record.versions['torch']}, ultralytics {record.versions['ultralytics-opencv-headless']}. Data digest "
        f"{e.data().metrics['digest'][:16]}. Every number is in tables/, every record named in manifest.json. AGPL-3.0.</p></footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>yolop: {html.escape(e.study.name)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
