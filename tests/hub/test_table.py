"""Columns of numbers."""

from __future__ import annotations

import numpy as np
import pytest

from hub.table import Table

EMPTY = {"used": False, "word": -1, "ms": 0.5}


def test_rows_are_written_and_cleared() -> None:
    """As numbers: a truth value is 1 or 0."""
    table = Table(EMPTY, rows=3)
    table.write(2, (True, 7, 1.25))
    assert [table[name][2].item() for name in EMPTY] == [True, 7, 1.25]
    table.clear(2)
    assert [table[name][2].item() for name in EMPTY] == [False, -1, 0.5]
    assert table["ms"].dtype == float


def test_a_row_needs_all_its_values() -> None:
    """A forgotten column is noticed."""
    with pytest.raises(ValueError, match="has 3 values, not 2"):
        Table(EMPTY, rows=1).write(0, (True, 7))


def test_growing_keeps_what_is_there() -> None:
    """New rows are free."""
    table = Table(EMPTY, rows=2)
    table.write(0, (True, 3, 9.0))
    table.double()
    assert len(table) == 4
    assert table["ms"].tolist() == [9.0, 0.5, 0.5, 0.5]
    assert table.pick(np.array([0, 3]))["word"].tolist() == [3, -1]
