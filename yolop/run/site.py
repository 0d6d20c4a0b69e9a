"""A site to send a link to: the reports and executed notebooks of all published studies as static pages."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

from yolop import files
from yolop.files import write_atomically
from yolop.report import show
from yolop.run.notebooks import notebooks
from yolop.run.page import page
from yolop.run.publish import executed

INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>yolop</title>
<style>body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1.5rem 1rem; }}</style></head>
<body><h1>Shrinking and pruning YOLOv5, reproduced</h1>
<p>A paper of 2022, its every table and figure by real training and measuring, and a verdict on each of its sentences. Per study:
the report, and the notebooks as they were executed.</p>
{studies}
<p>{commit}</p></body></html>
"""


def site(folder: str) -> None:
    """Write the site into a folder: a page per report, and per notebook with its code. No page asks for anything elsewhere."""
    to, stems, studies = Path(folder), [path.stem for path in notebooks()], []
    for name in show.published():
        report = files.ROOT / "reports" / name
        whole = (report / "index.html").read_text(encoding="utf-8")
        pages = [whole, *(page([book], report, name, code=True) for book in _books(name, report, whole))]
        links = [("index", "report"), *((stem, stem.replace("_", " ")) for stem in stems)]
        for (stem, _), text in zip(links, pages, strict=True):
            others = " | ".join(f'<a href="{other}.html">{words}</a>' for other, words in links if other != stem)
            head = f'<body>\n<p><a href="../index.html">All studies</a> | {others}</p>'
            write_atomically(to / name / f"{stem}.html", text.replace("<body>", head, 1).encode())
        items = "".join(f'<li><a href="{name}/{stem}.html">{words}</a></li>' for stem, words in links)
        studies.append(f"<h2>{name}</h2><ul>{items}</ul>")
    write_atomically(to / "index.html", INDEX.format(studies="\n".join(studies), commit=commit()).encode())
    print(to / "index.html")


def _books(name: str, report: Path, whole: str) -> list[nbformat.NotebookNode]:
    """Executed notebooks of a study: those that lie here already, where they show what its committed page shows, else run anew."""
    own = notebooks()
    kept = [report / "notebooks" / path.name for path in own]
    sources = [_sources(nbformat.read(path, as_version=4)) for path in own]
    for paths in (kept, own):
        if all(path.exists() for path in paths):
            books = [nbformat.read(path, as_version=4) for path in paths]
            if all(map(set.issubset, sources, map(_sources, books))) and page(books, report, name) == whole:
                return books
    with TemporaryDirectory() as place:
        books, _ = executed(name, Path(place))
    for path, book in zip(kept, books, strict=True):
        write_atomically(path, (nbformat.writes(book) + "\n").encode())
    return books


def _sources(book: nbformat.NotebookNode) -> set[str]:
    return {cell.source for cell in book.cells}


def commit() -> str:
    """Which commit the site is made of, and its day; says so where files have changed since, or where there is no git."""
    git = ["git", "-C", str(files.ROOT)]
    try:
        name = subprocess.run([*git, "log", "-1", "--format=%h of %cs"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "Made from a copy without git, so its commit is not known."
    return f"Made from commit {name}{', with changes that are not committed' if changed else ''}."
