"""Tables in a terminal that is narrower than they are."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from hub.narrow import tables_that_fit

FIGURES = [f"{number},345.6" for number in range(12)]


def made() -> Table:
    """Two rows of twelve figures; the name of the second row is long, and looks like markup."""
    table = Table(title="by node", caption="hubs: none")
    table.add_column("node")
    for number in range(len(FIGURES)):
        table.add_column(f"p{number}", justify="right")
    table.add_row("a", *FIGURES)
    table.add_row("[b]" + "n" * 60, *reversed(FIGURES))
    return table


def printed(width: int) -> str:
    console = Console(width=width, markup=False, file=io.StringIO())
    for table in tables_that_fit(made(), width):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [30, 40, 80, 120])
def test_no_figure_is_cut(width: int) -> None:
    """Each stands there whole in each row, nothing is wider than the terminal, and the title is told once."""
    text = printed(width)
    assert [text.count(f" {figure} ") for figure in FIGURES] == [2] * len(FIGURES)
    assert "…" not in text
    assert text.count("n" * 10) >= 2  # the name is in each table
    assert max(map(len, text.splitlines())) <= width
    assert (text.count("by node"), text.count("hubs: none")) == (1, 1)


def test_what_fits_stays_as_it_is() -> None:
    """One table, where there is room for all of it."""
    table = made()
    assert tables_that_fit(table, 300) == [table]
    assert len(tables_that_fit(table, 100)) == 2


def test_a_terminal_of_almost_no_width() -> None:
    """One figure a table, and no error."""
    assert len(tables_that_fit(made(), 1)) == len(FIGURES)
    assert printed(5)
