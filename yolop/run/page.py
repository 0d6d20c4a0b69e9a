"""index.html: what the notebooks of a study show, as one page without code, scripts, or requests to anywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from html import escape
from itertools import count
from pathlib import Path

import bleach
from bleach.css_sanitizer import CSSSanitizer
from nbconvert import HTMLExporter
from nbformat import NotebookNode, v4

from yolop import files
from yolop.files import read_json, sha256
from yolop.paper.claims import load
from yolop.report import further, plots  # noqa: F401 (whose figures have the captions)
from yolop.report.drawn import CAPTIONS
from yolop.store import Record, committed_path, run_folder

INERT = {  # what Markdown may become: names of classes come from strangers
    "tags": "a blockquote br code em h1 h2 h3 h4 h5 h6 hr li ol p pre strong table tbody td th thead tr ul".split(),
    "attributes": {"a": ["href", "title"], "th": ["style"], "td": ["style"]},
    "css_sanitizer": CSSSanitizer(allowed_css_properties=["text-align"]),
}
TABLE, HEAD = re.compile("<table>.*?</table>", re.DOTALL), re.compile("<th[^>]*>(.*?)</th>", re.DOTALL)
VERDICT = re.compile(r"<td[^>]*>((holds|does not hold|undecided|not run)( by construction)?(?::[^<]*)?)</td>")
FOLD, UNFOLD = "begin-of-a-notebook", "end-of-a-notebook"  # in place of what opens and closes a part that is folded away
SHOWN_BY = {  # table that a claim is judged by -> figure of the same numbers
    "layers": "architecture", "modules": "parameters-by-layer", "latency-models": "accuracy-and-time", "break-even": "atlas",
    "figure-2": "accuracy-and-time", "figure-3": "sweeps", "figure-4": "sweeps", "figure-5": "sweeps", "controls": "pretraining",
}  # fmt: skip
HEADING = re.compile(r"<h([1-5])>(.*?)</h\1>", re.DOTALL)
NOTHING = re.compile(r"<p><em>This study has nothing for this (?:figure|table)\.</em></p>")


def page(books: list[NotebookNode], report: Path, study: str, code: bool = False) -> str:
    """The page of a study: what its executed notebooks say and show, the last, which has the answer, first.

    Args:
        report: the folder with its manifest, and its figures as SVG, which take the place of pictures in pixels.
        code: show the code of the cells, too.
    """
    cells, placed, tables = [], {}, count(1)
    for book in (books[-1], *books[:-1]):
        own = [_captioned(deepcopy(cell), report / "figures", placed, tables) for cell in book.cells]
        own = [cell for cell in own if "readme-ko" not in cell.metadata.get("tags", [])]
        cells += own if book is books[-1] else [v4.new_markdown_cell(FOLD), *own, v4.new_markdown_cell(UNFOLD)]
    template = Path(__file__).parent / "template"
    exporter = HTMLExporter(
        template_name=template.name, extra_template_basedirs=[str(template.parent)], exclude_input=not code,
        exclude_anchor_links=True, filters={"inert_html": lambda text: bleach.clean(text, **INERT)},
    )  # fmt: skip
    title = f"Shrinking and pruning YOLOv5, reproduced: study {study}"
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    book = NotebookNode(cells=cells, metadata=NotebookNode(), nbformat=4, nbformat_minor=5)
    html, _ = exporter.from_notebook_node(book, {"title": title, "made": made_by(report / "manifest.json")})
    html = VERDICT.sub(lambda f: f'<td class="verdict {(f[3] or f[2]).strip().replace(" ", "-")}">{f[1]}</td>', html)
    return _folded(_with_links(_with_contents(_without_empty(TABLE.sub(_with_heads, html))), set(placed)))


def made_by(manifest: Path) -> str:
    """Which processors and versions the records of a manifest were computed with, and how to name this evidence, in words."""
    if not manifest.exists():
        return ""
    hosts, versions, used = Counter(), Counter(), read_json(manifest)["records"]
    for name, checksum in used.items():
        paths = committed_path(files.ROOT, name), run_folder(files.ROOT, name) / "record.json"
        found = (Record.read(path) for path in paths if path.exists())
        if record := next((record for record in found if record.checksum == checksum), None):
            hosts["{cpu}, {cores} cores".format(**record.host)] += 1
            versions[f"Python {record.host['python']}, PyTorch {record.versions.get('torch')}"] += 1
    where, what = ("; ".join(f"{name} ({n} records)" for name, n in counts.most_common()) for counts in (hosts, versions))
    return (
        f"Computed on: {where}. With: {what}. These are all {len(used)} records that manifest.json lists; its SHA-256 begins with "
        f"{sha256(manifest)[:12]}. A committed page cannot name its own commit and day; "
        f"git log -1 reports/{manifest.parent.name}/manifest.json does."
    )


def _with_heads(table: re.Match) -> str:
    """A table whose cells know the head of their column: a narrow screen shows it beside them."""
    heads = [re.sub("<[^>]*>", "", head).replace('"', "&quot;") for head in HEAD.findall(table[0])]
    cells = count()
    return re.sub("<td", lambda _: f'<td data-head="{heads[next(cells) % len(heads)]}"', table[0])


def _captioned(cell: NotebookNode, figures: Path, placed: dict[str, int], tables: Iterator[int]) -> NotebookNode:
    """A cell with numbered captions, whose figures are SVG where `figures` has the file that they name, so that text stays text.

    `placed` and `tables` number the figures and the tables of the page; a table whose cell is tagged "folded" is folded away.
    """
    for output in cell.get("outputs", []):
        caption, _, table = output.get("data", {}).get("text/markdown", "").partition("*\n\n|")
        if table and caption.startswith("*"):
            output.data["text/markdown"] = f"|{table}"
            output.data["caption"] = f"Table {next(tables)}. {caption[1:]}"
            output.data["folded"] = "folded" in cell.metadata.get("tags", [])
        named = re.match(r"Drawn\(name='([\w-]+)'", output.get("data", {}).get("text/plain", ""))
        if named:
            number = placed.setdefault(named[1], len(placed) + 1)
            output.data["caption"] = f"Figure {number}. {CAPTIONS.get(named[1], '')}"
            output.data["anchor"] = f"figure-{named[1]}"
        if named and (figures / f"{named[1]}.svg").exists():
            svg = (figures / f"{named[1]}.svg").read_text(encoding="utf-8")
            for mark in (' id="', 'xlink:href="#', "url(#"):  # several figures share one page
                svg = svg.replace(mark, f"{mark}{named[1]}-")
            label = named[1].replace("-", " ")
            output.data["image/svg+xml"] = f'<svg role="img" aria-label="{label}" ' + svg.split("<svg ", 1)[1]
    return cell


def _with_links(html: str, figures: set[str]) -> str:
    """The page with each claim of its first tables linked to the figure that shows the numbers it is judged by."""
    for claim in load().values():
        if claim.table in figures or claim.table in SHOWN_BY:
            cell, name = f">{escape(claim.text, quote=False)}</td>", SHOWN_BY.get(claim.table, claim.table)
            html = html.replace(cell, f'><a href="#figure-{name}">{cell[1:-5]}</a></td>') if name in figures else html
    return html


def _folded(html: str) -> str:
    """The page with every notebook but the one that sums up folded away under its title."""
    parts = html.split(f"<p>{FOLD}</p>")
    for i, part in enumerate(parts[1:], start=1):
        heading = re.search(r"<h2 .*?</h2>", part, re.DOTALL)
        inside = part.replace(heading[0], "", 1).replace(f"<p>{UNFOLD}</p>", "</details>")
        parts[i] = f"<details class=notebook><summary>{heading[0]}</summary>{inside}"
    return "".join(parts)


def _without_empty(html: str) -> str:
    """The page with one line in place of what is said about tables and figures where a section of this study has none of them."""
    parts = re.split(r"(?=<h[1-5]>)", html)
    for i, part in enumerate(parts):
        if NOTHING.search(part) and not re.search("<table|<figure", part):
            parts[i] = f"{HEADING.match(part)[0]}\n<p><em>This study has nothing for this section.</em></p>\n"
    return "".join(parts)


def _with_contents(html: str) -> str:
    """The page with a table of contents; headings are one level lower than in the notebooks, below that of the page."""
    head, body = html.split("<nav></nav>", 1)
    contents = []

    def placed(found: re.Match) -> str:
        level, text, place = int(found[1]) + 1, found[2], f"s{len(contents) + 1}"
        contents.append(f'<a href="#{place}"{" class=deeper" * (level > 2)}>{re.sub("<[^>]*>", "", text)}</a>')
        return f'<h{level} id="{place}">{text}</h{level}>'

    body = HEADING.sub(placed, body)
    return f"{head}<nav>\n" + "\n".join(contents) + f"\n</nav>{body}"
