"""Messages are acknowledged in order of receipt, whatever the order in which their owner is done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hub.receipts import Receipts, next_receipt


@given(order=st.permutations(range(8)), quality=st.lists(st.integers(0, 1), min_size=8, max_size=8))
def test_told_in_order_of_receipt(order: list[int], quality: list[int]) -> None:
    """The broker is told each at QoS 1 once, in order, and none before all that came before it are done."""
    receipts = Receipts()
    for number in range(8):
        receipts.came(number, 100 + number, quality[number])
    told: list[int] = []
    done: set[int] = set()
    for number in order:
        done.add(number)
        told += [mid - 100 for mid, _ in receipts.acknowledged(number)]
        first_open = next((each for each in range(8) if each not in done), 8)
        assert told == [each for each in range(first_open) if quality[each]]
        assert len(receipts) == 8 - first_open


def test_unknown_receipts_are_ignored() -> None:
    """One of an earlier connection says nothing of this one, whose message ids start anew."""
    receipts = Receipts()
    receipts.came(1, 7, 1)
    receipts.clear()
    receipts.came(2, 7, 1)
    assert receipts.acknowledged(1) == []
    assert receipts.acknowledged(2) == [(7, 1)]
    assert receipts.acknowledged(2) == []


def test_done_before_a_loss_is_not_done_after_it() -> None:
    """A message that waited for its turn when the connection broke comes again, and is to be acknowledged again."""
    receipts = Receipts()
    receipts.came(1, 7, 1)
    receipts.came(2, 8, 1)
    assert receipts.acknowledged(2) == []
    receipts.clear()
    receipts.came(2, 1, 1)
    assert len(receipts) == 1
    assert receipts.acknowledged(2) == [(1, 1)]


def test_no_receipt_is_given_twice() -> None:
    """Two links of one process never give the same."""
    assert next_receipt() != next_receipt()
