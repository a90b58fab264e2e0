"""Choosing questions by time and name."""

from __future__ import annotations

from typing import Any

import pytest

from hub.report.filter import Filter
from tests.hub.rows import history, row

ROWS = history(
    [
        row(1000.0, node="a", device="kitchen", model="smol"),
        row(1001.0, node="b", device="hall", model="smol", outcome="deadline"),
        row(1002.0, node=None, device="hall", model=None, outcome="no_node"),
    ]
)


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({}, [1, 2, 3]),
        ({"since_s": 1001.0}, [2, 3]),
        ({"until_s": 1001.0}, [1]),
        ({"since_s": 1000.5, "until_s": 1001.5}, [2]),
        ({"nodes": ("a", "b")}, [1, 2]),
        ({"devices": ("hall",), "outcomes": ("no_node", "internal")}, [3]),
        ({"models": ("large",)}, []),
    ],
)
def test_what_is_chosen(fields: dict[str, Any], chosen: list[int]) -> None:
    """All that was said must hold; of several names of one kind, any."""
    assert ROWS.row[Filter(**fields).mask(ROWS)].tolist() == chosen
