"""What is kept of what happens: the last questions with their choices, bounded, and told once."""

from __future__ import annotations

from hub.decision import Decision
from hub.web.live import MOST_KEPT, Live
from tests.hub.rows import record
from tests.hub.test_explain import decision, terms

CHOICE = decision(terms("a"), terms("b"))
KEY = (CHOICE.device, CHOICE.id)


def live(now_s: float = 1_000_000.0) -> Live:
    return Live(lambda: now_s)


def test_a_question_is_told_when_it_is_routed_and_when_it_has_ended() -> None:
    """The record brings its choices with it; only what changed comes again."""
    kept = live()
    kept.decided(CHOICE)
    first = kept.since(0)
    (seen,) = first.questions
    assert (seen.device, seen.decisions, seen.record) == ("kitchen", (CHOICE,), None)
    assert kept.since(first.number).questions == ()
    ended = record(id=CHOICE.id, decisions=(CHOICE,))
    kept.ended(ended, 1_000_000.0)
    (seen,) = kept.since(first.number).questions
    assert (seen.record, seen.decisions) == (ended, (CHOICE,))
    assert kept.since(first.number).hour.answered == 1


def test_choices_of_a_question_are_kept_in_order() -> None:
    """A question that moved to another node shows both; the latest eight of them."""
    kept = live()
    for _ in range(20):
        kept.decided(CHOICE)
    other = decision(terms("b"), cause="silence")
    kept.decided(other)
    (seen,) = kept.since(0).questions
    assert len(seen.decisions) == 8
    assert seen.decisions[-1] is other


def test_an_id_that_is_used_again_starts_anew() -> None:
    """What came of the first question is no part of the second."""
    kept = live()
    kept.ended(record(id=CHOICE.id, decisions=(CHOICE, CHOICE)), 1_000_000.0)
    kept.decided(CHOICE)
    (seen,) = kept.since(0).questions
    assert (seen.decisions, seen.record) == ((CHOICE,), None)


def test_only_the_last_questions_are_kept() -> None:
    """The newest, in the order of their last change."""
    kept = live()
    for number in range(MOST_KEPT + 50):
        kept.ended(record(id=str(number)), 1_000_000.0)
    kept.ended(record(id="100"), 1_000_000.0)
    seen = [question.id for question in kept.since(0).questions]
    assert len(seen) == MOST_KEPT
    assert (seen[0], seen[-2:]) == ("50", [f"{MOST_KEPT + 49}", "100"])
    assert [question.id for question in kept.since(MOST_KEPT + 49).questions] == [f"{MOST_KEPT + 49}", "100"]


def test_what_a_node_did_alone_counts_but_is_no_question_of_this_hub() -> None:
    """It comes in by the thousand when a node is back, long after."""
    kept = live()
    kept.ended(record(attempts=0, local=True), 999_000.0)
    news = kept.since(0)
    assert news.questions == ()
    assert (news.hour.answered, news.slots[0].start_s) == (1, 999_000)


def test_what_was_pieced_together_is_left_out() -> None:
    """Its delay is a lower bound, which would make the hour look quick."""
    kept = live()
    kept.ended(record(partial=True), 1_000_000.0)
    assert (kept.since(0).questions, kept.since(0).hour.answered) == ((), 0)


def test_who_follows_a_question_hears_its_choices() -> None:
    """And no others', and none after that."""
    kept, heard = live(), list[Decision]()
    kept.follow(KEY, heard.append)
    kept.decided(CHOICE)
    kept.decided(Decision(device="kitchen", id="other", attempt=1, chosen=None, candidates=(), rejected=()))
    kept.unfollow(KEY)
    kept.decided(CHOICE)
    assert heard == [CHOICE]
