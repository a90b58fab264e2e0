"""How does a table fit a terminal that is narrower than it? No figure is cut: it goes on in further tables beneath.

Knows nothing of what the columns mean; the first one names the rows, and stands in each table.
"""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Column, Table

_NAME_CHARS: Final = 12  # so much of a line names are given where there is little; longer ones go on beneath
_EDGE_CHARS: Final = 1
_BESIDE_CHARS: Final = 3  # of each column: a space on both sides, and a line


def tables_that_fit(table: Table, width: int) -> list[Table]:
    """`table` where it fits into `width`, else as many tables as it takes, with the same rows. It has to have columns.

    >>> wide = Table("node", "mean, ms", "max, ms"); wide.add_row("orin-1", "12", "1,234")
    >>> [[column.header for column in each.columns] for each in tables_that_fit(wide, 24)]
    [['node', 'mean, ms'], ['node', 'max, ms']]
    """
    name, *others = table.columns
    name_chars, *chars = (_chars(column) for column in table.columns)
    if _EDGE_CHARS + sum(each + _BESIDE_CHARS for each in (name_chars, *chars)) <= width:
        return [table]
    room = width - _EDGE_CHARS - min(name_chars, _NAME_CHARS) - _BESIDE_CHARS
    parts: list[list[Column]] = [[]]
    left = room
    for column, needed in zip(others, chars, strict=True):
        if parts[-1] and needed + _BESIDE_CHARS > left:
            parts.append([])
            left = room
        parts[-1].append(column)
        left -= needed + _BESIDE_CHARS
    whole = [_part(table, name, part) for part in parts]
    whole[0].title, whole[-1].caption = table.title, table.caption
    return whole


def _chars(column: Column) -> int:
    """The width of its widest cell or of its heading."""
    console = Console(width=10_000, markup=False)
    return max(console.measure(cell).maximum for cell in (column.header, *column.cells))


def _part(table: Table, name: Column, others: list[Column]) -> Table:
    part = Table(title_justify=table.title_justify, caption_justify=table.caption_justify)
    part.add_column(name.header, overflow="fold")
    for column in others:
        part.add_column(column.header, justify=column.justify, overflow="fold")
    for cells in zip(name.cells, *(column.cells for column in others), strict=True):
        part.add_row(*cells)
    return part
