"""Named alarms."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hub.timers import Timers

NAMES = st.sampled_from("abcdef").map(lambda letter: (letter,))


@given(st.lists(st.tuples(NAMES, st.none() | st.floats(0, 100))), st.floats(0, 100))
def test_due_is_what_was_set_last(steps: list[tuple[tuple[str, ...], float | None]], now: float) -> None:
    """After any setting, moving and cancelling, due are the alarms in force, in order of time."""
    timers, expected = Timers(), dict[tuple[str, ...], float]()
    for name, at_s in steps:
        if at_s is None:
            timers.cancel(name)
            expected.pop(name, None)
        else:
            timers.set(name, at_s)
            expected[name] = at_s
    assert timers.next_s() == min(expected.values(), default=None)
    due = list(timers.due(now))
    assert sorted(due) == sorted(name for name, at_s in expected.items() if at_s <= now)
    assert [expected[name] for name in due] == sorted(expected[name] for name in due)
    assert len(timers) == len(expected) - len(due)


def test_moving_an_alarm_does_not_fill_the_memory() -> None:
    """Old places of moved alarms are cleared away."""
    timers = Timers()
    for number in range(10_000):
        timers.set(("ping",), float(number))
    assert len(timers._heap) < 100
    assert list(timers.due(1e9)) == [("ping",)]


def test_alarm_set_while_serving_is_served_when_due() -> None:
    """A handler may set the next alarm; it is due in the same round only if its time has come."""
    timers = Timers()
    timers.set(("ping",), 1.0)
    served = []
    for name in timers.due(2.0):
        served.append(name)
        timers.set(name, 2.0 if len(served) == 1 else 3.0)
    assert served == [("ping",), ("ping",)]
    assert timers.next_s() == 3.0
