"""The way from one bundle to another, event by event, and what no order of events can bring about."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.deploy import events
from edge_agent.deploy.events import Effect, Event
from edge_agent.deploy.record import Placed
from edge_agent.deploy.state import deployment
from hub import wire
from tests.edge_agent.deploy.plan_driver import Plan, desired, facts


def test_the_way_of_a_good_bundle() -> None:
    """Each event, the phase that it leads to, and what is to be done."""
    plan = Plan()
    want = desired(2, 1)
    folder = "b2-v2-22222222"
    assert plan.take(events.DesiredReceived(want)) == (events.Describe(want, folder),)
    assert plan.take(events.Described(1, facts(2))) == (events.Fetch(want, folder),)
    assert plan.take(events.Progressed(1, 500, 0.5)) == ()
    told = deployment(plan.state)
    assert told is not None
    assert (told.phase, told.fetched_bytes, told.progress) == ("fetching", 500, 0.5)
    assert plan.take(events.Fetched(1)) == (events.Check(1, folder),)
    assert plan.take(events.Checked(1, facts(2))) == (events.Warm(1, folder),)
    assert plan.phase == "warming"
    assert plan.take(events.Warmed(1)) == (events.Switch("b2", "tiny"),)
    assert plan.slot.serving == plan.slot.trial
    for _ in range(8):
        assert plan.take(events.QuestionEnded("b2", False, 10.0, 11.0)) == ()
    assert plan.take(events.TimePassed(), 59.0) == (events.Compare(1, "b2", "b1"),)
    assert plan.take(events.Compared(1)) == ()
    assert plan.take(events.TimePassed(), 1.0) == (events.Settle("b2", "tiny"), events.Tidy(frozenset((folder,))))
    told = deployment(plan.state)
    assert told is not None
    assert (told.phase, told.progress, told.answered, told.slower) == ("serving", 1.0, 8, pytest.approx(0.1))
    assert plan.state.record.highest == {"tiny": 2}
    assert plan.slot.current is not None
    assert plan.slot.current.is_first


def test_an_older_epoch_is_ignored_and_told() -> None:
    """A replayed Desired freezes or rolls back nobody."""
    plan = Plan()
    plan.to_trial(2, 7)
    before = plan.state.record
    assert plan.take(events.DesiredReceived(desired(9, 6))) == ()
    assert plan.state.record == before
    assert plan.why == "a Desired of epoch 6 came again after 7, and is ignored"


def test_the_same_epoch_again_is_nothing_new() -> None:
    """Retained messages come with each connection; another content under the same epoch is told."""
    plan = Plan()
    plan.to_trial(2, 7)
    before = plan.state
    assert plan.take(events.DesiredReceived(desired(2, 7))) == ()
    assert plan.state == before
    assert plan.take(events.DesiredReceived(desired(3, 7))) == ()
    assert plan.why == "another Desired of epoch 7 is ignored"


def test_nobody_skips_to_the_last_epoch() -> None:
    """After which no Desired would ever be new; it is said, and the next one is taken."""
    plan = Plan()
    plan.to_serving(2, 1)
    plan.take(events.DesiredReceived(desired(3, 2**53)))
    assert (plan.state.record.epoch, plan.why) == (
        1,
        f"a Desired of epoch {2**53} after 1 skips too many, and is ignored",
    )
    plan.to_serving(3, 1_000_001)


def test_a_bundle_that_serves_already_is_not_fetched() -> None:
    """Neither the deployed nor the fixed one; a newer version of the same answers is, for its signature."""
    plan = Plan()
    plan.take(events.DesiredReceived(desired(1, 1)))
    assert plan.phase == "serving"
    plan.to_serving(2, 2)
    assert plan.take(events.DesiredReceived(desired(2, 3))) == (events.Tidy(plan.state.record.kept()),)
    assert plan.phase == "serving"
    plan.take(events.DesiredReceived(desired(3, 4, bundle="b2")))
    plan.take(events.Described(4, facts(3, bundle="b2")))
    assert (plan.phase, plan.why) == ("fetching", "")


def test_what_was_undone_is_not_tried_again_in_its_epoch() -> None:
    """But in a newer one, which somebody must have asked for."""
    plan = Plan()
    plan.to_trial(2, 1)
    for _ in range(2):
        effects = plan.take(events.QuestionEnded("b2", True, 0.0, 0.0))
    assert effects == (events.GoBack("b2", "tiny", None), events.Tidy(frozenset()))
    assert plan.phase == "undone"
    plan.restart()
    assert plan.take(events.DesiredReceived(desired(2, 1))) == ()
    assert plan.phase == "undone"
    plan.to_trial(2, 2)


PHASES = ["fetching", "checking", "warming", "trial"]


@pytest.mark.parametrize(
    ("phase", "stopped"),
    [
        ("fetching", (events.StopWork(),)),
        ("checking", (events.StopWork(),)),
        ("warming", (events.StopWork(), events.Release("b2"))),
        ("trial", (events.GoBack("b2", "tiny", None),)),
    ],
)
def test_a_newer_desired_takes_the_place_of_what_is_under_way(phase: str, stopped: tuple[Effect, ...]) -> None:
    """In every phase; what comes of the old work afterwards changes nothing."""
    plan = Plan()
    go = [
        events.DesiredReceived(desired(2, 1)), events.Described(1, facts(2)), events.Fetched(1),
        events.Checked(1, facts(2)), events.Warmed(1),
    ]  # fmt: skip
    for event in go:
        plan.take(event)
        if plan.phase == phase:
            break
    want = desired(3, 2)
    effects = plan.take(events.DesiredReceived(want))
    assert effects == (*stopped, events.Describe(want, "b3-v3-33333333"))
    assert plan.slot.serving is None
    before = plan.state
    for event in (*go[1:], events.Failed(1, "late"), events.Compared(1, "late"), events.Progressed(1, 5, 0.5)):
        assert plan.take(event) == ()
    assert plan.state == before


def test_the_same_bundle_in_a_newer_rollout_begins_its_trial_anew() -> None:
    """It is not switched away from; the new limits hold."""
    plan = Plan()
    plan.to_trial(2, 1)
    plan.take(events.QuestionEnded("b2", True, 0.0, 0.0))
    assert plan.take(events.DesiredReceived(desired(2, 2, rollout="again")), 50.0) == ()
    plan.take(events.QuestionEnded("b2", True, 0.0, 0.0))
    assert plan.phase == "trial"
    assert plan.slot.trial is not None
    assert plan.slot.trial.rollout == "again"
    plan.take(events.TimePassed(), 50.0)
    assert plan.phase == "trial"


def test_undo_goes_back_from_a_trial() -> None:
    """To what served before; that is no downgrade."""
    plan = Plan()
    plan.to_serving(2, 1)
    plan.to_trial(3, 2)
    effects = plan.take(events.DesiredReceived(desired(3, 3, undo=True)))
    assert effects[0] == events.GoBack("b3", "tiny", "b2-v2-22222222")
    assert (plan.phase, plan.why) == ("undone", "undone by the hub, rollout r3")
    assert plan.slot.serving is not None
    assert plan.slot.serving.bundle == "b2"


def test_undo_goes_back_from_what_this_rollout_confirmed() -> None:
    """While the bundle before is kept; once, and for this rollout only."""
    plan = Plan()
    plan.to_serving(2, 1)
    plan.to_serving(3, 2)
    plan.take(events.DesiredReceived(desired(3, 3, rollout="another", undo=True)))
    assert plan.slot.current is not None
    assert plan.slot.current.bundle == "b3"
    effects = plan.take(events.DesiredReceived(desired(3, 4, undo=True)))
    assert effects[0] == events.GoBack("b3", "tiny", "b2-v2-22222222")
    assert plan.state.record.highest == {"tiny": 2}, "as if version 3 had never been confirmed"


def test_undo_of_the_first_goes_back_to_the_fixed_one() -> None:
    """But no second step back, which no hub in order ever asks for: whoever has stolen a certificate might."""
    plan = Plan()
    plan.to_serving(2, 1)
    effects = plan.take(events.DesiredReceived(desired(2, 2, undo=True)))
    assert effects[0] == events.GoBack("b2", "tiny", None)
    assert plan.slot.serving is None
    plan.to_serving(2, 3)
    plan.to_serving(3, 4)
    plan.take(events.DesiredReceived(desired(3, 5, undo=True)))
    assert not [
        one for one in plan.take(events.DesiredReceived(desired(2, 6, undo=True))) if type(one) is events.GoBack
    ]
    assert (plan.phase, plan.state.record.highest) == ("refused", {"tiny": 2})


def test_undo_without_a_bundle_before_stays() -> None:
    """It is told, instead of leaving the node with nothing."""
    plan = Plan()
    plan.to_serving(2, 1)
    plan.to_serving(3, 2)
    plan.to_serving(4, 3)
    plan.take(events.DesiredReceived(desired(4, 4, undo=True)))
    plan.take(events.DesiredReceived(desired(3, 5, undo=True)))
    assert (plan.phase, plan.why) == ("refused", "b3 stays: the bundle before it is no longer here")
    assert plan.slot.serving is not None


def test_undo_of_what_went_back_by_itself_keeps_the_reason() -> None:
    """And undo before the switch stops what is under way."""
    plan = Plan()
    plan.to_trial(2, 1)
    for _ in range(2):
        plan.take(events.QuestionEnded("b2", True, 0.0, 0.0))
    plan.take(events.DesiredReceived(desired(2, 2, undo=True)))
    assert plan.phase == "undone"
    assert plan.why.startswith("2 of 2 questions failed")
    plan.take(events.DesiredReceived(desired(3, 3)))
    assert plan.take(events.DesiredReceived(desired(3, 4, undo=True)))[0] == events.StopWork()
    assert plan.phase == "undone"


def test_nothing_is_fetched_in_quiet_hours() -> None:
    """What began stops, and begins again when they are over; the rest of the way needs no network."""
    plan = Plan()
    plan.take(events.QuietChanged(True))
    assert plan.take(events.DesiredReceived(desired(2, 1))) == ()
    assert (plan.phase, plan.why) == ("waiting", "quiet hours")
    assert plan.take(events.TimePassed(), 100.0) == ()
    assert len(plan.take(events.QuietChanged(False))) == 1
    assert plan.take(events.QuietChanged(True)) == (events.StopWork(),)
    assert plan.take(events.Fetched(1)) == ()  # it was stopped too late: found again when quiet hours are over
    assert plan.phase == "waiting"
    plan.take(events.QuietChanged(False))
    plan.take(events.Described(1, facts(2)))
    plan.take(events.Fetched(1))
    assert plan.take(events.QuietChanged(True)) == ()
    assert plan.phase == "checking"


def test_a_broken_network_is_tried_again_ever_more_rarely() -> None:
    """With the reason and the pause in the state, and never refused."""
    plan = Plan()
    plan.take(events.DesiredReceived(desired(2, 1)))
    pauses = []
    for _ in range(8):
        plan.take(events.Failed(1, "nobody answers", may_later=True))
        assert plan.phase == "waiting"
        pauses.append(round(plan.state.retry_at - plan.now))
        assert plan.take(events.TimePassed(), pauses[-1] - 0.1) == ()
        assert len(plan.take(events.TimePassed(), 0.2)) == 1
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600]


@pytest.mark.parametrize("crashes", [1, 2])
@pytest.mark.parametrize("phase", ["checking", "warming", "trial"])
def test_two_crashes_are_enough(phase: str, crashes: int) -> None:
    """One is bad luck: it goes on; the second ends it, with the reason, and the old bundle serves."""
    plan = Plan()
    plan.to_serving(2, 1)
    for number in range(crashes):
        if phase == "trial" and number == 0:
            plan.to_trial(3, 2)
        elif phase != "trial":
            plan.take(events.DesiredReceived(desired(3, 2)))
            plan.take(events.Described(2, facts(3)))
            plan.take(events.Fetched(2))
            if phase == "warming":
                plan.take(events.Checked(2, facts(3)))
        assert plan.phase == phase
        plan.restart()
    if crashes == 1:
        assert plan.phase == {"checking": "fetching", "warming": "fetching", "trial": "trial"}[phase]
        return
    assert plan.phase == ("undone" if phase == "trial" else "refused")
    assert "ended 2 times without a close" in plan.why
    assert plan.slot.serving is not None
    assert plan.slot.serving.bundle == "b2"


def test_a_close_in_good_order_is_no_crash() -> None:
    """However often, also in between."""
    plan = Plan()
    plan.to_trial(2, 1)
    plan.restart(crash=True)
    for _ in range(3):
        plan.restart(crash=False)
        assert plan.phase == "trial"


def test_what_cannot_be_opened_gives_way_to_the_one_before() -> None:
    """On trial and for good; at last the fixed one."""
    plan = Plan()
    plan.to_serving(2, 1)
    plan.to_serving(3, 2)
    plan.to_trial(4, 3)
    for bundle in ("b4", "b3", "b2"):
        assert plan.slot.serving is not None
        assert plan.slot.serving.bundle == bundle
        plan.take(events.CouldNotOpen("tiny", "no such file"))
    assert plan.slot.serving is None
    assert plan.phase == "undone"
    assert plan.why == "b4 cannot be opened: no such file; b2 cannot be opened: no such file"


def test_a_slow_old_bundle_is_what_a_slow_new_one_is_held_against() -> None:
    """Its latest answers were as much slower than predicted: the machine is."""
    plan = Plan()
    for _ in range(10):
        plan.take(events.QuestionEnded("b1", False, 10.0, 20.0))
    plan.to_trial(2, 1)
    for _ in range(20):
        plan.take(events.QuestionEnded("b2", False, 10.0, 21.0))
    assert plan.phase == "trial"
    for _ in range(60):
        plan.take(events.QuestionEnded("b2", False, 10.0, 40.0))
    assert plan.phase == "undone"


def test_an_idle_trial_answers_its_samples_once_and_waits_for_them() -> None:
    """At half of it, and it does not end before they are compared."""
    plan = Plan()
    plan.to_trial(2, 1)
    assert plan.take(events.TimePassed(), 29.0) == ()
    assert plan.take(events.TimePassed(), 1.0) == (events.Compare(1, "b2", "b1"),)
    assert plan.take(events.TimePassed(), 60.0) == ()
    assert plan.take(events.Compared(1)) == ()
    plan.take(events.TimePassed())
    assert plan.phase == "serving"


@pytest.mark.parametrize(("ratio", "phase"), [(2.0, "undone"), (1.1, "trial")])
def test_a_bundle_that_was_slow_from_its_beginning_goes_back(ratio: float, phase: str) -> None:
    """However few or many have asked it: questions of the node's own, to the bundle before as well, show it."""
    plan = Plan()
    plan.to_trial(2, 1)
    plan.answered(2)
    assert plan.take(events.TimePassed(), 30.0) == (events.Compare(1, "b2", "b1"),)
    plan.take(events.Compared(1, None, (ratio,) * 8))
    assert plan.phase == phase
    assert ("100% longer than predicted" in plan.why) is (phase == "undone")


