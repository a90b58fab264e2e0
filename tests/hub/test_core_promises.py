"""What a question gets from the core: refused at once, a second node, a fair share; by comparing the effects."""

from __future__ import annotations

from typing import Any

import pytest

from hub import events, wire
from hub.core import Limits
from hub.failing import rate_at
from hub.shares import Rate
from tests.hub.core_driver import BUNDLE, Driver, acknowledged, bundle, cancels, failures, records, without_pings, works

ANSWER_S = 0.1


def teach(hub: Driver, name: str, answers: int = 30, *, after_s: float = ANSWER_S, **fields: Any) -> None:
    """Let the one ready node answer questions, each after as long."""
    for number in range(answers):
        asked = hub.ask(id=f"{name}-{number}", device="teacher")
        assert [node for node, _ in works(asked)] == [name]
        hub.wait_ponging(after_s, name)
        hub.done(name, id=f"{name}-{number}", device="teacher", **fields)


def proven(*names: str, **options: Any) -> Driver:
    """Nodes whose delays are known from thirty answers each, the first one the nearest."""
    hub = Driver(**options)
    for place, name in enumerate(names):
        hub.node(name, network_ms=1.0 + 10.0 * place)
        teach(hub, name)
        hub.state(name, status="draining")
    for name in names:
        hub.state(name)
        hub.pong(name)
    return hub


def failure(effects: list[events.Effect]) -> wire.Problem:
    (found,) = (effect for effect in effects if isinstance(effect, events.PublishFailure))
    return found.failure.error


# --- admission ------------------------------------------------------------------------------------------


def test_impossible_deadline_fails_at_once() -> None:
    """Not at the deadline; it is a record with a decision that names the candidates, and nothing is sent."""
    hub = proven("a", "b")
    effects = hub.ask(id="q", deadline_ms=20, receipt=9)
    problem = failure(effects)
    assert (problem.code, problem.retry_after_ms) == ("deadline", None)
    assert works(effects) == []
    (record,) = records(effects)
    assert (record.outcome, record.attempts, record.predicted_ms) == ("deadline", 0, None)
    assert {terms.node for terms in record.decisions[0].candidates} == {"a", "b"}
    assert record.decisions[0].cause == "refused: deadline"
    assert hub.accept(effects) == [events.AcknowledgeAsk(9)]
    assert hub.core.in_flight == 0


def test_long_queue_is_overloaded_and_the_time_it_names_is_enough() -> None:
    """Who asks again after `retry_after_ms` is taken, as the nodes go on answering."""
    hub = proven("a")
    for number in range(30):
        assert works(hub.ask(id=str(number))) != []
    effects = hub.ask(id="q", deadline_ms=500)
    problem = failure(effects)
    assert problem.code == "overloaded"
    assert problem.retry_after_ms is not None
    assert 500 < problem.retry_after_ms < 30 * 1000 * ANSWER_S
    end, number = hub.now + problem.retry_after_ms / 1000, 0
    while hub.now + ANSWER_S < end:
        hub.now += ANSWER_S
        hub.done("a", id=str(number))
        number += 1
    hub.now = end
    assert works(hub.ask(id="again", deadline_ms=500)) == [("a", 1)]


def test_unknown_node_is_tried() -> None:
    """What a node says of itself when it starts may be wrong: nobody is refused for it."""
    hub = Driver()
    hub.node("a", bundle(decode_ms_per_token=1000.0))
    assert works(hub.ask(deadline_ms=20)) == [("a", 1)]


def test_a_refusal_that_is_wrong_does_not_last() -> None:
    """A node that was throttled, and is well again, is found out by a question that would have been refused."""
    slow = wire.Timing(prefill=2000.0, decode=2000.0, compute=4000.0)
    hub = Driver()
    hub.node("a")
    teach(hub, "a", after_s=4.0, timing_ms=slow)
    assert failures(hub.ask(id="1", deadline_ms=500)) == ["deadline"]
    hub.wait_ponging(9.0, "a")
    assert failures(hub.ask(id="2", deadline_ms=500)) == ["deadline"]
    hub.wait_ponging(2.0, "a")
    assert works(hub.ask(id="3", deadline_ms=500)) == [("a", 1)]
    assert hub.core.counters["tried_against_the_odds"] == 1


def test_as_long_as_answers_come_a_refusal_is_well_founded() -> None:
    """What a device and a node have just shown is not tried again at the cost of a late failure."""
    hub = proven("a")
    assert failures(hub.ask(id="1", deadline_ms=20)) == ["deadline"]
    hub.wait_ponging(8.0, "a")
    hub.ask(id="2")
    hub.wait_ponging(0.1, "a")
    hub.done("a", id="2")
    hub.wait_ponging(3.0, "a")
    assert failures(hub.ask(id="3", deadline_ms=20)) == ["deadline"]


