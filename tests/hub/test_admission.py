"""Who is refused, and who is surer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import events, wire
from hub.admission import (
    LEAST_CHANCE,
    LEAST_RETRY_MS,
    PROVING,
    SURE_CHANCE,
    Refusals,
    chance,
    least_wait_ms,
    problem_of,
    surer,
)
from hub.decision import Decision, Terms
from hub.delay import FLOW_TAU_S, Flow
from hub.fleet import Load, Node, Standing, loaded, told, wait_ms, waiting
from hub.tail import Tail
from tests.hub.core_driver import (
    ANSWER_S,
    Driver,
    bundle,
    failure,
    failures,
    proven,
    records,
    teach,
    works,
)

NOW = 100.0


def terms(node: str = "n", compute_ms: float = 100.0, **changes: Any) -> Terms:
    values: dict[str, Any] = {
        "bundle": "b", "network_ms": 0.0, "wait_ms": 0.0, "fixed_ms": compute_ms, "prefill_ms": 0.0, "decode_ms": 0.0,
        "prompt_tokens": 1.0, "completion_tokens": 1.0, "log_spread": 0.3, "spread_weight": 20.0, **changes,
    }  # fmt: skip
    return Terms(node=node, **values)


def decision(budget_ms: float | None, *candidates: Terms) -> Decision:
    return Decision(
        device="d", id="q", attempt=1, chosen=candidates[0] if candidates else None, candidates=candidates,
        rejected=(), budget_ms=budget_ms,
    )  # fmt: skip


def busy(*work_ms: float, device: str = "d", parallel: int = 1, since_s: float = NOW) -> Node:
    """A node with questions of `device` that this hub sent to it."""
    node = Node(name="n", epoch=1, standing=Standing.READY, parallel=parallel)
    for number, each in enumerate(work_ms):
        key = (device if number or device == "d" else "other", str(number))
        node = loaded(
            node,
            Load(
                key=key,
                sent_s=since_s,
                start_s=since_s,
                before_ms=each,
                decode_ms=0.0,
                longest_ms=1e9,
                deadline_s=NOW + 1e6,
            ),
        )
    return node


def problem(made: Decision, node: Node | None = None) -> wire.Problem | None:
    return problem_of(made, lambda name: node or busy(), NOW)


def made_surer(made: Decision, node: Node | None = None) -> Decision:
    return surer(made, lambda name: node or busy(), NOW)


# --- refused --------------------------------------------------------------------------------------------


def test_impossible_deadline() -> None:
    """Where not even an idle node could make it: `deadline`, with what it would take."""
    found = problem(decision(20.0, terms("a", 100.0), terms("b", 300.0)))
    assert found is not None
    assert (found.code, found.retry_after_ms) == ("deadline", None)
    assert "within 20 ms" in found.message
    assert "a, would need about 100 ms" in found.message


def test_busy_node_says_when_to_come_again() -> None:
    """`overloaded`, and after that time the question would fit."""
    node = busy(3000.0, 3000.0)
    queue_ms = wait_ms(waiting(node), NOW, Tail())
    late = terms(wait_ms=queue_ms, network_ms=20.0)
    found = problem(decision(500.0, late), node)
    assert found is not None
    assert found.code == "overloaded"
    assert found.retry_after_ms == pytest.approx(6000 - 380 - 10, abs=10)
    assert found.retry_after_ms is not None
    then = msgspec.structs.replace(late, wait_ms=late.wait_ms - found.retry_after_ms)
    assert then.chance_within(500.0) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "made",
    [
        decision(None, terms()),
        decision(20.0),
        decision(20.0, terms("a", 100.0), terms("b", 15.0)),
        decision(20.0, terms(spread_weight=5.0)),
        decision(20.0, terms("a", 100.0), terms("b", 300.0, spread_weight=5.0)),
        decision(65.0, terms()),
    ],
)
def test_not_refused(made: Decision) -> None:
    """Without a deadline or a node, with one who may be in time, or as long as one of them is not well known."""
    assert problem(made) is None


def test_what_is_late_counts_as_done() -> None:
    """A node that was held up has a long wait by prediction, and may be through with it the next moment."""
    node = busy(100.0, since_s=NOW - 10)
    assert problem(decision(300.0, terms(wait_ms=9900.0)), node) is None


def test_another_device_s_flood_is_no_reason() -> None:
    """Devices take turns at a node, so one that has nothing there is soon served; the flooding one is not."""
    node = busy(*[100.0] * 50, device="flood")
    made = decision(600.0, terms(wait_ms=wait_ms(waiting(node), NOW, Tail())))
    assert least_wait_ms(node, "d", NOW) == pytest.approx(200)  # the one under way, and one of the flood's
    assert problem(made, node) is None
    flooding = problem(msgspec.structs.replace(made, device="flood"), node)
    assert flooding is not None
    assert flooding.code == "overloaded"


def test_what_the_node_says_of_itself_counts() -> None:
    """Questions that this hub never saw are no flood that it knows of."""
    node = told(busy(), wire.Backlog(questions=7, ms=5000.0), NOW)
    assert least_wait_ms(node, "d", NOW) == pytest.approx(5000)


def wanted(node: Node, *, work_ms: float = 50.0) -> Node:
    """The node, all of whose time went into answers of so many milliseconds in the last minutes."""
    used_ms = 1000 * FLOW_TAU_S
    flow = Flow(since_s=NOW - 1e4, at_s=NOW, answers=used_ms / work_ms, compute_ms=used_ms)
    return msgspec.structs.replace(node, flow=flow)


def test_who_keeps_out_a_surer_one_is_refused() -> None:
    """With an even chance a question is tried, but not where every place is wanted: `overloaded`, and until when."""
    node = busy(*[50.0] * 16)
    uncertain = terms(wait_ms=800.0, log_spread=0.3)
    assert uncertain.chance_within(1000.0) == pytest.approx(0.64, abs=0.01)
    assert problem(decision(1000.0, uncertain), node) is None
    crowded = problem_of(decision(1000.0, uncertain), lambda name: wanted(node), NOW, unmet=0.3)
    assert crowded is not None
    assert crowded.code == "overloaded"
    assert crowded.retry_after_ms is not None
    then = msgspec.structs.replace(uncertain, wait_ms=uncertain.wait_ms - crowded.retry_after_ms)
    assert problem_of(decision(1000.0, then), lambda name: wanted(node), NOW, unmet=0.3) is None


def test_who_is_sure_is_never_refused() -> None:
    """Whoever else may want the place."""
    sure = terms(wait_ms=400.0, log_spread=0.3)
    assert sure.chance_within(1000.0) > SURE_CHANCE
    node = wanted(busy(*[50.0] * 8))
    assert problem_of(decision(1000.0, sure), lambda name: node, NOW, unmet=0.9) is None


def test_a_favourable_view_must_be_plain_in_an_overload() -> None:
    """A flood of one device is no reason to refuse another's question; two that go after it in turn are no reason to
    take it."""
    flood = wanted(busy(*[50.0] * 40, device="flood"))
    made = decision(1000.0, terms(wait_ms=wait_ms(waiting(flood), NOW, Tail()), log_spread=0.1))
    assert problem_of(made, lambda name: flood, NOW, unmet=0.3) is None
    queue = Node(name="n", epoch=1, standing=Standing.READY)
    for number in range(19):
        load = busy(50.0, device=f"device-{number % 17}").load[0]
        queue = loaded(queue, msgspec.structs.replace(load, key=(f"device-{number % 17}", str(number))))
    made = decision(1000.0, terms(wait_ms=wait_ms(waiting(queue), NOW, Tail()), log_spread=0.02))
    assert least_wait_ms(queue, "d", NOW) == pytest.approx(900)
    assert problem(made, queue) is None
    assert problem_of(made, lambda name: wanted(queue), NOW, unmet=0.3) is not None


def test_an_unknown_node_gets_no_more_than_will_tell() -> None:
    """It is tried whatever it says of itself, but not with all that the others cannot do."""
    made = decision(100.0, terms(compute_ms=5000.0, spread_weight=4.0))
    assert problem(made, busy(*[50.0] * (PROVING - 1))) is None
    full = problem(made, busy(*[50.0] * PROVING))
    assert full is not None
    assert full.code == "overloaded"
    assert full.retry_after_ms == LEAST_RETRY_MS


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1e4)), max_size=20),
    st.integers(1, 4),
    st.floats(0, 100),
    st.sampled_from("abcd"),
)
def test_favourable_wait_is_no_longer_than_the_work(
    loads: list[tuple[str, float]], parallel: int, since_s: float, device: str
) -> None:
    """And never negative; who has nothing there waits the least."""
    node = Node(name="n", epoch=1, standing=Standing.READY, parallel=parallel)
    for number, (owner, work_ms) in enumerate(loads):
        load = Load(
            key=(owner, str(number)),
            sent_s=since_s,
            start_s=since_s,
            before_ms=work_ms,
            decode_ms=0.0,
            longest_ms=1e9,
            deadline_s=1e9,
        )
        node = loaded(node, load)
    alone_ms = least_wait_ms(node, "nobody else", NOW)
    assert 0.0 <= alone_ms <= least_wait_ms(node, device, NOW) <= sum(work_ms for _, work_ms in loads) + 1e-6


budgets = st.floats(1, 1e5)
any_terms = st.builds(
    terms,
    st.sampled_from("abcdef"),
    st.floats(0, 1e5),
    network_ms=st.floats(0, 1000),
    wait_ms=st.floats(0, 1e5),
    log_bias=st.floats(-1, 1),
    log_spread=st.floats(0.01, 2),
    spread_weight=st.sampled_from([4.0, 20.0]),
    risk_ms=st.floats(0, 1e4),
)


@given(budgets, st.lists(any_terms, min_size=1, max_size=6))
def test_nobody_with_a_chance_is_refused(budget_ms: float, candidates: list[Terms]) -> None:
    """Only where each has next to none; `overloaded` comes with a time, `deadline` without."""
    found = problem(decision(budget_ms, *candidates))
    if max(one.chance_within(budget_ms) for one in candidates) >= LEAST_CHANCE:
        assert found is None
    if found is not None:
        assert (found.code == "overloaded") == (found.retry_after_ms is not None)
        assert all(one.is_proven for one in candidates)


def test_a_refusal_does_not_last_for_ever() -> None:
    """After ten seconds without any answer one question is tried; an answer makes the next one the first again."""
    refusals = Refusals(4)
    assert not refusals.is_to_be_tried("d", "n", 0.0)
    assert not refusals.is_to_be_tried("d", "n", 5.0)
    refusals.answered("d", "n")
    assert not refusals.is_to_be_tried("d", "n", 11.0)
    assert refusals.is_to_be_tried("d", "other", 21.0)
    assert not refusals.is_to_be_tried("d", "other", 22.0)
    for number in range(100):
        refusals.is_to_be_tried(f"d{number}", f"n{number}", 30.0)
    assert len(refusals) == 4


# --- surer ----------------------------------------------------------------------------------------------


def test_near_a_deadline_the_surer_node_is_chosen() -> None:
    """The one with the lesser mean may be late; with time enough it is the better one."""
    quick = terms("quick", 100.0, log_spread=1.0, log_bias=1.0)
    steady = terms("steady", 150.0, log_spread=0.1)
    chosen = made_surer(decision(200.0, quick, steady)).chosen
    assert chosen is not None
    assert chosen.node == "steady"
    for budget_ms in (400.0, 2000.0, None):
        assert made_surer(decision(budget_ms, quick, steady)).chosen == quick


def test_a_rush_for_the_quickest_helps_nobody() -> None:
    """Where no node is sure, or the chosen one is as likely in time as not, the ranking has the last word."""
    for first, second in (
        (terms("a", 150.0), terms("b", 95.0)),
        (terms("a", 95.0), terms("b", 40.0)),
    ):
        assert made_surer(decision(100.0, first, second)).chosen == first


def test_a_node_that_fails_is_not_sure() -> None:
    """An answer in time takes an answer."""
    failing, steady = terms("failing", 50.0, risk_ms=120.0), terms("steady", 150.0, log_spread=0.1)
    assert chance(failing, 200.0) == pytest.approx(0.4, abs=0.01)
    chosen = made_surer(decision(200.0, failing, steady)).chosen
    assert chosen == steady


def test_the_first_that_is_worth_its_place() -> None:
    """Where the ranking's first would more likely keep out another than be in time, the next one that would not."""
    crowded, free = wanted(busy(*[50.0] * 16)), busy()
    first, slow = terms("crowded", wait_ms=800.0, log_spread=0.3), terms("free", 900.0, log_spread=0.3)
    made = decision(1000.0, first, slow)
    by_name = {"crowded": crowded, "free": free}
    assert surer(made, by_name.__getitem__, NOW, 0.3).chosen == slow
    assert surer(made, by_name.__getitem__, NOW).chosen == slow  # a node that is all used is no better without
    assert made_surer(made).chosen == first
    made = decision(1000.0, first, msgspec.structs.replace(first, node="free"))
    assert surer(made, lambda name: crowded, NOW, 0.3).chosen == first  # to be refused