def test_too_few_times_tell_nothing() -> None:
    """Others are asked all the time there; and a bundle that took nobody's place has none beside it."""
    plan = Plan()
    plan.to_trial(2, 1)
    plan.take(events.TimePassed(), 30.0)
    plan.take(events.Compared(1, None, (2.0,) * 7))
    assert plan.phase == "trial"
    alone = Plan(fixed=())
    alone.to_trial(2, 1)
    assert alone.take(events.TimePassed(), 30.0) == (events.Compare(1, "b2"),)


# --- any order of events --------------------------------------------------------------------------------

epochs = st.integers(1, 4)
versions = st.integers(1, 4)
any_event = st.one_of(
    st.builds(lambda v, e, u: events.DesiredReceived(desired(v, e, undo=u)), versions, epochs, st.booleans()),
    st.builds(lambda v, e: events.Described(e, facts(v)), versions, epochs),
    st.builds(events.Fetched, epochs),
    st.builds(lambda v, e: events.Checked(e, facts(v)), versions, epochs),
    st.builds(events.Warmed, epochs),
    st.builds(events.Failed, epochs, st.just("it failed"), st.booleans()),
    st.builds(events.Compared, epochs, st.sampled_from([None, "other tokens"])),
    st.builds(events.QuestionEnded, st.sampled_from(["b1", "b2", "b3"]), st.booleans(), st.just(1.0), st.just(1.0)),
    st.builds(events.QuietChanged, st.booleans()),
    st.just(events.TimePassed()),
    st.just("crash"),
    st.just("restart"),
    st.just("good"),  # whatever is under way goes well
)


