"""Outcomes that a device has heard are told once, a few with each question."""

from __future__ import annotations

from hub import wire
from hub.heard import MOST_UNTOLD, Heard


def earlier(number: int) -> wire.Earlier:
    return wire.Earlier(id=str(number), total_ms=float(number))


def test_each_is_told_once_the_oldest_first() -> None:
    """A question takes as many along as the wire allows."""
    heard = Heard()
    for number in range(wire.MAX_EARLIER + 2):
        heard.ended(earlier(number))
    told = [heard.take(), heard.take(), heard.take()]
    assert [len(some) for some in told] == [wire.MAX_EARLIER, 2, 0]
    assert [one.id for some in told for one in some] == [str(number) for number in range(wire.MAX_EARLIER + 2)]


def test_what_was_not_heard_is_told_again() -> None:
    """A question without an outcome from the fleet may not have arrived."""
    heard = Heard()
    heard.ended(earlier(1))
    heard.give_back(heard.take())
    assert heard.take() == (earlier(1),)


def test_a_device_that_only_listens_forgets_the_oldest() -> None:
    """What waits to be told is bounded."""
    heard = Heard()
    for number in range(MOST_UNTOLD + 1):
        heard.ended(earlier(number))
    assert heard.take()[0] == earlier(1)
