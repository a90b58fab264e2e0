"""The questions as Parquet, as other tools read it."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from pyarrow import parquet

from hub.errors import ReportError
from hub.report.columns_parquet import questions_parquet
from hub.report.history import COLUMNS, DETAILS, FLAGS, NAMES
from hub.report.timing import STAGES, timing_of
from tests.hub.report.many import many
from tests.hub.rows import history

ROWS = many(200)


def test_columns_come_back() -> None:
    """One row for each question, every column of the history; what is not known is null."""
    timing = timing_of(history(ROWS), 1000.0)
    table = parquet.read_table(io.BytesIO(questions_parquet(timing)))
    assert table.num_rows == len(ROWS)
    for name in (*COLUMNS, *DETAILS):
        values = table.column(name).to_pylist()
        if name in NAMES:
            assert values == [getattr(row, name) or None for row in ROWS]
        elif name in FLAGS or name != "row":
            assert values == [getattr(row, name) for row in ROWS]
    assert table.column("ended")[0].as_py().timestamp() == ROWS[0].wall_time_s


def test_delays_are_as_the_report_counts_them() -> None:
    """The stages sum to the delay, and questions without a known one have neither."""
    timing = timing_of(history(ROWS), 1000.0)
    table = parquet.read_table(io.BytesIO(questions_parquet(timing)))
    delays = np.array(table.column("delay_ms").to_pylist(), float)
    stages = np.array([table.column(f"stage_{name}_ms").to_pylist() for name in STAGES], float)
    assert np.flatnonzero(~np.isnan(delays)).tolist() == timing.at.tolist()
    assert stages.sum(axis=0)[timing.at] == pytest.approx(delays[timing.at])


def test_an_empty_window() -> None:
    """A table with all its columns and no row."""
    table = parquet.read_table(io.BytesIO(questions_parquet(timing_of(history([]), 1000.0))))
    assert table.num_rows == 0
    assert {"delay_ms", "node", "stage_access_ms"} <= set(table.column_names)


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ReportError, match=r"install edgefleet\[hub\]"):
        questions_parquet(timing_of(history(ROWS), 1000.0))
