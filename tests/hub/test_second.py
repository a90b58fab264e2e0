"""When an attempt is so late that a second node should try."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hub import events, wire
from hub.decision import Terms
from hub.failing import rate_at
from hub.fleet import Load
from hub.intake import Ask, Sender
from hub.second import SILENT_FLOOR_S, Allowance, doubt_of, looked_again
from tests.hub.core_driver import (
    Driver,
    cancels,
    failures,
    proven,
    records,
    without_pings,
    works,
)

TERMS = Terms(
    node="n", bundle="b", network_ms=0, wait_ms=0, fixed_ms=99, prefill_ms=0, decode_ms=0, prompt_tokens=1,
    completion_tokens=1, log_spread=0.5, spread_weight=20.0,
)  # fmt: skip


def ask(*, hurried: bool = True, **fields: Any) -> Ask:
    return Ask(
        sender=Sender(device="d", reply_to="edge/v1/answer/d", correlation=None, plain=False),
        question=wire.Question(id="q", question="Why?", **fields),
        id_is_own=True,
        budget_ms=5000.0,
        payload_bytes=9,
        fingerprint=b"f",
        hurried=hurried,
    )


def load(longest_ms: float = math.inf, deadline_s: float = 15.0) -> Load:
    return Load(
        key=("d", "q"), sent_s=10, start_s=10, before_ms=99, decode_ms=0, longest_ms=longest_ms, deadline_s=deadline_s
    )


def test_times_are_the_predicted_percentiles() -> None:
    """The 95th for a hedge; for silence the 99.9th and a second more."""
    doubt = doubt_of(ask(), TERMS, load(), 10.0)
    assert doubt is not None
    assert doubt.next_s == doubt.hedge_at_s == pytest.approx(10 + 0.2266, abs=1e-3)
    assert doubt.silent_at_s == pytest.approx(10 + 0.4682 + SILENT_FLOOR_S, abs=1e-3)


def test_only_a_deadline_of_its_own_is_hedged() -> None:
    """Whoever set none can wait for silence; and so does a streamed question, whose first piece may be out."""
    for late in (ask(hurried=False), ask(stream=True)):
        doubt = doubt_of(late, TERMS, load(longest_ms=500.0), 10.0)
        assert doubt is not None
        assert doubt.hedge_at_s == math.inf
        assert doubt.silent_at_s < math.inf


def test_streamed_question_is_silent_after_its_longest_answer() -> None:
    """A long answer under way is not silence: where its length is not bounded, nothing is."""
    doubt = doubt_of(ask(stream=True), TERMS, load(longest_ms=500.0), 10.0)
    assert doubt is not None
    assert doubt.silent_at_s == pytest.approx(10 + 2.35 + SILENT_FLOOR_S, abs=0.01)
    assert doubt_of(ask(stream=True), TERMS, load(), 10.0) is None


def test_never_doubted() -> None:
    """A session lives on its node; an unproven node's percentiles are guesses; after the deadline nothing matters."""
    assert doubt_of(ask(session="s"), TERMS, load(), 10.0) is None
    unproven = Terms(**{name: getattr(TERMS, name) for name in Terms.__struct_fields__ if name != "spread_weight"})
    assert doubt_of(ask(), unproven, load(), 10.0) is None
    assert doubt_of(ask(), TERMS, load(deadline_s=10.2), 10.0) is None


def test_looking_again() -> None:
    """After a look that led to nothing the next one is for silence only, no sooner than a second later."""
    doubt = doubt_of(ask(), TERMS, load(), 10.0)
    assert doubt is not None
    again = looked_again(doubt, 0.1, 12.0)
    assert (again.hedge_at_s, again.silent_at_s, again.looked_s) == (math.inf, 12.0 + SILENT_FLOOR_S, 12.0)


def test_allowance_is_a_share_with_a_bounded_burst() -> None:
    """Of a thousand questions twenty, of a hundred two; what was saved for longer is at most the burst."""
    hedges = Allowance(0.02, burst=10, saved=0)
    taken = 0
    for _ in range(1000):
        hedges.earn()
        taken += hedges.take()
    assert taken == 20
    for _ in range(10_000):
        hedges.earn()
    assert sum(hedges.take() for _ in range(100)) == 10


# --- in the core: hedges -------------------------------------------------------------------------------


