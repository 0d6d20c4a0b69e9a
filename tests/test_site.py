"""The site takes the notebooks that lie here executed, where they show what is committed, and links only to what it holds."""

from __future__ import annotations

import re

import pytest
from support import CENSUS, PARAMETERS, REPORTS, toy, used

from yolop import store
from yolop.__main__ import main
from yolop.run import publish, site


@pytest.fixture
def published(project, monkeypatch):
    """A study of two notebooks, published, whose executed notebooks are those of the project."""
    monkeypatch.setitem(store.COMPUTE, "census", "support:compute")
    monkeypatch.setattr(publish, "DEFAULT", "smoke")
    toy(project, "01_first", "f = 'first'\nf")
    toy(project, "02_last", REPORTS, parameters=PARAMETERS.replace("digits", "smoke"))
    used(project, "smoke", store.get_or_run(project, CENSUS, {}))
    publish.publish("smoke")
    return project


def test_links_lead_to_pages_of_the_site_and_nothing_is_executed_twice(published, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(site, "executed", lambda name, place: runs.append(name) or publish.executed(name, place))
    mine = tmp_path / "pages" / "mine.txt"
    mine.parent.mkdir()
    mine.touch()
    assert main(["site", str(mine.parent)]) == 0 and not runs and mine.exists()
    pages = {path.relative_to(mine.parent).as_posix(): path for path in mine.parent.rglob("*.html")}
    assert set(pages) == {"index.html", "smoke/index.html", "smoke/01_first.html", "smoke/02_last.html"}
    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        links = re.findall(r'(?:href|src)="([^"#:]+)"', text)
        assert links and all((path.parent / link).exists() for link in links)
        assert "http" not in text.replace("http://www.w3.org", "")
    assert "f = 'first'" in pages["smoke/01_first.html"].read_text(encoding="utf-8")
    assert "f = 'first'" not in pages["smoke/index.html"].read_text(encoding="utf-8")


def test_notebooks_that_show_something_else_are_executed_once(published, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(site, "executed", lambda name, place: runs.append(name) or publish.executed(name, place))
    book = published / "notebooks" / "02_last.ipynb"
    book.write_text(book.read_text(encoding="utf-8").replace('"7"', '"8"'), encoding="utf-8")
    for _ in range(2):
        site.site(str(tmp_path / "pages"))
        assert "8" not in re.findall(r"<pre>(\d)</pre>", (tmp_path / "pages/smoke/02_last.html").read_text(encoding="utf-8"))
    assert runs == ["smoke"]
