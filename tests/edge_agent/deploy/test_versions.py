"""Versions only go up, however an old bundle is dressed."""

from __future__ import annotations

import pytest

from edge_agent.deploy import events
from tests.edge_agent.deploy.plan_driver import Plan, desired, facts


@pytest.mark.parametrize("version", [0, 1])
def test_a_version_that_is_not_above_what_was_confirmed_is_refused(version: int) -> None:
    """A fixed bundle counts as confirmed; nothing but the manifest is fetched."""
    plan = Plan()
    plan.take(events.DesiredReceived(desired(version, 1, manifest="f" * 64)))
    assert plan.take(events.Described(1, facts(version))) == (events.Tidy(frozenset()),)
    assert plan.phase == "refused"
    assert plan.why == (
        f"version {version} of tiny is not above 1, which was confirmed here: "
        "raise the version, or sign it as a downgrade from that one"
    )


@pytest.mark.parametrize(
    ("downgrade_from", "phase"), [(None, "refused"), (4, "refused"), (5, "fetching"), (6, "fetching")]
)
def test_a_downgrade_is_what_its_maker_signed(downgrade_from: int | None, phase: str) -> None:
    """From at least the highest version; what was highest stays so."""
    plan = Plan()
    plan.to_serving(5, 1)
    plan.take(events.DesiredReceived(desired(3, 2)))
    plan.take(events.Described(2, facts(3, downgrade_from=downgrade_from)))
    assert plan.phase == phase
    if phase == "fetching":
        plan.take(events.Fetched(2))
        plan.take(events.Checked(2, facts(3, downgrade_from=downgrade_from)))
        plan.take(events.Warmed(2))
        plan.take(events.QuestionEnded("b3", False, 1.0, 1.0))
        plan.take(events.TimePassed(), 60.0)
        plan.take(events.Compared(2))
        plan.take(events.TimePassed())
        assert (plan.phase, plan.state.record.highest) == ("serving", {"tiny": 5})


def test_what_is_signed_decides_and_not_what_was_described() -> None:
    """The check reads the manifest again, now verified."""
    plan = Plan()
    plan.to_serving(5, 1)
    plan.take(events.DesiredReceived(desired(3, 2)))
    plan.take(events.Described(2, facts(3, downgrade_from=9)))
    plan.take(events.Fetched(2))
    plan.take(events.Checked(2, facts(3)))
    assert plan.phase == "refused"


def test_an_old_version_does_not_come_under_another_name() -> None:
    """Neither in the place of another model, nor as one that stands beside."""
    plan = Plan()
    plan.to_serving(5, 1)
    plan.take(events.DesiredReceived(desired(3, 2, replaces="other")))
    plan.take(events.Described(2, facts(3)))
    assert plan.phase == "refused"
    plan.take(events.DesiredReceived(desired(3, 3)))
    plan.take(events.Described(3, facts(3, model="other")))
    assert plan.phase == "refused"


def test_the_manifest_is_of_the_bundle_that_is_desired() -> None:
    """Else who reads the state would be told of another bundle than runs."""
    plan = Plan()
    plan.take(events.DesiredReceived(desired(2, 1)))
    plan.take(events.Described(1, facts(3)))
    assert plan.why == "the manifest is of b3 version 3, and b2 version 2 is desired"


def test_a_bundle_that_went_back_was_never_confirmed() -> None:
    """Its version may come again, and a lower one that is still above what was confirmed."""
    plan = Plan()
    plan.to_trial(4, 1)
    plan.take(events.DesiredReceived(desired(4, 2, undo=True)))
    plan.to_trial(3, 3)
    plan.to_trial(4, 4)


def test_the_same_answers_may_be_signed_anew_as_a_higher_version() -> None:
    """So keys are changed; it is fetched, since its manifest is another one."""
    plan = Plan()
    plan.take(events.DesiredReceived(desired(3, 3, bundle="b1")))
    plan.take(events.Described(3, facts(3, bundle="b1")))
    assert (plan.phase, plan.why) == ("fetching", "")


def test_a_rollout_that_was_undone_can_be_made_again() -> None:
    """Its version counts as never confirmed; what was above before it still holds."""
    plan = Plan()
    plan.to_serving(3, 1)
    plan.to_serving(5, 2)
    plan.take(events.DesiredReceived(desired(5, 3, undo=True)))
    plan.take(events.DesiredReceived(desired(2, 4)))
    plan.take(events.Described(4, facts(2)))
    assert "not above 3" in plan.why
    plan.to_serving(5, 5)
