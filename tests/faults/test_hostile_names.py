"""Names of classes and scripts in notebooks: text in every table, page and figure."""

import html.parser
import io
import json
import shutil
from types import SimpleNamespace

import nbformat
import pytest
from nbconvert.filters import markdown2html
from nbformat import v4
from strangers import ODD, encoded, notebook, odd_places

from yolop.data import datasets
from yolop.report import page, plots, reporting, tables
from yolop.run import runner
from yolop.specs import Study
from yolop.speed import runtimes


def test_scripts_in_a_notebook_do_not_reach_its_report(root, project, tmp_path, canary, seen):
    """Old outputs and foreign metadata are dropped; a kernel runs on a data set whose path is code, and classes that are HTML."""
    place = tmp_path / odd_places(canary)[0]
    shutil.copytree(root, place)
    lines = [
        "from yolop import datasets, reporting",
        "from IPython.display import Markdown",
        "from pathlib import Path",
    ]
    lines += ["import pandas", "names = datasets.read(Path(dataset)).names"]
    lines += ["Markdown(reporting.to_markdown(pandas.DataFrame({'class': names})))"]
    (place / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(list(ODD))}\n")
    path = notebook(project, "\n".join(lines))
    book = nbformat.read(path, as_version=4)
    kinds = ("text/html", "application/javascript", "image/svg+xml", "text/markdown", "text/latex")
    for cell in book.cells:
        cell.outputs = [v4.new_output("display_data", {kind: f"<script>{kind}</script>"}) for kind in kinds]
    book.metadata |= {"widgets": {"state": "<script>1</script>"}, "title": "<script>2</script>"}
    book.metadata.kernelspec = {"name": "evil", "display_name": "<script>3</script>", "language": "python"}
    nbformat.write(book, path)
    shutil.copy(path, path.with_name("02_not_run.ipynb"))  # without it an index would be written, of a whole study
    runner.run("smoke", [f"dataset={place / 'data.yaml'}"], only="01")
    (executed,) = (project / "reports").rglob("01_toy.ipynb")
    text = executed.read_text(encoding="utf-8")
    assert (
        "<script" not in text
        and "&lt;script" in text
        and set(json.loads(text)["metadata"]) <= {"kernelspec", "language_info"}
    )
    assert not list(tmp_path.rglob("canary"))
    seen("scripts in outputs and metadata of a notebook", len(book.cells) * len(kinds) + 3, "not in the executed one")


class Tags(html.parser.HTMLParser):
    """The tags and attributes of a text, and what stands in its cells."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.cells = set(), set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_of_classes_stay_text(root, tmp_path, monkeypatch, seen):
    import base64

    import pandas as pd

    monkeypatch.chdir(tmp_path)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(list(ODD))}\n")
    found = datasets.read(root / "data.yaml")
    assert found.names == ODD
    record = SimpleNamespace(metrics={"test": {"per_class": [{"name": name, "AP50": 0.5} for name in found.names]}})
    evidence = SimpleNamespace(study=Study("x"), trained=lambda label, seed: record)
    table = tables.per_class_table(evidence)
    in_markdown, in_page = Tags(markdown2html(reporting.to_markdown(table))), Tags(page.table_html(table))
    frame = {"table", "thead", "tbody", "tr", "th", "td"}
    assert in_page.tags - {"div"} <= frame and in_page.attributes <= {"class"}
    assert in_markdown.tags - frame <= {"code", "em", "strong", "a"}  # of `x`, *a* and https://...: looks only
    assert in_markdown.attributes <= {"style", "href"} and 'href="javascript' not in markdown2html(
        reporting.to_markdown(table)
    )
    columns = len(table.columns)
    assert [cell.strip() for cell in in_page.cells[::columns]] == list(ODD)
    assert pd.read_csv(io.StringIO(reporting.to_csv(table)), keep_default_na=False)["class"].tolist() == list(ODD)
    runtimes.describe(tmp_path, "onnxruntime", found.names, 64, [])
    assert json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))["names"] == list(ODD)
    jpeg = base64.b64encode(encoded("JPEG")).decode()
    boxes = [[i % 8 * 8, 8, i % 8 * 8 + 8, 30, 0.5, i] for i in range(len(ODD))]
    drawn = {
        "names": list(ODD),
        "pictures": [{"jpeg": jpeg, "truth": []}],
        "detections": [{"label": "n", "boxes": [boxes]}],
    }
    figure = plots.draw("pictures", None, SimpleNamespace(pictures=lambda: drawn))
    assert plots.to_jpeg(figure) and "<script" not in plots.to_svg(figure)
    assert not (tmp_path / "canary").exists()
    seen(
        "names of classes that are HTML, formulas, templates, code",
        len(ODD),
        "text in tables, page, figure, model.json",
    )
