"""Who is when: kinds of nodes in turn, waves that double, and never too many at once."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hub.rollout.waves import Seen, at_once, canaries, in_turn, waves
from tests.hub.rollout.scene import MODEL, OLD, served


def node(profile: str = "orin", *models: str, there: bool = True) -> Seen:
    return Seen(is_there=there, profile=profile, bundles=tuple(served(f"{OLD}-{model}", 1, model) for model in models))


def test_canaries_stand_for_all_kinds() -> None:
    """Of four first ones each is another kind, though most nodes are of one; the largest kind is the first."""
    fleet = {f"a{number}": node("orin", MODEL) for number in range(30)}
    fleet |= {"b1": node("thor", MODEL), "b2": node("thor", MODEL), "c": node("orin"), "d": node("orin", "other")}
    first = in_turn(fleet, "r")[:4]
    assert {name[0] for name in first} == {"a", "b", "c", "d"}
    assert first[0].startswith("a")


def test_who_is_not_ready_is_last() -> None:
    """However its kind stands."""
    fleet = {
        "away": node("thor", there=False),
        "stubborn": Seen(is_there=True, deploys=False),
        "a": node(),
        "b": node(),
    }
    assert set(in_turn(fleet, "r")[2:]) == {"away", "stubborn"}


@given(st.sets(st.text("abcdefgh", min_size=1), min_size=1), st.text(max_size=3))
def test_the_turn_depends_on_the_rollout_alone(names: set[str], seed: str) -> None:
    """Not on the order in which nodes were heard; and everybody has one."""
    fleet = {name: node() for name in names}
    assert in_turn(fleet, seed) == in_turn(dict(reversed(list(fleet.items()))), seed)
    assert sorted(in_turn(fleet, seed)) == sorted(names)


def test_not_always_the_same_are_first() -> None:
    """Of forty rollouts hardly one node begins more than a few."""
    fleet = {f"n{number}": node() for number in range(10)}
    firsts = Counter(in_turn(fleet, f"r{number}")[0] for number in range(40))
    assert len(firsts) > 5


@given(st.integers(1, 50), st.integers(1, 600))
def test_each_wave_is_as_large_as_all_before(first: int, targets: int) -> None:
    """But for the last one, which has the rest."""
    sizes = Counter(waves(min(first, targets), targets))
    assert sum(sizes.values()) == targets
    for wave in range(1, len(sizes) - 1):
        assert sizes[wave] == sum(sizes[earlier] for earlier in range(wave))
    assert sizes[len(sizes) - 1] <= max(targets - sizes[len(sizes) - 1], sizes[0])


@given(st.floats(0.001, 1), st.integers(1, 500), st.integers(1, 500))
def test_canaries_are_at_least_one_and_no_more_than_are_ready(share: float, targets: int, ready: int) -> None:
    """Nor more than the share, rounded up."""
    count = canaries(share, targets, min(ready, targets))
    assert 1 <= count <= min(ready, targets)
    assert count < share * targets + 1


def test_half_may_be_under_way() -> None:
    """Of those that serve the model and are there; of one that one."""
    fleet = [node("orin", MODEL)] * 5 + [node("orin", "other")] * 9 + [node("orin", MODEL, there=False)] * 9
    assert at_once(fleet, MODEL) == 2
    assert at_once(fleet[:1], MODEL) == at_once([], MODEL) == 1
