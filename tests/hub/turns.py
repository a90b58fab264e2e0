"""Turns a loop, for the tests of loops and links."""

from __future__ import annotations

import time
from collections.abc import Callable

from hub.loop import Loop


def drive(loop: Loop, until: Callable[[], object], limit_s: float = 10.0) -> None:
    """Turn the loop until the condition holds."""
    end = time.monotonic() + limit_s
    while not until():
        assert time.monotonic() < end, "did not happen in time"
        loop.run_once(0.05)
