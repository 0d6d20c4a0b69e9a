"""A site to send a link to: the reports and executed notebooks of all published studies as static pages.

    python benchmarks/site.py [FOLDER]      # or: make site; default: site

Everything is made from committed records, without PyTorch. No page asks for anything outside itself, which
`python benchmarks/screenshots.py OUT site` checks in a browser.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

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


def commit() -> str:
    """Which commit the site is made of, and its day; says so where files have changed since, or where there is no git."""
    git = ["git", "-C", str(files.ROOT)]
    try:
        name = subprocess.run([*git, "log", "-1", "--format=%h of %cs"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "Made from a copy without git, so its commit is not known."
    return f"Made from commit {name}{', with changes that are not committed' if changed else ''}."


def main(site: Path) -> None:
    """Write the site into a folder, anew."""
    shutil.rmtree(site, ignore_errors=True)
    stems, studies = [path.stem for path in notebooks()], []
    for name in show.published():
        links = [("index", "report"), *((stem, stem.replace("_", " ")) for stem in stems)]
        with TemporaryDirectory() as place:
            books, out = executed(name, Path(place))
            pages = [page(books, out, name), *(page([book], out, name, code=True) for book in books)]
        for (stem, _), text in zip(links, pages, strict=True):
            others = " | ".join(f'<a href="{to}.html">{words}</a>' for to, words in links if to != stem)
            head = f'<body>\n<p><a href="../index.html">All studies</a> | {others}</p>'
            write_atomically(site / name / f"{stem}.html", text.replace("<body>", head, 1).encode())
        items = "".join(f'<li><a href="{name}/{to}.html">{words}</a></li>' for to, words in links)
        studies.append(f"<h2>{name}</h2><ul>{items}</ul>")
    write_atomically(site / "index.html", INDEX.format(studies="\n".join(studies), commit=commit()).encode())
    print(f"{site / 'index.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
