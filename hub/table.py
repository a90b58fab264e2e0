"""Columns of numbers, one row for each node and bundle: arrays that lie apart, so that pricing many rows reads no more
than it needs.

Knows nothing of what the columns mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Table:
    """Rows that are written whole; `empty` names the columns and says what stands in a free row.

    >>> table = Table({"used": False, "ms": 0.0}, rows=2)
    >>> table.write(1, (True, 2.5)); table["ms"].tolist(), table.pick(np.array([1]))["ms"].tolist()
    ([0.0, 2.5], [2.5])
    """

    def __init__(self, empty: Mapping[str, bool | int | float], rows: int) -> None:
        self._empty = tuple(empty.values())
        self._columns: dict[str, NDArray[Any]] = {name: np.full(rows, value) for name, value in empty.items()}
        self._in_order = list(self._columns.values())

    def __len__(self) -> int:
        return len(self._in_order[0])

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self._columns[column]

    def pick(self, rows: NDArray[np.int64]) -> Picked:
        """Some rows; a column of them is copied when it is asked for."""
        return Picked(self, rows)

    def write(self, row: int, values: Sequence[bool | int | float]) -> None:
        """Let these be the row's, in the order of the columns."""
        for column, value in zip(self._in_order, values, strict=True):
            column[row] = value

    def clear(self, row: int) -> None:
        """Let the row be free."""
        self.write(row, self._empty)

    def double(self) -> None:
        """As many rows more, free ones."""
        size = len(self)
        for (name, column), value in zip(list(self._columns.items()), self._empty, strict=True):
            self._columns[name] = np.concatenate([column, np.full(size, value, column.dtype)])
        self._in_order = list(self._columns.values())


class Picked:
    """Columns of some rows of a table."""

    def __init__(self, table: Table, rows: NDArray[np.int64]) -> None:
        self._table, self._rows = table, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, column: str) -> NDArray[Any]:
        picked: NDArray[Any] = self._table[column][self._rows]
        return picked
