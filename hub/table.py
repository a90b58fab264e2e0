"""A table of numbers, one row for each node and bundle: each column lies together, and a row is written in one step.

Knows nothing of what the columns mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]


class Table:
    """Rows that are written whole; `empty` names the columns and says what stands in a free row.

    Every value is kept as a 64-bit float, which holds truth values and whole numbers up to 2 ** 53 exactly.

    >>> table = Table({"used": False, "ms": 0.0}, rows=2)
    >>> table.write(1, (True, 2.5)); table["ms"].tolist(), table.pick(np.array([1]))["ms"].tolist()
    ([0.0, 2.5], [2.5])
    """

    def __init__(self, empty: Mapping[str, bool | int | float], rows: int) -> None:
        self._place = {name: place for place, name in enumerate(empty)}
        self._empty = np.array([float(value) for value in empty.values()])
        self._values = np.repeat(self._empty[:, np.newaxis], rows, axis=1)

    def __len__(self) -> int:
        return int(self._values.shape[1])

    def __getitem__(self, column: str) -> Series:
        series: Series = self._values[self._place[column]]
        return series

    def pick(self, rows: NDArray[np.int64]) -> Picked:
        """Some rows, in ascending order. Where they are the first ones of the table, their columns are not copied."""
        if len(rows) and rows[-1] + 1 == len(rows):
            return Picked(self, slice(0, len(rows)))
        return Picked(self, rows)

    def write(self, row: int, values: Sequence[bool | int | float]) -> None:
        """Let these be the row's, in the order of the columns."""
        if len(values) != len(self._empty):
            raise ValueError(f"a row has {len(self._empty)} values, not {len(values)}")
        self._values[:, row] = values

    def clear(self, row: int) -> None:
        """Let the row be free."""
        self._values[:, row] = self._empty

    def double(self) -> None:
        """As many rows more, free ones."""
        more = np.repeat(self._empty[:, np.newaxis], len(self), axis=1)
        self._values = np.concatenate([self._values, more], axis=1)


class Picked:
    """Columns of some rows of a table. To be read only, and not kept: they may be the table's own."""

    def __init__(self, table: Table, rows: NDArray[np.int64] | slice) -> None:
        self._table, self._rows = table, rows

    def __getitem__(self, column: str) -> Series:
        picked: Series = self._table[column][self._rows]
        return picked
