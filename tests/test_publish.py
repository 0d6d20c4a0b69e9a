"""Publishing takes all records or none, and writes every file that follows from them."""

from __future__ import annotations

import nbformat
import pytest
from support import CENSUS, PARAMETERS, REPORTS, committed, toy, used

from yolop import store
from yolop.__main__ import main
from yolop.run import publish
from yolop.specs import CensusSpec, SpecError, run_id

TWO = CensusSpec("two", CENSUS.models, nc=3, imgsz=64)
FIRST = "f = 'first'\nf"


@pytest.fixture
def records(project, monkeypatch):
    """Two computed records, one of which the notebooks of the project use."""
    monkeypatch.setitem(store.COMPUTE, "census", "support:compute")
    toy(project, "01_first", FIRST)
    toy(project, "02_last", REPORTS, parameters=PARAMETERS.replace("digits", "smoke"))
    return [store.get_or_run(project, spec, {}) for spec in (CENSUS, TWO)]


def test_all_records_or_none(project, records, capsys):
    assert main(["publish", "nope"]) == 2
    assert main(["publish", "smoke"]) == 1 and "nothing to publish" in capsys.readouterr().err
    used(project, "smoke", *records)
    (store.run_folder(project, run_id(TWO)) / "weights.bin").write_bytes(b"12")
    assert main(["publish", "smoke"]) == 1 and run_id(TWO) in capsys.readouterr().err
    assert not (project / "data" / "records").exists()


def test_what_follows_from_the_records_is_written(project, records, monkeypatch):
    old = store.committed_path(project, "census-old-64px-00000000")
    old.parent.mkdir(parents=True)
    old.touch()
    other = project / "reports" / "smoke" / "tables" / "old.csv"
    other.parent.mkdir(parents=True)
    other.touch()
    used(project, "smoke", *records)
    monkeypatch.setattr(publish, "DEFAULT", "smoke")
    assert main(["publish", "smoke"]) == 0
    kept = {path.stem for path in (project / "data" / "records").iterdir()}
    assert kept == {run_id(CENSUS)}  # no notebook uses the other, nor the old one
    assert store.read_committed(project, run_id(CENSUS)).metrics == {"params": 7}
    parent = store.committed_path(project, "official-x-00000000")
    parent.touch()
    assert publish.unneeded() == [parent]
    record = store.read_committed(project, run_id(CENSUS))
    record.metrics["of"] = f"matching:{parent.stem}"
    committed(project, record)
    assert publish.unneeded() == []  # what a used record starts from is no waste
    report = project / "reports" / "smoke"
    assert sorted(path.relative_to(report).as_posix() for path in report.rglob("*.*")) == [
        "figures/toy.svg", "index.html", "manifest.json", "tables/toy.csv",
    ]  # fmt: skip
    assert (report / "tables" / "toy.csv").read_text() == "params\n7\n"
    book = nbformat.read(project / "notebooks" / "02_last.ipynb", as_version=4)
    assert [dict(cell.metadata) for cell in book.cells] == [{}, {"tags": ["parameters"]}, {}]
    code = book.cells[1:]
    assert [cell.execution_count for cell in code] == [1, 2] and code[1].outputs[0].execution_count == 2
    assert code[1].outputs[0].data["text/plain"] == "7" and set(book.metadata) == {"kernelspec", "language_info"}


def test_only_the_default_study_fills_the_notebooks(project, records):
    used(project, "smoke", records[0])
    before = (project / "notebooks" / "02_last.ipynb").read_bytes()
    committed(project, records[0])  # a record that was published before need not be computed here
    (store.run_folder(project, run_id(CENSUS)) / "record.json").unlink()
    publish.publish("smoke")
    assert (project / "notebooks" / "02_last.ipynb").read_bytes() == before


def test_readme_quotes_the_last_notebook(project):
    def cell(tag, text):
        output = nbformat.v4.new_output("execute_result", {"text/markdown": text, "text/plain": "..."})
        return nbformat.v4.new_code_cell("", metadata={"tags": [tag]}, outputs=[output])

    parts = [("readme-table", "| a |"), ("readme", "Of 31 claims"), ("readme-ko", "주장")]
    book = nbformat.v4.new_notebook(cells=[cell(*part) for part in parts])
    for file in ("README.md", "README.ko.md"):
        (project / file).write_text("# Top\n<!-- results: by a machine -->\nearlier ones\n<!-- /results -->\nend\n")
    report = project / "reports" / "bccd"
    report.mkdir(parents=True)
    (report / "claims.json").write_text("[]")
    texts = publish._front_pages(book, report)
    assert set(texts) == {"README.md", "README.ko.md", "reports/ledger.md"}
    top, _, shown = texts["README.md"].partition("<!-- results: by a machine -->\n\n| a |\n\nOf 31 claims\n\n|")
    assert top == "# Top\n" and shown.endswith("\n<!-- /results -->\nend\n")
    assert "earlier" not in shown and "bccd" in shown
    assert "\n\n주장\n\n|" in texts["README.ko.md"] and texts["reports/ledger.md"].startswith("# Every claim")
    with pytest.raises(SpecError, match="readme-table"):
        publish._front_pages(nbformat.v4.new_notebook(), report)
