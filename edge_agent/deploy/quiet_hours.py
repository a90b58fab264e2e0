"""When is nothing fetched? A span of each day by the local wall clock, such as 08:00-20:00. Pure.

Both ends are times of day and not durations: where clocks change, a quiet span is an hour longer or shorter that day,
and begins and ends when the clock on the wall says so. A machine without the right time is quiet at the wrong one.
"""

from __future__ import annotations

import datetime
import re
from typing import Final

import msgspec

from edge_agent.errors import InputError

_FORM: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])\Z")


class QuietHours(msgspec.Struct, frozen=True):
    """From `start` on and before `end`, over midnight where the end comes first."""

    start: datetime.time
    end: datetime.time

    @classmethod
    def parse(cls, text: str) -> QuietHours:
        """Raises InputError.

        >>> QuietHours.parse("22:00-06:30").holds(datetime.time(3, 0))
        True
        """
        if (found := _FORM.match(text)) is None:
            raise InputError(f"quiet hours {text!r} are no span of a day: write them like 08:00-20:00")
        from_hour, from_minute, to_hour, to_minute = map(int, found.groups())
        span = cls(datetime.time(from_hour, from_minute), datetime.time(to_hour, to_minute))
        if span.start == span.end:
            raise InputError(f"quiet hours {text!r} begin when they end: leave them out, or name another end")
        return span

    def holds(self, now: datetime.time) -> bool:
        """Whether it is quiet at this time of day."""
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"