def hedging(**fields: Any) -> Driver:
    """Both nodes known, budget for a hedge saved, and question `q` at the first node."""
    hub = proven("a", "b", hedge_share=1.0)
    effects = hub.ask(id="q", deadline_ms=2000, **fields)
    assert works(effects) == [("a", 1)]
    hub.accept(effects)
    return hub


def test_hedge_at_the_95th_percentile() -> None:
    """A second node is asked then and not before; the first to answer wins, the other one is called off at once."""
    hub = hedging()
    late_s = hub.decisions[-1].chosen.within_ms(0.95) / 1000
    assert works(hub.wait_ponging(late_s - 0.001, "a", "b")) == []
    effects = hub.wait_ponging(0.002, "a", "b")
    assert works(effects) == [("b", 2)]
    assert hub.decisions[-1].cause == "hedge"
    assert cancels(effects) == []
    hub.now += 0.1
    ended = hub.done("b", attempt=2)
    assert cancels(ended) == [("a", 1)]
    (record,) = records(ended)
    assert (record.outcome, record.node, record.attempts, record.second, record.second_won) == (
        *("answered", "b", 2, "hedge", True),
    )
    assert hub.done("a", "cancelled", attempt=1) == []
    assert rate_at(hub.core.fleet.get("a").failing, hub.now) == 0.0  # type: ignore[union-attr]


def test_the_first_node_may_still_win() -> None:
    """Its answer is the outcome, and the hedge is called off."""
    hub = hedging()
    assert works(hub.wait_ponging(0.5, "a", "b")) == [("b", 2)]
    ended = hub.done("a", attempt=1)
    assert cancels(ended) == [("b", 2)]
    assert [(record.node, record.second, record.second_won) for record in records(ended)] == [("a", "hedge", False)]


def test_what_was_called_off_counts_as_late() -> None:
    """A node whose slow answers are always called off would look as fast as its fast ones."""
    hub = hedging()
    before = hub.core.fleet.get("a")
    hub.wait_ponging(0.8, "a", "b")
    hub.done("b", attempt=2)
    after = hub.core.fleet.get("a")
    assert before is not None
    assert after is not None
    assert after.spread.mean > before.spread.mean + 0.05


@pytest.mark.parametrize("fields", [{"stream": True}, {"session": "s"}, {"deadline_ms": 30_000}, {"deadline_ms": None}])
def test_not_hedged(fields: dict[str, Any]) -> None:
    """Streamed questions, those in a session, and those without a deadline of their own go to one node."""
    hub = proven("a", "b", hedge_share=1.0)
    hub.accept(hub.ask(id="q", **{"deadline_ms": 2000, "max_tokens": 500, **fields}))
    assert works(hub.wait_ponging(0.9, "a", "b")) == []


def test_hedges_have_a_budget() -> None:
    """Of 200 late questions 4 are hedged; after a long time without need, 10 at once."""
    hub = proven("a", "b")
    found = 0
    for number in range(140):
        hub.accept(hub.ask(id=str(number), deadline_ms=2000))
        found += len(works(hub.wait_ponging(0.6, "a", "b")))
        for name in ("a", "b"):
            hub.done(name, id=str(number), attempt=1)
            hub.done(name, id=str(number), attempt=2)
    assert found == hub.core.counters["second_hedge"] == int(0.02 * (60 + 140))


def test_no_hedge_without_a_node_that_can_be_in_time() -> None:
    """Asking twice in vain helps nobody."""
    hub = proven("a", "b", hedge_share=1.0)
    hub.accept(hub.ask(id="q", deadline_ms=150))
    assert works(hub.wait_ponging(0.14, "a", "b")) == []
    alone = proven("a", hedge_share=1.0)
    alone.accept(alone.ask(id="q", deadline_ms=2000))
    assert failures(alone.wait_ponging(2.1, "a")) == ["deadline"]


def test_a_hedge_that_fails_leaves_the_first_attempt() -> None:
    """It is not tried elsewhere: the first node is still at it. When that one fails, too, it is the second failure."""
    hub = hedging()
    hub.wait_ponging(0.5, "a", "b")
    assert without_pings(hub.done("b", "internal", attempt=2)) == []
    assert failures(hub.done("a", "internal", attempt=1, message="boom")) == ["internal"]
    other = hedging()
    other.wait_ponging(0.5, "a", "b")
    assert without_pings(other.done("b", "overloaded", attempt=2)) == []
    assert len(records(other.done("a", attempt=1))) == 1