def goes_well(plan: Plan) -> Event:
    epoch = plan.state.record.epoch
    want = plan.state.record.desired
    said = facts(want.version if want is not None else 0)
    return {
        "fetching": events.Fetched(epoch),
        "checking": events.Checked(epoch, said),
        "warming": events.Warmed(epoch),
    }.get(plan.phase, events.TimePassed())


@given(st.lists(any_event, max_size=40))
@settings(max_examples=300)
def test_no_order_of_events_breaks_what_is_promised(taken: list[Any]) -> None:
    """Epochs and highest versions only go up; what serves was checked and warmed; effects fit what is there."""
    plan, warmed = Plan(), set()
    for one in taken:
        before = plan.state.record
        if one in ("crash", "restart"):
            plan.restart(crash=one == "crash")
            continue
        effects = plan.take(goes_well(plan) if one == "good" else one, 20.0)
        after = plan.state.record
        assert after.epoch >= before.epoch
        assert all(after.highest.get(model, -1) >= version for model, version in before.highest.items())
        for effect in effects:
            if isinstance(effect, events.Warm):
                warmed.add(effect.folder)
            if isinstance(effect, events.Tidy):
                assert effect.keep == after.kept()
            if isinstance(effect, events.GoBack):
                serving = after.slots["tiny"].serving
                assert effect.folder == (None if serving is None else serving.folder)
            if isinstance(effect, events.Switch):
                assert after.phase == "trial"
        for slot in after.slots.values():
            assert all(each is None or each.folder in warmed for each in (slot.trial, slot.current, slot.previous))
            assert (slot.trial is not None) == (after.phase == "trial")
            assert slot.serving is None or isinstance(slot.serving, Placed)
        told = deployment(plan.state)
        assert (told is None) == (after.desired is None)
        if told is not None:
            wire.decode_node_state(wire.encode(wire.NodeState(epoch=1, status="ready", deployment=told)))
