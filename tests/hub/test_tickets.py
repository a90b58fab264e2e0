"""What waits for the broker, how far the broker is, and what is too late to send."""

from __future__ import annotations

import math

import pytest

from hub.tickets import Tickets


def test_each_message_is_accepted_once() -> None:
    """The ticket comes back for the message id; a second acknowledgement of it gives none."""
    tickets = Tickets()
    first, second = tickets.next_ticket(), tickets.next_ticket()
    assert first != second
    tickets.published(5, second, 1.0, math.inf)
    assert tickets.accepted(5, 1.5) == second
    assert tickets.accepted(5, 1.6) is None
    assert tickets.accepted(6, 1.6) is None


def test_the_way_is_a_running_mean() -> None:
    """The first sample is taken whole, each later one by a fifth."""
    tickets = Tickets()
    assert tickets.round_trip_ms is None
    tickets.published(1, 1, 10.0, math.inf)
    tickets.accepted(1, 10.010)
    assert tickets.round_trip_ms == pytest.approx(10)
    tickets.published(2, 2, 11.0, math.inf)
    tickets.accepted(2, 11.060)
    assert tickets.round_trip_ms == pytest.approx(20)


def test_an_outage_is_not_the_way() -> None:
    """What waited for a connection, or over the loss of one, is accepted and says nothing of the way."""
    tickets = Tickets()
    tickets.published(1, 1, 10.0, math.inf)
    tickets.lost()
    tickets.published(2, 2, None, math.inf)
    assert (tickets.accepted(1, 99.0), tickets.accepted(2, 99.0)) == (1, 2)
    assert tickets.round_trip_ms is None


def test_the_outdated_are_dropped() -> None:
    """A message whose `until` has come is forgotten, once; the others are kept."""
    tickets = Tickets()
    tickets.published(1, 11, None, -math.inf)
    tickets.published(2, 12, None, 20.0)
    tickets.published(3, 13, None, 30.0)
    tickets.published(4, 14, None, math.inf)
    assert tickets.drop_outdated(20.0) == [1, 2]
    assert tickets.drop_outdated(20.0) == []
    assert [tickets.accepted(mid, 21.0) for mid in (1, 2, 3, 4)] == [None, None, 13, 14]
    assert tickets.drop_outdated(99.0) == []  # accepted in time
