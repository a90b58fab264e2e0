"""Is there room for one more question, and for one more of this device?

What is in flight is bounded in number and bytes. Beyond that the hub's operator may set a rate for each device, how
many questions it may have in flight, and that none has more than its share of what is. Knows nothing of nodes or
clocks; `now` is monotonic seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from hub import wire
from hub.recent import Recent

CROWDED: Final = 0.75  # of a limit of what is in flight: from here on nobody may have more than a share
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)(?:/([smh]))?\Z", re.ASCII)


class Rate(msgspec.Struct, frozen=True):
    """At most `questions` at once, and as many in every `seconds` on the long run."""

    questions: float
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Raises ValueError where `text` is no rate.

        >>> Rate.parse("5"), Rate.parse("30/m")
        (Rate(questions=5.0, seconds=1.0), Rate(questions=30.0, seconds=60.0))
        """
        found = _RATE.match(text)
        if found is None or not 1 <= float(found[1]) <= 1e9:
            raise ValueError(f"{text!r} is no rate: write a number, at least 1, and /s, /m or /h, such as 5/s or 30/m")
        return cls(float(found[1]), _UNITS_S[found[2] or "s"])

    def __str__(self) -> str:
        unit = {seconds: name for name, seconds in _UNITS_S.items()}[self.seconds]
        return f"{self.questions:g}/{unit}"


class Rates:
    """A token bucket for each device, full at first; a device that is forgotten for newer ones starts again."""

    def __init__(self, rate: Rate, max_devices: int) -> None:
        self.rate = rate
        self._per_s = rate.questions / rate.seconds
        self._buckets: Recent[str, tuple[float, float]] = Recent(max_devices)  # tokens, and when there were so many

    def take(self, device: str, now: float) -> float:
        """Take a token and return 0, or return in how many milliseconds there will be one.

        >>> rates = Rates(Rate(2, 1.0), 10)
        >>> [rates.take("kitchen", now) for now in (0.0, 0.0, 0.0, 0.25, 0.5)]
        [0.0, 0.0, 500.0, 250.0, 0.0]
        """
        tokens = self._tokens(device, now)
        wait_ms = self._wait_ms(tokens)
        self._buckets.put(device, (tokens if wait_ms else max(tokens - 1.0, 0.0), now))
        return wait_ms

    def wait_ms(self, device: str, now: float) -> float:
        """In how many milliseconds there will be a token, 0 where there is one; it is not taken."""
        return self._wait_ms(self._tokens(device, now))

    def _tokens(self, device: str, now: float) -> float:
        tokens, at_s = self._buckets.get(device) or (self.rate.questions, now)
        return min(tokens + max(now - at_s, 0.0) * self._per_s, self.rate.questions)

    def _wait_ms(self, tokens: float) -> float:
        missing = 1.0 - tokens
        return missing / self._per_s * 1000 if missing > 1e-9 else 0.0  # less is rounding: who waited as told is let in


class Shares:
    """What each device has in flight, in questions and bytes. Devices without any are not remembered."""

    def __init__(self, max_questions: int, max_bytes: int) -> None:
        self._max_questions = max_questions
        self._max_bytes = max_bytes
        self._used: dict[str, tuple[int, int]] = {}
        self._questions = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._used)

    @property
    def size_bytes(self) -> int:
        """Of everything in flight."""
        return self._bytes

    @property
    def overfull(self) -> bool:
        """More is in flight than may be."""
        return self._questions > self._max_questions or self._bytes > self._max_bytes

    def of(self, device: str) -> int:
        """Questions of this device."""
        return self._used.get(device, (0, 0))[0]

    def add(self, device: str, size_bytes: int) -> None:
        """One more question of this device is in flight."""
        questions, size = self._used.get(device, (0, 0))
        self._used[device] = (questions + 1, size + size_bytes)
        self._questions += 1
        self._bytes += size_bytes

    def remove(self, device: str, size_bytes: int) -> None:
        """One of them has ended."""
        questions, size = self._used[device]
        self._used[device] = (questions - 1, size - size_bytes)
        if questions == 1:
            del self._used[device]
        self._questions -= 1
        self._bytes -= size_bytes

    def exceeded_by(self, device: str) -> bool:
        """Whether this device has more than its share, and the hub is so full that this matters.

        A share is that of one device more than there are, so that the next one to come finds room.

        >>> shares = Shares(8, 1000)
        >>> for _ in range(6): shares.add("flood", 1)
        >>> shares.exceeded_by("flood"); shares.add("flood", 1); shares.exceeded_by("flood")
        False
        True
        >>> shares.add("kitchen", 1); shares.exceeded_by("kitchen")
        False
        """
        if self._of_limit(self._questions, self._bytes) <= CROWDED:
            return False
        return self._of_limit(*self._used.get(device, (0, 0))) > 1.0 / (len(self._used) + 1)

    def _of_limit(self, questions: int, size_bytes: int) -> float:
        return max(questions / self._max_questions, size_bytes / self._max_bytes)


class Room:
    """What is in flight, and whether what has just come may stay: the limits, its device's own, rate and share.

    A rate alone keeps nobody from filling a small fleet: ten long answers a second are more than it can write.
    """

    def __init__(
        self,
        max_questions: int,
        max_bytes: int,
        max_devices: int,
        *,
        device_rate: Rate | None = None,
        device_in_flight: int | None = None,
        fair_shares: bool = False,
    ) -> None:
        self.shares = Shares(max_questions, max_bytes)
        self._rates = None if device_rate is None else Rates(device_rate, max_devices)
        self._device_in_flight = device_in_flight
        self._fair_shares = fair_shares

    def problem_with(
        self, device: str, others: int, least_wait_ms: Callable[[], float], now: float
    ) -> wire.Problem | None:
        """Why the last question of `device`, which is counted already beside `others`, cannot stay."""
        if self._rates is not None and (wait_ms := self._rates.take(device, now)) > 0:
            return _overloaded(f"device {device} asks more than {self._rates.rate} questions", wait_ms)
        if self._device_in_flight is not None and self.shares.of(device) > self._device_in_flight:
            why = f"device {device} has {self._device_in_flight} questions in flight, the most for one device"
            return _overloaded(why, least_wait_ms())
        if self.shares.overfull:
            return _overloaded(f"{others} questions are in flight at this hub", least_wait_ms())
        if self._fair_shares and self.shares.exceeded_by(device):
            why = f"device {device} has more than its share of the {others} questions in flight"
            return _overloaded(why, least_wait_ms())
        return None


def _overloaded(why: str, retry_after_ms: float) -> wire.Problem:
    return wire.Problem(code="overloaded", message=f"{why}: ask again later", retry_after_ms=retry_after_ms)
