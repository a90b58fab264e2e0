"""Rows of records, for tests."""

from __future__ import annotations

from typing import Any

from hub.events import Record, Row

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
