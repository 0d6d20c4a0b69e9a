"""The page of a report: one file that holds text, tables and figures of the notebooks, and reaches for nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from nbformat import v4

from yolop.report import show
from yolop.run.page import page

TABLE = "| claim | verdict |\n| :-- | --: |\n| p < n | does not hold |\n| &lt;script> | holds |\n"
TABLE += "| q | undecided: one training seed |\n| r | holds by construction |\n"
SVG = '<?xml version="1.0"?>\n<svg width="9"><defs><path id="a"/></defs><use xlink:href="#a"/><g clip-path="url(#a)"/>{}</svg>\n'


def shown(kind: str, content: str, text: str = "..."):
    return v4.new_code_cell("secret = 1", outputs=[v4.new_output("execute_result", {kind: content, "text/plain": text})])


@pytest.fixture
def html(tmp_path):
    """The page of two notebooks."""
    (tmp_path / "figures").mkdir()
    for name in ("one", "two"):
        (tmp_path / "figures" / f"{name}.svg").write_text(SVG.format(f"<text>{name} é</text>"), encoding="utf-8")
    drawn = "Drawn(name='{}', figure=<Figure size 900x460 with 2 Axes>, photographic=False)"
    first = [
        v4.new_markdown_cell("# 01 First\n\nA *word*.\n\n## Limits"), shown("image/png", "AAAA", drawn.format("one")),
        shown("image/png", "AAAA", drawn.format("two")), shown("image/png", "BBBB", drawn.format("absent")),
        shown("text/html", "<script>1</script>", "plain <b>"),
        v4.new_code_cell("", outputs=[v4.new_output("stream", text="said <i>")]),
        v4.new_code_cell("", metadata={"tags": ["folded"]}, outputs=shown("text/markdown", f"*Many & long.*\n\n{TABLE}").outputs),
    ]  # fmt: skip
    last = [
        v4.new_markdown_cell("# 02 Last\n\n## Limits"),
        shown("text/markdown", f"*The verdicts.*\n\n{TABLE}"), shown("image/jpeg", "CCCC"),
        shown("text/markdown", '<img src="http://x/y.png"> ![x](http://x/y.png) <a onclick="1">a</a>\n\n<script>2</script>'),
        v4.new_code_cell("", metadata={"tags": ["readme-ko"]}, outputs=shown("text/markdown", "주장").outputs),
    ]  # fmt: skip
    books = [v4.new_notebook(cells=first), v4.new_notebook(cells=last)]
    text = page(books, tmp_path, "toy & co")
    assert page(books, tmp_path, "toy & co") == text and "image/svg+xml" not in first[1].outputs[0].data
    return text


def test_it_shows_what_the_notebooks_show_the_last_first(html):
    order = ("02 Last</h2>", "<td", "CCCC", "01 First</h2>", "<em>word</em>", "one é", "two é", "BBBB")
    places = [html.index(text) for text in order]
    assert places == sorted(places) and "toy &amp; co" in html
    assert "AAAA" not in html and "secret" not in html and "주장" not in html
    assert "plain &lt;b&gt;" in html and "said &lt;i&gt;" in html
    verdict = '<td data-head="verdict" class="verdict '
    assert f'{verdict}does-not-hold">does not hold</td>' in html and f'{verdict}holds">' in html
    assert f'{verdict}undecided">undecided: one training seed</td>' in html
    assert f'{verdict}by-construction">holds by construction</td>' in html


def test_tables_have_numbered_captions_and_fold_where_their_cell_says_so(html):
    assert '<p class="caption">Table 1. The verdicts.</p>' in html  # of the last notebook, which comes first
    assert '<details><summary class="caption">Table 2. Many &amp; long.</summary>' in html


def test_a_section_without_any_table_or_figure_becomes_one_line(tmp_path):
    first, second, third = (shown("text/markdown", show.nothing().data) for _ in range(3))
    empty = [v4.new_markdown_cell("# 01 Only\n\n## Empty\n\nThe lines below are dashed."), first, second]
    half = [v4.new_markdown_cell("## Half\n\nSome."), third, shown("text/markdown", TABLE)]
    html = page([v4.new_notebook(cells=empty + half)], tmp_path, "toy")
    assert html.count("nothing for this section") == html.count("nothing for this figure") == 1
    assert "dashed" not in html and "Some." in html and "Empty</h3>" in html


def test_contents_lead_to_every_heading(html):
    links = re.findall(r'<a href="#(\w+)"(?: class=deeper)?>(.*?)</a>', html)
    headings = re.findall(r'<h[23] id="(\w+)">(.*?)</h[23]>', html)
    assert links == headings and [text for _, text in links] == ["02 Last", "Limits", "01 First", "Limits"]
    assert html.count("<h1>") == 1


def test_several_figures_share_one_page(html):
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids)) and {"one-a", "two-a"} <= set(ids)
    assert set(re.findall(r'(?:xlink:href="|url\()#([\w-]+)', html)) == {"one-a", "two-a"}


class Attributes(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]


def test_it_reaches_for_nothing_and_runs_nothing(html):
    found = Attributes(html)
    assert not found.tags & {"script", "link", "iframe", "object", "base"} and "img" in found.tags
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/") for _, name, value in found.attributes if name == "src")
    assert all(value.startswith("#") for tag, name, value in found.attributes if name.endswith("href") and tag != "a")
    assert "&lt;script&gt;" in html and "url(http" not in html and "@import" not in html
