"""What the records know of the nodes' answers."""

from __future__ import annotations

from hub import events
from hub.accounts import MOST_MISSING, Heard
from hub.store.numbers import heard_before
from tests.hub.rows import record
from tests.hub.store.kept import keep
from tests.hub.store.test_missing import answer


def test_the_latest_life_of_each_node(store: str) -> None:
    """Its highest number, and what is missing below; notes count as well."""
    late = events.LateAnswer(node="a", life=2, number=6)
    keep(store, answer(1), answer(3), answer(4, life=2), answer(8, life=2), late, answer(5, node="b"), record(id="x"))
    assert heard_before(store) == {"a": Heard(2, 8, frozenset({5, 7})), "b": Heard(1, 5)}


def test_no_further_back_than_a_node_remembers(store: str) -> None:
    """What is older cannot be told again."""
    keep(store, answer(1), answer(10_000))
    (known,) = heard_before(store).values()
    assert known.missing == frozenset(range(10_000 - MOST_MISSING + 1, 10_000))


def test_an_empty_store(store: str) -> None:
    """Nothing is known."""
    keep(store)
    assert heard_before(store) == {}