def test_the_first_attempt_fails_beside_its_hedge() -> None:
    """The hedge goes on, and is the outcome."""
    hub = hedging()
    hub.wait_ponging(0.5, "a", "b")
    assert without_pings(hub.done("a", "internal", attempt=1)) == []
    assert [record.node for record in records(hub.done("b", attempt=2))] == ["b"]


def test_the_hedge_s_node_dies() -> None:
    """The first attempt is counted on again; when its node dies as well, the question goes to the next one."""
    hub = hedging()
    hub.wait_ponging(0.5, "a", "b")
    assert without_pings(hub.state("b", status="offline")) == []
    hub.node("c")
    assert works(hub.state("a", status="offline")) == [("c", 3)]


# --- in the core: silence ------------------------------------------------------------------------------


def silent(**fields: Any) -> Driver:
    hub = proven("a", "b")
    hub.accept(hub.ask(id="q", **fields))
    return hub


def busy(hub: Driver, seconds: float) -> list[events.Effect]:
    """Time passes; both nodes answer pings, and `a` says each time that it still has a question."""
    end, found = hub.now + seconds, []
    while (wake := hub.core.next_wake(hub.now)) is not None and wake <= end:
        hub.now = wake
        for effect in hub.do(events.TimePassed()):
            found.append(effect)
            if isinstance(effect, events.PublishControl) and isinstance(effect.control, wire.Ping):
                left = wire.Backlog(questions=int(effect.node == "a"), ms=10.0)
                found += hub.pong(effect.node, backlog=left)
    hub.now = end
    return without_pings(found)


def test_silence_beyond_the_spread_is_tried_elsewhere_once() -> None:
    """A node that answers pings and nothing else does not keep a question; both attempts may end it."""
    hub = silent()
    assert works(busy(hub, 1.0)) == []
    assert works(busy(hub, 0.5)) == [("b", 2)]
    assert hub.decisions[-1].cause == "silence"
    assert works(busy(hub, 20.0)) == []
    ended = hub.done("a", attempt=1)
    assert [(record.node, record.second) for record in records(ended)] == [("a", "silence")]
    assert cancels(ended) == [("b", 2)]


def test_a_node_that_ends_other_questions_is_busy() -> None:
    """As long as it ends others, whosever they are, it is not silent."""
    hub = silent()
    for number in range(8):
        assert works(busy(hub, 0.9)) == []
        hub.done("a", hub="other", device="library", id=str(number), backlog=wire.Backlog(questions=1, ms=10.0))
    assert works(busy(hub, 3.0)) == [("b", 2)]


def test_streamed_answers_may_be_long() -> None:
    """A streamed question is silent only when the longest answer that it may have would be there."""
    hub = silent(stream=True)
    assert works(busy(hub, 25.0)) == []
    bounded = silent(stream=True, max_tokens=1000)
    assert works(busy(bounded, 5.0)) == []
    assert works(busy(bounded, 15.0)) == [("b", 2)]


def test_many_silent_questions_do_not_double_the_load() -> None:
    """When everything takes longer than predicted, a few are tried elsewhere, not all."""
    hub = proven("a", "b")
    for number in range(100):
        hub.accept(hub.ask(id=str(number), deadline_ms=29_000))
    seconds = works(busy(hub, 25.0))
    assert 0 < len([attempt for _, attempt in seconds if attempt == 2]) <= 20 + 0.05 * 160


def test_hub_that_was_held_up_asks_nobody_twice() -> None:
    """Outcomes may lie in its own socket: it looks again a second later."""
    hub = hedging()
    hub.now += 1.5
    effects = hub.do(events.TimePassed())
    assert works(effects) == []
    assert len(records(hub.done("a"))) == 1


def test_without_a_link_nobody_is_asked_twice() -> None:
    """What cannot be sent is no attempt."""
    hub = hedging()
    hub.do(events.LinkClosed())
    assert works(hub.wait(1.0)) == []
    assert hub.core.counters["second_hedge"] == 0


def test_an_outage_is_no_delay_of_a_node() -> None:
    """An answer that was held up by the broker teaches nothing of how late the node's answers are."""
    hub = hedging()
    before = hub.core.fleet.get("a")
    hub.do(events.LinkClosed())
    hub.wait(1.0)
    hub.do(events.LinkOpened())
    hub.done("a")
    after = hub.core.fleet.get("a")
    assert before is not None
    assert after is not None
    assert after.spread == before.spread
