"""Bundles that come and go under a node that answers."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.loaded import Loaded
from hub import wire

OLD = wire.ServedBundle(
    bundle="old", model="m", task="text-generation", context=64,
    fixed_ms=1, prefill_ms_per_token=1, decode_ms_per_token=1,
)  # fmt: skip
NEW = msgspec.structs.replace(OLD, bundle="new")


def test_what_was_replaced_still_takes_questions_until_it_is_let_go() -> None:
    """It is offered to nobody, and closed once nothing of it waits, which is told once."""
    loaded = Loaded({"old": OLD})
    loaded.offer(NEW, 4, instead_of="old")
    assert (list(loaded.offered), sorted(loaded.parallel)) == (["new"], ["new", "old"])
    assert loaded.takes("old")
    loaded.let_go("old")
    assert not loaded.takes("old")
    assert loaded.closed({"old"}) == []
    assert loaded.closed({"new"}) == ["old"]
    assert (loaded.closed(set()), list(loaded.parallel), loaded.going) == ([], ["new"], False)
    assert loaded.known["old"] == OLD, "records of its answers may still be written"


def test_going_back_is_offering_the_old_one_in_the_place_of_the_new() -> None:
    """Also when it was about to go."""
    loaded = Loaded({"old": OLD})
    loaded.offer(NEW, 1, instead_of="old")
    loaded.let_go("old")
    loaded.offer(OLD, 1, instead_of="new")
    assert (list(loaded.offered), loaded.takes("old"), loaded.closed(set())) == (["old"], True, [])


def test_a_price_is_kept_of_what_is_not_offered() -> None:
    """But it is not offered again by it."""
    loaded = Loaded({"old": OLD})
    loaded.withdraw("old")
    loaded.costs(msgspec.structs.replace(OLD, fixed_ms=9))
    assert (loaded.offered, loaded.known["old"].fixed_ms) == ({}, 9)


@given(
    st.lists(st.tuples(st.sampled_from(["offer", "replace", "withdraw", "let_go", "close"]), st.sampled_from("abc")))
)
def test_what_is_offered_is_loaded_and_takes_questions(steps: list[tuple[str, str]]) -> None:
    """Whatever happens, in whatever order."""
    loaded = Loaded({})
    for step, name in steps:
        if step == "offer":
            loaded.offer(msgspec.structs.replace(OLD, bundle=name), 1, instead_of=None)
        elif step == "replace":
            loaded.offer(msgspec.structs.replace(OLD, bundle=name), 1, instead_of="a")
        elif step == "withdraw":
            loaded.withdraw(name)
        elif step == "let_go":
            loaded.let_go(name)
        else:
            closed = loaded.closed(set("ab"))
            assert not set(closed) & set("ab")
        assert all(loaded.takes(bundle) for bundle in loaded.offered)
        assert set(loaded.offered) <= set(loaded.parallel) <= set(loaded.known)