def test_near_a_deadline_the_surer_node() -> None:
    """A node that is quicker in the mean and often late loses against a steady one, where the deadline is near."""
    hub = Driver()
    hub.node("wild", network_ms=1.0)
    for number in range(40):
        hub.ask(id=str(number), device="teacher")
        hub.now += 0.01 if number % 2 else 0.5
        hub.done("wild", id=str(number), device="teacher")
        hub.pong("wild")
    hub.state("wild", status="draining")
    hub.node("steady", network_ms=30.0)
    teach(hub, "steady", after_s=0.12)
    hub.state("wild")
    hub.pong("wild")
    assert works(hub.ask(id="far", deadline_ms=20_000)) == [("wild", 1)]
    hub.done("wild", id="far")
    assert works(hub.ask(id="near", deadline_ms=200)) == [("steady", 1)]


def test_a_suspect_fleet_refuses_nobody() -> None:
    """When no node is ready, its delay is not what decides: the question waits for one."""
    hub = proven("a")
    hub.wait(5.0)
    assert failures(hub.ask(id="q", deadline_ms=20)) == []


def test_rankings_are_compared_without_it() -> None:
    """Where deadlines are not minded, nobody is refused and no second node is asked."""
    hub = proven("a", "b", hedge_share=1.0, minds_deadlines=False)
    assert works(hub.ask(id="q", deadline_ms=20)) == [("a", 1)]
    hub.accept(hub.ask(id="2", deadline_ms=3000))
    assert works(hub.wait_ponging(2.9, "a", "b")) == []


# --- rates and shares -----------------------------------------------------------------------------------


def test_device_rate() -> None:
    """Beyond its rate a device is told to the millisecond when to come again; others go on."""
    hub = Driver(device_rate=Rate(2, 1.0))
    hub.node("a")
    for number in range(2):
        assert works(hub.ask(id=str(number))) != []
    effects = hub.ask(id="3")
    problem = failure(effects)
    assert (problem.code, problem.retry_after_ms) == ("overloaded", 500.0)
    assert works(hub.ask(id="1", device="library")) != []
    hub.now += 0.499
    assert failures(hub.ask(id="4")) == ["overloaded"]
    hub.now += 0.001
    assert works(hub.ask(id="5")) != []


def test_repeats_are_no_questions_to_the_rate() -> None:
    """Whoever repeats a question that is in flight pays for it once."""
    hub = Driver(device_rate=Rate(1, 1000.0))
    hub.node("a")
    effects = hub.ask(id="q")
    for _ in range(5):
        assert failures(hub.ask(id="q")) == []
    hub.accept(effects)
    assert len(records(hub.done("a"))) == 1


def test_a_flood_starves_nobody() -> None:
    """With fair shares the flooding device is refused while another one finds room; without, both are refused."""
    for fair in (True, False):
        hub = Driver(limits=Limits(in_flight=16), fair_shares=fair)
        hub.node("a")
        refused = sum(len(failures(hub.ask(id=str(number), device="flood"))) for number in range(50))
        assert refused == 50 - (12 if fair else 16)
        assert failures(hub.ask(id="q")) == ([] if fair else ["overloaded"])


def test_shares_end_with_their_questions() -> None:
    """When all have ended, nobody has anything in flight."""
    hub = Driver(limits=Limits(in_flight=16), fair_shares=True)
    hub.node("a")
    for number in range(20):
        hub.ask(id=str(number))
    for number in range(20):
        hub.done("a", id=str(number))
    assert hub.core.in_flight == len(hub.core._room.shares) == hub.core._room.shares.size_bytes == 0


# --- hedges ---------------------------------------------------------------------------------------------


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
    assert (record.outcome, record.node, record.attempts, record.hedged) == ("answered", "b", 2, True)
    assert hub.done("a", "cancelled", attempt=1) == []
    assert rate_at(hub.core.fleet.get("a").failing, hub.now) == 0.0  # type: ignore[union-attr]


def test_the_first_node_may_still_win() -> None:
    """Its answer is the outcome, and the hedge is called off."""
    hub = hedging()
    assert works(hub.wait_ponging(0.5, "a", "b")) == [("b", 2)]
    ended = hub.done("a", attempt=1)
    assert cancels(ended) == [("b", 2)]
    assert [(record.node, record.hedged) for record in records(ended)] == [("a", True)]


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


# --- silence --------------------------------------------------------------------------------------------


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
    assert [(record.node, record.hedged) for record in records(ended)] == [("a", False)]
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


# --- nodes that fail ------------------------------------------------------------------------------------


