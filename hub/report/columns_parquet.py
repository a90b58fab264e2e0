"""The questions themselves, column by column, for the tools of data people: Parquet.

All columns of the history, with the delay and its stages as the report counts them.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from hub.errors import ReportError
from hub.report.history import Floats, Names
from hub.report.timing import STAGES, Timing

if TYPE_CHECKING:
    import pyarrow


def questions_parquet(timing: Timing) -> bytes:
    """One row for each question; what is not known is null. Raises ReportError where pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ReportError(f"pyarrow cannot be imported ({error}): install edgefleet[hub]") from None
    out = io.BytesIO()
    parquet.write_table(_table(pyarrow, timing), out, compression="zstd")
    return out.getvalue()


def _table(arrow: Any, timing: Timing) -> pyarrow.Table:
    history = timing.history
    columns = {name: _column(arrow, column) for name, column in history.columns().items()}
    moments_us = np.round(history.wall_time_s * 1e6).astype(np.int64)
    columns["ended"] = arrow.array(moments_us, arrow.timestamp("us", tz="UTC"))
    columns["delay_ms"] = _column(arrow, _spread(timing, timing.delay_ms))
    columns["first_ms"] = _column(arrow, _spread(timing, timing.first_ms))
    for name in STAGES:
        columns[f"stage_{name}_ms"] = _column(arrow, _spread(timing, timing.stages_ms[name]))
    return arrow.table(columns)


def _column(arrow: Any, column: Any) -> Any:
    """Names as a dictionary, which keeps each only once; '' and NaN are null."""
    if isinstance(column, Names):
        missing = np.isin(column.codes, [code for code, name in enumerate(column.names) if not name])
        values = arrow.array(column.names, arrow.string())
        return arrow.DictionaryArray.from_arrays(arrow.array(column.codes, mask=missing), values)
    return arrow.array(column, from_pandas=True)


def _spread(timing: Timing, column: Floats) -> Floats:
    """A column of the timed answers as one of all questions."""
    every = np.full(len(timing.history), np.nan)
    every[timing.at] = column
    return every
