"""The answers of docs/questions.md are what the committed tables say, and their commands exist."""

from __future__ import annotations

import re
import shlex

import pandas as pd
import pytest
from support import HERE

from yolop.__main__ import parser

SECTIONS = re.split(r"^## ", (HERE / "docs" / "questions.md").read_text(encoding="utf-8"), flags=re.M)[1:]
NUMBER = re.compile(r"(?<![\w.,=])(\d+\.\d+|\d+(?= %))(?![\w.]|,\d)")
ASKED = {"90", "50", "95"}  # shares that were asked for, and the level of intervals


def cells(section: str) -> list[float]:
    tables = [pd.read_csv(HERE / "docs" / link) for link in re.findall(r"\]\((\S+\.csv)\)", section)]
    return [value for table in tables for value in table.select_dtypes("number").to_numpy().ravel()]


def test_there_are_ten_questions_each_with_an_answer_of_few_lines_and_its_proof():
    assert len(SECTIONS) == 10
    for section in SECTIONS:
        question, answer, proof = section.strip().splitlines()
        assert question.endswith("?") and len(answer) < 280 and re.search(r"\.csv\)", proof)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.splitlines()[0])
def test_every_number_of_an_answer_stands_in_its_tables(section):
    known = cells(section)
    for text in NUMBER.findall(re.sub(r"`[^`]*`|\d+ (?:to \d+ )?px", "", section)):
        digits = len(text.partition(".")[2])
        found = {f"{scale * value:.{digits}f}" for value in known for scale in (1, 100, 1e-6)}
        assert text in found or text in ASKED, f"{text} is in none of its tables"


def test_commands_are_ones_that_the_command_line_takes():
    for command in re.findall(r"`python -m yolop ([^`]+)`", "".join(SECTIONS)):
        parser().parse_args(shlex.split(command))
