"""Rows of records, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hub.events import Record, Row
from hub.report.history import COLUMNS, COUNTS, DETAILS, FLAGS, NAMES, History, Names

VALUES: dict[str, Any] = {
    "device": "kitchen",
    "id": "q",
    "hub": "hub",
    "outcome": "answered",
    "node": "a",
    "bundle": "smol-int4",
    "model": "smol",
    "task": "text-generation",
    "attempts": 1,
    "duplicates": 0,
    "question_bytes": 20,
    "prompt_tokens": 37,
    "cached_tokens": 0,
    "completion_tokens": 8,
    "predicted_ms": 110.0,
    "total_ms": 100.0,
    "network_ms": 10.0,
    "queue_ms": 5.0,
    "prefill_ms": 45.0,
    "decode_ms": 40.0,
    "decisions": (),
}


def record(**changes: Any) -> Record:
    return Record(**{**VALUES, **changes})


def row(wall_time_s: float = 1000.0, **changes: Any) -> Row:
    return Row(wall_time_s=wall_time_s, **{**VALUES, **changes})


def history(rows: Sequence[Row]) -> History:
    """The rows, column by column, numbered from 1."""
    columns: dict[str, Any] = {"row": np.arange(1, len(rows) + 1)}
    for name in (*COLUMNS, *DETAILS):
        values = [getattr(each, name, None) for each in rows]
        if name in NAMES:
            columns[name] = Names.of(values)
        elif name in FLAGS:
            columns[name] = np.array(values, bool)
        elif name not in columns:
            kind = np.int64 if name in COUNTS else np.float64
            columns[name] = np.array([np.nan if value is None else value for value in values], kind)
    return History.of(columns)