@given(budgets, st.lists(any_terms, min_size=1, max_size=6))
def test_the_chance_is_never_worse_for_it(budget_ms: float, candidates: list[Terms]) -> None:
    """Whoever is chosen instead is more likely to be in time."""
    before = decision(budget_ms, *candidates)
    after = made_surer(before)
    assert after.chosen in candidates
    assert before.chosen is not None
    assert after.chosen is not None
    assert chance(after.chosen, budget_ms) >= chance(before.chosen, budget_ms)


# --- in the core ---------------------------------------------------------------------------------------


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


def test_near_a_deadline_the_surer_node_in_the_core() -> None:
    """A node whose answers come later than its prediction loses against a punctual one where the deadline is near."""
    hub = Driver()
    hub.node("tardy", network_ms=1.0)
    teach(hub, "tardy", after_s=0.5)
    hub.state("tardy", status="draining")
    hub.node("steady", network_ms=30.0)
    teach(hub, "steady", after_s=0.12)
    hub.state("tardy")
    hub.pong("tardy")
    assert works(hub.ask(id="far", deadline_ms=20_000)) == [("tardy", 1)]
    hub.done("tardy", id="far")
    assert works(hub.ask(id="near", deadline_ms=250)) == [("steady", 1)]


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


def test_an_overloaded_hub_takes_what_it_can_answer() -> None:
    """Asked for twice as much as its one node can do, nearly all that it takes is in time, and the node never idle."""
    hub = proven("a")
    taken: list[str] = []
    late = answered = 0
    for number in range(600):
        asked = hub.ask(id=str(number), device=f"device-{number % 9}", deadline_ms=1000)
        taken += [str(number)] * len(works(asked))
        late += failures(hub.wait_ponging(ANSWER_S / 2, "a")).count("deadline")
        if number % 2 and taken:
            first = taken.pop(0)
            answered += len(records(hub.done("a", id=first, device=f"device-{int(first) % 9}")))
    assert answered > 290
    assert late <= 15
