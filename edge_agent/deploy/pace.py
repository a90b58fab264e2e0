"""How soon may the next bytes be taken, and the next try be made? Pure: time and chance are arguments."""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0


class TokenBucket:
    """Lets through `bytes_per_s` in the mean and at most what came together in `burst_s` at once; None: whatever comes.

    Bytes that are there are taken, and then waited for, so no piece is too large for the bucket.
    """

    def __init__(self, bytes_per_s: float | None, burst_s: float = 1.0) -> None:
        self._bytes_per_s = bytes_per_s
        self._most = 0.0 if bytes_per_s is None else bytes_per_s * burst_s
        self._tokens = self._most
        self._at: float | None = None

    def take(self, size_bytes: int, now: float) -> float:
        """Take so many bytes; the seconds to wait before the next are read."""
        if self._bytes_per_s is None:
            return 0.0
        passed_s = 0.0 if self._at is None else max(now - self._at, 0.0)
        self._tokens = min(self._most, self._tokens + passed_s * self._bytes_per_s) - size_bytes
        self._at = now
        return max(-self._tokens / self._bytes_per_s, 0.0)


def pause_s(tries: int, draw: float) -> float:
    """How long to wait after so many tries in vain: up to twice as long each time, `draw` (0 to 1) of that.

    Full jitter, so that a fleet that lost its hub does not come back in step (Brooker, Exponential Backoff and Jitter,
    AWS Architecture Blog, 2015).
    """
    return draw * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries, 20))