def test_a_node_that_fails_fast_is_not_cheaper() -> None:
    """Of two equal nodes the failing one loses, also against one that is five times slower; later it is tried again."""
    hub = Driver()
    hub.node("bad", bundle(decode_ms_per_token=1.0))
    hub.node("good", bundle(decode_ms_per_token=5.0))
    taken = []
    for number in range(6):
        ((first, _),) = works(hub.ask(id=str(number)))
        taken.append(first)
        hub.now += 0.001 if first == "bad" else 0.3
        for name, attempt in works(hub.done(first, "internal" if first == "bad" else "answered", id=str(number))):
            hub.now += 0.3
            hub.done(name, id=str(number), attempt=attempt)
    assert taken == ["bad", "good", "good", "good", "good", "good"]
    assert hub.decisions[-1].candidates[1].risk_ms > 1000
    hub.wait_ponging(300.0, "bad", "good")
    assert works(hub.ask(id="later")) == [("bad", 1)]


@pytest.mark.parametrize("outcome", ["internal", "overloaded", "cancelled", "unsupported", "no_node"])
def test_failures_count(outcome: str) -> None:
    """Whatever a node fails by no fault of the question's raises its risk, and lets no other term fall."""
    hub = proven("a", "b")
    hub.ask(id="q")
    before = hub.decisions[-1].candidates[0]
    hub.now += 0.001
    hub.done("a", outcome)
    hub.ask(id="2")
    after = next(terms for terms in hub.decisions[-1].candidates if terms.node == "a")
    assert after.risk_ms > before.risk_ms == 0.0
    assert after.delay_ms + after.risk_ms >= before.delay_ms


@pytest.mark.parametrize("outcome", ["invalid", "too_large", "deadline"])
def test_the_question_s_own_fault(outcome: str) -> None:
    """Says nothing against the node."""
    hub = proven("a")
    hub.ask(id="q")
    hub.done("a", outcome)
    hub.ask(id="2")
    assert hub.decisions[-1].candidates[0].risk_ms == 0.0


def test_what_a_draining_node_hands_back_is_no_failure() -> None:
    """It will be as good as before when it returns."""
    hub = proven("a", "b")
    hub.ask(id="q")
    hub.state("a", status="draining")
    assert works(hub.done("a", "overloaded")) == [("b", 2)]
    hub.state("a")
    assert works(hub.ask(id="2")) == [("a", 1)]


# --- nodes, bundles, drains -----------------------------------------------------------------------------


def test_a_node_with_two_bundles() -> None:
    """Each has its own cost, and what is learned of one says nothing of the other."""
    hub = Driver()
    hub.node("a", BUNDLE, bundle(bundle="big-int8", model="big", decode_ms_per_token=50.0))
    for number in range(10):
        hub.ask(id=str(number), model="smol")
        hub.done("a", id=str(number))
    hub.ask(id="q", model="big", max_tokens=8)
    hub.ask(id="r", model="smol", max_tokens=8)
    big, small = (decision.chosen for decision in hub.decisions[-2:])
    assert (big.bundle, big.decode_ms / big.completion_tokens) == ("big-int8", 50.0)
    assert (small.bundle, small.decode_ms / small.completion_tokens) == ("smol-int4", pytest.approx(5.0))
    assert small.prefill_ms + small.fixed_ms == pytest.approx(39.0, rel=0.2)


def test_tasks_are_kept_apart() -> None:
    """A question goes only to a bundle of its task, though the same node has a faster one."""
    hub = Driver()
    hub.node("a", BUNDLE, bundle(bundle="labels", model="tiny", task="text-classification", decode_ms_per_token=0.0))
    (work,) = hub.ask(id="q")
    (other,) = hub.ask(id="r", task="text-classification")
    assert isinstance(work, events.PublishWork)
    assert isinstance(other, events.PublishWork)
    assert (work.work.bundle, other.work.bundle) == ("smol-int4", "labels")


def test_drained_node_comes_back() -> None:
    """Nothing new goes to it, it ends what it has, and takes questions again when the drain is taken back."""
    hub = proven("a", "b")
    hub.accept(hub.ask(id="q"))
    hub.state("a", status="draining")
    assert works(hub.ask(id="2")) == [("b", 1)]
    assert [record.node for record in records(hub.done("a"))] == ["a"]
    hub.state("a")
    assert works(hub.ask(id="3")) == [("a", 1)]


def test_question_for_a_drained_fleet_is_taken_when_the_drain_ends() -> None:
    """What had lost its node waits, and goes to the node that takes questions again."""
    hub = Driver()
    hub.node("a")
    hub.ask(id="q", receipt=1)
    hub.state("b", status="draining")
    hub.state("a", epoch=2, status="draining")
    assert works(hub.state("b")) == [("b", 2)]
    assert acknowledged(hub.done("b", attempt=2)) == [1]
