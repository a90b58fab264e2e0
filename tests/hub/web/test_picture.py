"""What is sent: everything, then changes that make the next picture of the one before."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hub.events import STAGES
from hub.web.hour import Slot, Whole
from hub.web.picture import Now, Picture, View, change, whole

WHOLE = Whole(answered=1, failed=0, p50_ms=1.0, p95_ms=2.0)
views = st.fixed_dictionaries({"standing": st.sampled_from(["ready", "lost"]), "wait_ms": st.integers(0, 2)})


def slot(start_s: int, answered: int) -> Slot:
    return Slot(start_s=start_s, answered=answered, failed=0, stages_ms=(0.0,) * len(STAGES), p50_ms=None, p95_ms=1.04)


def picture(nodes: dict[str, View], numbers: tuple[int, ...] = (), slots: tuple[Slot, ...] = ()) -> Picture:
    now = Now(now_s=1.0, hub="h", connected=True, in_flight=0, per_s=0.5, hour=WHOLE)
    questions = tuple({"number": number} for number in numbers)
    return Picture(now=now, nodes=nodes, questions=questions, slots={one.start_s: one for one in slots})


def applied(nodes: dict[str, Any], changed: View) -> dict[str, Any]:
    """What a page has after a change."""
    left = {name: view for name, view in nodes.items() if name not in changed["gone"]}
    return {**left, **{name: {**left.get(name, {}), **fields} for name, fields in changed["nodes"].items()}}


@given(st.dictionaries(st.sampled_from("abcd"), views), st.dictionaries(st.sampled_from("abcd"), views))
def test_a_change_makes_the_next_of_the_one_before(before: dict[str, View], after: dict[str, View]) -> None:
    """Whatever nodes came, went or changed; and what stayed is not told again."""
    changed = change(picture(before), picture(after))
    assert applied(before, changed) == after
    assert all(name not in before or before[name] != after[name] for name in changed["nodes"])


def test_only_new_questions_and_slots_are_told() -> None:
    """A question that changed has another number, a slot that changed is another value."""
    same = slot(10, 1)
    before = picture({}, (1, 2), (same, slot(20, 1)))
    after = picture({}, (2, 3), (same, slot(20, 2)))
    changed = change(before, after)
    assert changed["questions"] == [{"number": 3}]
    assert changed["slots"] == [[20, 2, 0, None, 1.0, *[0.0] * len(STAGES)]]


def test_the_whole_holds_everything() -> None:
    """Also what never changes: the names of the stages."""
    told = whole(picture({"a": {"wait_ms": 1}}, (1,), (slot(20, 1), slot(10, 1))))
    assert (told["stages"], told["nodes"], told["questions"]) == (STAGES, {"a": {"wait_ms": 1}}, ({"number": 1},))
    assert [row[0] for row in told["slots"]] == [10, 20]
    assert (told["hub"], told["connected"], told["in_flight"]) == ("h", True, 0)


def test_rollouts_are_told_where_one_has_changed() -> None:
    """All of them, for they are few; the whole always has them."""
    one, two = ({"name": "r", "status": "active"},), ({"name": "r", "status": "done"},)
    plain = picture({})
    before, after = (msgspec.structs.replace(plain, rollouts=rollouts) for rollouts in (one, two))
    assert "rollouts" not in change(before, before)
    assert change(before, after)["rollouts"] == change(None, after)["rollouts"] == whole(after)["rollouts"] == two
    assert whole(plain)["rollouts"] == ()


def test_the_first_change_is_everything() -> None:
    """For who watches from the start."""
    assert change(None, picture({"a": {}}, (1,)))["questions"] == [{"number": 1}]
