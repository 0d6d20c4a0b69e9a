"""Faults: what happens to long runs, on shared machines, with files from strangers. Run by `make test-faults`.

The last line of each test says what it has seen, as a row of one table: the fault, how often it was tried, the outcome, and
how many results were lost by it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from strangers import GOOD, notebook, picture

TITLE = "# Faults\n\nWhat the last whole run saw; `make test-faults TABLE=reports/faults.md` writes this page anew.\n\n"
HEAD = "| Fault | Tries | Outcome | Lost |\n| --- | ---: | --- | ---: |\n"


def pytest_addoption(parser):
    parser.addoption("--faults-table", metavar="FILE", help="write the table of faults as Markdown")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def seen(record_property):
    """`seen(fault, tries, outcome, lost=0)`: a row of the table, which has those of tests that passed, of all processes."""

    def row(fault: str, tries: int, outcome: str, lost: int = 0):
        record_property("fault", f"| {fault} | {tries:,} | {outcome} | {lost} |\n")

    return row


@pytest.fixture
def canary(tmp_path):
    """A file that must not come into being: the code of strangers would make it."""
    return tmp_path / "canary"


@pytest.fixture
def root(project, tmp_path):
    """A small good data set, in a folder beside things that are none of its business; a project with one notebook."""
    notebook(project)
    root = tmp_path / "set"
    for split in ("train", "val"):
        picture(root / f"images/{split}/0.png", split)
        picture(tmp_path / f"private/images/{split}/0.png", split)
    (root / "data.yaml").write_text(GOOD)
    (tmp_path / "private/list.txt").write_text("images/train/0.png\n")
    return root


def pytest_terminal_summary(terminalreporter, config):
    passed = sorted(terminalreporter.stats.get("passed", []), key=lambda report: report.location[:2])
    table = HEAD + "".join(row for report in passed for name, row in report.user_properties if name == "fault")
    if table == HEAD:
        return
    terminalreporter.section("faults")
    terminalreporter.write(table)
    if config.getoption("--faults-table", None):
        Path(config.getoption("--faults-table")).write_text(TITLE + table, encoding="utf-8")
