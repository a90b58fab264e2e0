"""What time does somebody mean: `90s`, `1h` or `7d` before now, or a date and time?

Knows nothing of the clock: `now_s` is passed in.
"""

from __future__ import annotations

import datetime
import re
from typing import Final

_DATE: Final = re.compile(r"\d{4}-")
UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration_s(text: str) -> float:
    """The seconds of a duration. Raises ValueError.

    >>> duration_s("90s"), duration_s("7d")
    (90.0, 604800.0)
    """
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS_S or not (number.isascii() and number.isdecimal()) or len(number) > 9:
        raise ValueError(f"{text!r} is no duration: write a number and one of s, m, h, d, such as 90s or 1h")
    return float(number) * UNITS_S[unit]


def moment_s(text: str, now_s: float) -> float:
    """The wall time of a duration ago, or of an ISO 8601 time; one without a zone is in UTC. Raises ValueError.

    >>> moment_s("1h", 10_000.0), moment_s("1970-01-02", 0.0), moment_s("1970-01-01T01:00:00+01:00", 5.0)
    (6400.0, 86400.0, 0.0)
    """
    if not _DATE.match(text):
        return now_s - duration_s(text)
    try:
        # Python 3.10 reads no "Z".
        told = datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in "Zz" else text)
        return (told if told.tzinfo else told.replace(tzinfo=datetime.timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time: write how long ago, such as 90s or 1h, or a time such as 2026-11-26T08:00:00"
        ) from None
