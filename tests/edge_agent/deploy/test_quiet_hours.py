"""Quiet hours are a span of the day, also over midnight."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.deploy.quiet_hours import QuietHours
from edge_agent.errors import InputError


def at(hour: int, minute: int = 0, second: int = 0) -> datetime.time:
    return datetime.time(hour, minute, second)


def test_a_span_begins_with_its_first_minute_and_ends_before_its_last() -> None:
    """08:00-20:00 is quiet at eight and not at eight in the evening."""
    span = QuietHours.parse("08:00-20:00")
    assert [span.holds(time) for time in (at(7, 59, 59), at(8), at(19, 59, 59), at(20))] == [False, True, True, False]
    assert str(span) == "08:00-20:00"


def test_a_span_over_midnight() -> None:
    """22:30-06:00 is quiet at night."""
    span = QuietHours.parse("22:30-06:00")
    assert [span.holds(time) for time in (at(22, 29), at(22, 30), at(0), at(5, 59), at(6))] == [
        False, True, True, True, False,
    ]  # fmt: skip


@given(st.times(), st.times(), st.times())
def test_a_span_and_the_one_from_its_end_share_no_time(
    start: datetime.time, end: datetime.time, now: datetime.time
) -> None:
    """At every time of day it is quiet by exactly one of the two."""
    if start != end:
        assert QuietHours(start, end).holds(now) != QuietHours(end, start).holds(now)


@pytest.mark.parametrize(
    "text", ["", "8-20", "08:00", "24:00-06:00", "08:60-09:00", "08:00-20:00 ", "08:00-08:00", "٠٨:00-20:00"]
)
def test_what_is_no_span_is_refused(text: str) -> None:
    """With the text, and how to write it."""
    with pytest.raises(InputError, match="quiet hours"):
        QuietHours.parse(text)
