"""Timers and calls from elsewhere get their turn; with links it is tested in test_mqtt_link."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from hub.loop import Loop
from tests.hub.turns import drive


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_timers_and_calls(loop: Loop) -> None:
    """Timers fire in order of time, calls from elsewhere on the next turn."""
    seen: list[str] = []
    now = time.monotonic()
    loop.call_at(now + 0.02, lambda: seen.append("second"))
    loop.call_at(now + 0.01, lambda: seen.append("first"))
    loop.call_soon(lambda: seen.append("call"))
    drive(loop, lambda: len(seen) == 3)
    assert seen == ["call", "first", "second"]


def test_a_call_from_another_thread_ends_the_wait(loop: Loop) -> None:
    """A turn that would wait for an hour ends as soon as another thread calls."""
    seen: list[str] = []
    loop.run_once(0)  # nothing is due: what follows can only be woken
    loop._time_to_next = lambda now: 3600.0  # type: ignore[method-assign]
    caller = threading.Timer(0.05, lambda: loop.call_soon(lambda: seen.append(threading.current_thread().name)))
    caller.start()
    loop.run_once(3600)
    caller.join()
    assert seen == [threading.current_thread().name]


def test_a_call_made_in_a_call_waits_for_the_next_turn(loop: Loop) -> None:
    """One that calls itself again does not keep the loop from all else."""
    turns: list[int] = []

    def again() -> None:
        turns.append(len(turns))
        loop.call_soon(again)

    loop.call_soon(again)
    loop.run_once(0)
    assert turns == [0]
    loop.run_once(0)
    assert turns == [0, 1]


def test_a_closed_loop_may_still_be_called() -> None:
    """A thread that comes too late is not thrown an error: nobody listens any more."""
    loop = Loop()
    loop.close()
    seen: list[str] = []
    loop.call_soon(lambda: seen.append("called"))
    assert seen == []
