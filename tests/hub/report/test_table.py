"""The report in a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from hub.report.report import Report
from hub.report.table import MOST_DEVICES, report_table
from tests.hub.report.made import full, made
from tests.hub.report.many import many
from tests.hub.rows import row


def printed(report: Report, width: int = 160) -> str:
    console = Console(width=width, markup=False, file=io.StringIO())
    console.print(report_table(report, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_tells_it_all() -> None:
    """Counts, delays with their error, the distribution, parts, what has changed, the slowest with their decisions."""
    text = printed(full())
    for shown in ("902 questions", "within 0.5%", "+ overhead", "by node", "by model", "by device", "what has changed"):
        assert shown in text
    for shown in ("slow: ", "= access 0.0 + network", "7 answers have no record", "3 records could not be written"):
        assert shown in text


@pytest.mark.parametrize("width", [48, 80, 100])
def test_a_narrow_terminal_is_told_it_all(width: int) -> None:
    """Figures and headings are the same as in a wide one, none of them cut, and no line is longer than the terminal."""
    report = full()
    wide, narrow = printed(report), printed(report, width)
    assert "…" not in narrow
    assert set(re.findall(r"[│┃] +([\d.,]+%?) +(?=[│┃])", wide)) <= set(re.findall(r" ([\d.,]+%?) ", narrow))
    assert max(map(len, narrow.splitlines())) <= width


def test_an_empty_window_says_so() -> None:
    """One sentence, and what is missing."""
    lines = printed(made([])).splitlines()
    assert lines[0] == "No question has ended: nothing to report."
    assert len(lines) == 3


def test_the_busiest_devices_only() -> None:
    """More would bury the rest; it says how many there are."""
    rows = [row(device=f"d{number:03}") for number in range(100) for _ in range(1 + (number % 10 == 0))]
    text = printed(made(rows, slowest=0))
    assert f"the busiest {MOST_DEVICES} of 100" in text
    assert "d090" in text
    assert "d099" not in text


def test_names_give_the_terminal_no_orders() -> None:
    """Control characters of names, ids and error texts are shown as question marks, markup as it is."""
    text = printed(made([row(device="\x1b[31mred", node="[bold]b[/bold]", id="\x07bell", outcome="answered")] * 2))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "?[31mred" in text
    assert "[bold]b" in text


def test_every_row_of_a_table_is_whole() -> None:
    """A part without any answer has dashes, not zeros."""
    text = printed(made([*many(20), row(node="z", outcome="deadline")]))
    (line,) = (line for line in text.splitlines() if line.startswith("│ z "))
    assert line.count(" - ") >= 10
