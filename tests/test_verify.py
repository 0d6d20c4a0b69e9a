"""Everything that is committed is compared with what the records give, and every difference is named."""

from __future__ import annotations

import json

import nbformat
import pytest
from support import CENSUS, REPORTS, committed, toy, used

from yolop import files, store
from yolop.__main__ import main
from yolop.run import publish, verify
from yolop.specs import run_id


@pytest.fixture
def published(project, monkeypatch):
    """A project with one published study, which is also the default one."""
    monkeypatch.setitem(store.COMPUTE, "census", "support:compute")
    toy(project, "01_first", "1 + 1")
    toy(project, "02_last", REPORTS)
    record = store.get_or_run(project, CENSUS, {})
    used(project, "smoke", record)
    committed(project, record)
    monkeypatch.setattr(publish, "DEFAULT", "smoke")
    publish.write("smoke", publish.made("smoke"))
    return project


def test_verify_names_every_difference(published, capsys):
    assert main(["verify", "smoke"]) == 0
    assert capsys.readouterr().out == "smoke:\n6 files equal\n"
    report = published / "reports" / "smoke"
    figure, page, notebook = report / "figures/toy.svg", report / "index.html", published / "notebooks/02_last.ipynb"
    book = nbformat.read(notebook, as_version=4)
    book.metadata["language_info"]["version"] = "3.11.9"  # as JupyterLab saves it: no difference
    book.cells[2].outputs[0].data["text/plain"] = "8"
    nbformat.write(book, notebook)
    figure.write_text(figure.read_text().replace("red", "blue"))
    page.write_text(page.read_text().replace("<h1>", "<h1>Of 31 claims 31 hold. "))
    (report / "tables" / "toy.csv").write_bytes(b"params\r\n7\r\n")
    (report / "tables" / "more.csv").touch()
    (report / "manifest.json").unlink()
    (report / "manifest.json").write_text(json.dumps({"study": "smoke", "records": {}}))
    assert main(["verify", "smoke"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "smoke:" and lines[-1] == "1 files equal"  # the first notebook
    beginnings = [
        "differs  notebooks/02_last.ipynb: line ", "differs  reports/smoke/figures/toy.svg: line 1 is ",
        "differs  reports/smoke/index.html: line ", "differs  reports/smoke/manifest.json: line 1 is ",
        "differs  reports/smoke/tables/toy.csv: line ends differ", "extra    reports/smoke/tables/more.csv",
    ]  # fmt: skip
    assert all(line.startswith(start) for line, start in zip(lines[1:-1], beginnings, strict=True)), lines
    assert "blue" in lines[2] and "red" in lines[2] and "31 hold" in lines[3]


def test_verify_without_a_name_also_names_records_that_no_report_needs(published, capsys):
    assert verify.verify()
    path = store.committed_path(published, "census-old-64px-00000000")
    path.touch()
    (published / "notebooks" / "01_first.ipynb").unlink()
    toy(published, "01_first", "1 + 2")  # saved without outputs
    capsys.readouterr()
    assert not verify.verify()
    printed = capsys.readouterr().out
    assert f"extra    {path.relative_to(published)}" in printed and "differs  notebooks/01_first.ipynb" in printed


def test_a_number_that_was_edited_is_found_with_a_right_checksum_too(published, capsys):
    path = store.committed_path(published, run_id(CENSUS))
    record = store.read_committed(published, run_id(CENSUS))
    record.metrics["params"] += 1
    path.write_text(record.to_json(), encoding="utf-8")
    assert not verify.verify("smoke")
    assert "tables/toy.csv: line 2 is '7', the records give '8'" in capsys.readouterr().out
    path.write_text("{}")
    assert main(["verify", "smoke"]) == 1 and run_id(CENSUS) in capsys.readouterr().err
    assert main(["verify", "paper"]) == 1 and "never published" in capsys.readouterr().err
    assert main(["verify", "nope"]) == 2
    assert files.ROOT == published
