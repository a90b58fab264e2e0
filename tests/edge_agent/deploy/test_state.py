"""What a node tells of its deployment."""

from __future__ import annotations

from edge_agent.deploy import health
from edge_agent.deploy.record import Record
from edge_agent.deploy.state import State, deployment, one_line
from hub import wire
from tests.edge_agent.deploy.plan_driver import desired


def test_there_is_nothing_to_tell_before_the_first_desired() -> None:
    """A node that was never given a bundle."""
    assert deployment(State(record=Record())) is None


def test_the_reason_and_the_note_are_told_within_the_wires_limit() -> None:
    """Both, in one line, whatever somebody else's error says."""
    record = Record(desired=desired(2, 5), phase="refused", why=one_line("no\n such\tfile"))
    told = deployment(State(record=record, note="x" * 1000))
    assert told is not None
    assert told.why.startswith("no such file; xxx")
    assert len(told.why) == wire.MAX_WHY_CHARS
    assert (told.epoch, told.rollout, told.bundle, told.version, told.phase) == (5, "r2", "b2", 2, "refused")


def test_counts_of_the_trial_are_told() -> None:
    """Answered, failed, and how much slower than predicted."""
    seen = health.Seen(answered=3, failed=1, ratios=tuple(map(health.Ratio, (1.5, 1.5, 9.0))))
    told = deployment(State(record=Record(desired=desired(2, 5), phase="trial"), seen=seen, progress=0.5))
    assert told is not None
    assert (told.answered, told.failed, told.slower, told.progress) == (3, 1, 0.5, 0.5)
