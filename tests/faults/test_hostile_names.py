"""Names of classes and scripts in notebooks: text in every table, page and figure."""

import html.parser
import io
import json
import shutil

import nbformat
import pytest
from nbconvert.filters import markdown2html
from nbformat import v4
from strangers import ODD, encoded, odd_places
from support import toy

from yolop.data import folder
from yolop.report import plots, show
from yolop.run import runner
from yolop.run.page import page
from yolop.speed import runtimes

SHOWS = """import shlex
from pathlib import Path
import pandas
from yolop.data import folder
from yolop.report import show
path = Path(shlex.split(settings)[0].removeprefix("dataset="))
show.table(pandas.DataFrame({"class": folder.read(path).names}))"""


def test_scripts_in_a_notebook_do_not_reach_its_report(root, project, tmp_path, canary, seen):
    """Old outputs and foreign metadata are dropped; a kernel runs on a data set whose path is code, and classes that are HTML."""
    place = tmp_path / odd_places(canary)[0]
    shutil.copytree(root, place)
    (place / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(list(ODD))}\n")
    path = toy(project, "01_toy", SHOWS)
    book = nbformat.read(path, as_version=4)
    kinds = ("text/html", "application/javascript", "image/svg+xml", "text/markdown", "text/latex")
    for cell in book.cells[1:]:
        cell.outputs = [v4.new_output("display_data", {kind: f"<script>{kind}</script>"}) for kind in kinds]
    book.metadata |= {"widgets": {"state": "<script>1</script>"}, "title": "<script>2</script>"}
    book.metadata.kernelspec = {"name": "python3", "display_name": "<script>3</script>", "language": "python"}
    nbformat.write(book, path)
    runner.run("smoke", [f"dataset={place / 'data.yaml'}"], records="committed")
    (executed,) = (project / "reports").rglob("01_toy.ipynb")
    text = executed.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script" in text
    assert set(json.loads(text)["metadata"]) <= {"kernelspec", "language_info"}
    assert "<script" not in executed.parent.with_name("index.html").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("canary"))
    seen("scripts in outputs and metadata of a notebook", len(book.cells) * len(kinds) + 3, "in neither output nor page")


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
    names = folder.read(root / "data.yaml").names
    assert names == ODD
    table = pd.DataFrame({"class": names, "AP50": 0.5})
    markdown = show.to_markdown(table)
    output = v4.new_output("execute_result", {"text/markdown": markdown, "text/plain": "..."})
    whole = page([v4.new_notebook(cells=[v4.new_code_cell(outputs=[output])])], tmp_path, "x")
    in_markdown, in_page = Tags(markdown2html(markdown)), Tags(whole[whole.index("<table") : whole.index("</table>")])
    frame = {"table", "thead", "tbody", "tr", "th", "td"}
    for found in (in_markdown, in_page):
        assert found.tags - frame <= {"code", "em", "strong", "a"}  # of `x`, *a* and https://...: looks only
        assert found.attributes <= {"style", "href", "data-head"}
    assert 'href="javascript' not in markdown2html(markdown) + whole
    cells = [[cell.strip() for cell in found.cells] for found in (in_page, in_markdown)]
    assert cells[0] == cells[1] and len(cells[0]) == table.size
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    assert pd.read_csv(io.StringIO(text), keep_default_na=False)["class"].tolist() == list(ODD)
    runtimes.describe(tmp_path, "onnxruntime", names, 64, [])
    assert json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))["names"] == list(ODD)
    jpeg = base64.b64encode(encoded("JPEG")).decode()
    boxes = [[i % 8 * 8, 8, i % 8 * 8 + 8, 30, 0.5, i] for i in range(len(ODD))]
    drawn = {
        "names": list(ODD),
        "pictures": [{"jpeg": jpeg, "truth": []}],
        "detections": [{"label": "n", "boxes": [boxes]}],
    }
    figure = plots.pictures(drawn)
    assert figure.jpeg() and "<script" not in figure.svg()
    assert not (tmp_path / "canary").exists()
    seen("names of classes that are HTML, formulas, templates, code", len(ODD), "text in tables, page, figure, model.json")
