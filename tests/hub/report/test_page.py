"""The page of a report, as a browser would take it apart."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import pytest

from hub.errors import ReportError
from hub.report.page import SHADES, TEMPLATE, heat_lines, page
from hub.report.report import Report
from hub.report.timing import STAGES
from tests.hub.report.made import HOSTILE, full, hostile, made
from tests.hub.report.many import many
from tests.hub.rows import row

VOID = {"meta", "br", "link", "img", "input", "hr"}
REPORT = full()


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text; asserts that what is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.append((self._open[-1], data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, *tags: str) -> str:
        return " ".join(text for tag, text in self.texts if not tags or tag in tags)


def test_a_page_is_whole() -> None:
    """Everything that the report has is there; ids are unique, and what is named by one exists."""
    taken = Page(page(REPORT))
    text = re.sub(r"\s+", " ", taken.text())
    for heading in ("objective", "How long answers took", "Where the time went", "p95 by node", "What has changed"):
        assert heading in taken.text("h2")
    assert "slowest questions" in taken.text("h2")
    assert f"{REPORT.fleet.questions:,} questions" in taken.text("h1")
    for one in (*REPORT.nodes, *REPORT.models, *REPORT.devices):
        assert one.name in taken.text("th")
    for line in ("7 answers have no record", "3 records could not be written"):
        assert line in text
    for one in REPORT.slowest:
        assert one.why in text
        assert all(decision in text for decision in one.decisions)
    ids = [attributes["id"] for _, attributes in taken.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [name for _, one in taken.tags for name in one.get("aria-labelledby", "").split()]
    assert set(named) <= set(ids)


def test_nothing_is_fetched_and_nothing_runs() -> None:
    """No script, no handler, no address, neither in markup nor in the style sheet."""
    html = page(REPORT)
    taken = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "use", "image"} & {
        tag for tag, _ in taken.tags
    }
    for _, attributes in taken.tags:
        assert not {name for name in attributes if name.startswith("on") or name in ("href", "src", "srcset", "action")}
    assert not re.search(r"https?:|url\(|@import|javascript:", html)


@pytest.mark.parametrize("name", ["device", "id", "node", "bundle", "model", "outcome"])
def test_no_name_becomes_markup(name: str) -> None:
    """Whatever somebody called a thing is shown as it is: as text, in tables, charts, titles and decisions."""
    attack = '"><img src=x onerror=alert(1)></style></svg></title><script>alert(2)</script><!-- {{ 7*7 }}'
    rows = [*many(30), hostile(**{name: attack})]
    taken = Page(page(made(rows, slowest=31)))
    assert not taken.all("img") + taken.all("script")
    assert not [one for _, one in taken.tags if any(key.startswith("on") for key in one)]
    if name != "bundle":  # which no table names
        assert "onerror=alert(1)" in taken.text()
        assert "{{ 7*7 }}" in taken.text()


def test_hostile_words_of_the_store() -> None:
    """Also what the hub said about lost records is text."""
    assert HOSTILE in REPORT.missing.why
    taken = Page(page(REPORT))
    assert HOSTILE in taken.text("p")


def test_each_chart_is_told_in_words_and_figures() -> None:
    """A drawing has a title and a description, a table has a caption and headings, and scrolls by keyboard."""
    taken = Page(page(REPORT))
    for drawing in (one for one in taken.all("svg") if one.get("aria-hidden") != "true"):
        assert (drawing["role"], len(drawing["aria-labelledby"].split())) == ("img", 2)
    assert len(taken.all("table")) == len(taken.all("caption"))
    assert all("scope" in one for one in taken.all("th"))
    assert {one.get("tabindex") for one in taken.all("div") if "scroll" in one.get("class", "")} == {"0"}
    assert taken.all("html")[0]["lang"] == "en"


def test_light_dark_print_and_phone() -> None:
    """The style sheet has all four, and the charts two sizes."""
    html = page(REPORT)
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem", 'name="viewport"'):
        assert rule in html
    plots = [one["class"] for one in Page(html).all("svg") if "plot" in one.get("class", "")]
    assert plots.count("plot wide") == plots.count("plot narrow") == 3
    for name in STAGES:
        assert html.count(f"--{name}:") == 2


def test_an_empty_window_says_so() -> None:
    """And nothing else, but for what is missing."""
    taken = Page(page(made([])))
    assert "Nothing to report" in taken.text("h1")
    assert "No question has ended" in taken.text("p")
    assert not taken.all("svg") + taken.all("table")
    assert "7 answers have no record" in taken.text("p")


@pytest.mark.parametrize(
    "report", [made([row()]), made([row(outcome="deadline")]), made([row(partial=True)]), made([row(total_ms=0.0)])]
)
def test_one_question(report: Report) -> None:
    """Answered, failed, pieced together, or in no time at all: a page."""
    assert "1 question in" in Page(page(report)).text("h1")


def test_heat_map_has_a_shade_for_each_figure() -> None:
    """Every shade is in the style sheet; a slot without answers has none; the slowest cell is the darkest."""
    heat = REPORT.heat_map
    shades = [cell.shade for line in heat_lines(heat) for cell in line.cells]
    values = [value for row in heat.nodes for value in row.p95_ms]
    assert [shade is None for shade in shades] == [value is None for value in values]
    told = [(value, shade) for value, shade in zip(values, shades, strict=True) if value is not None]
    assert (min(told)[1], max(told)[1]) == (0, SHADES - 1)
    ordered = [shade for _, shade in sorted(told)]
    assert ordered == sorted(ordered, key=lambda shade: shade or 0)
    style = TEMPLATE.read_text("utf-8")
    assert all(f".s{number} {{" in style for number in range(SHADES))


def test_names_that_are_no_text() -> None:
    """A lone surrogate, which no page can hold, is written out."""
    assert "\\udc80" in page(made([row(node="a\udc80")]))


def test_without_jinja2(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ReportError, match=r"install edgefleet\[hub\]"):
        page(REPORT)
