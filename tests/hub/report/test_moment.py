"""Times as people write them."""

from __future__ import annotations

import pytest

from hub.report.moment import duration_s, moment_s

NOW_S = 1_764_000_000.0


@pytest.mark.parametrize(("text", "ago_s"), [("0s", 0), ("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800)])
def test_durations_ago(text: str, ago_s: float) -> None:
    """A number and a unit, before now."""
    assert duration_s(text) == ago_s
    assert moment_s(text, NOW_S) == NOW_S - ago_s


@pytest.mark.parametrize(
    ("text", "wall_time_s"),
    [
        ("1970-01-01", 0.0),
        ("1970-01-01T00:01", 60.0),
        ("1970-01-01 00:01:00.5", 60.5),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01T00:01:00Z", 60.0),
    ],
)
def test_dates_and_times(text: str, wall_time_s: float) -> None:
    """ISO 8601; a time without a zone is in UTC, whatever the machine's zone is."""
    assert moment_s(text, NOW_S) == wall_time_s


@pytest.mark.parametrize("text", ["1", "h", "1w", "-1h", "1.5h", "NaNs", "", "99999999999d", "yesterday", "12:00"])
def test_no_duration(text: str) -> None:
    """What is neither says how to write one."""
    with pytest.raises(ValueError, match="is no duration"):
        moment_s(text, NOW_S)


@pytest.mark.parametrize("text", ["2026-13-01", "2026-", "2026-11-26T25:00", "0001-01-01T00:00+23:59:59.9x"])
def test_no_time(text: str) -> None:
    """What looks like a date and is none says so."""
    with pytest.raises(ValueError, match="is no time"):
        moment_s(text, NOW_S)
