"""A node that only takes time."""

from __future__ import annotations

from hub import wire
from hub.simulator.fleet_file import Kind
from hub.simulator.node import Job, SimulatedNode


def node(parallel: int = 1, *, minds_budgets: bool = False) -> SimulatedNode:
    kind = Kind(
        name="k", count=1, fixed_ms=10, prefill_ms_per_token=1, decode_ms_per_token=10, parallel=parallel, announced=2.0
    )
    return SimulatedNode("k-000", kind, minds_budgets=minds_budgets)


def job(number: int, at_s: float, compute_s: float = 1.0, budget_ms: float = 1e6) -> Job:
    work = wire.Work(
        hub="hub",
        device="d",
        question=wire.Question(id=str(number), text="x"),
        attempt=1,
        budget_ms=budget_ms,
        bundle="simulated-k",
        reply_to="edge/v1/answer/d",
    )
    return Job(work, at_s, wire.Tokens(prompt=90, completion=90), prefill_s=0.1, compute_s=compute_s)


def test_first_come_first_served() -> None:
    """The second waits for the first, and says so."""
    one = node()
    one.take(job(1, 0.0), 0.0)
    one.take(job(2, 0.5), 0.5)
    assert one.next_end_s == 1.0
    (first,) = one.ended(1.0)
    assert (first.id, first.timing_ms.queue, first.timing_ms.compute, first.backlog.questions) == ("1", 0, 1000, 1)
    (second,) = one.ended(2.0)
    assert (second.id, second.timing_ms.queue, second.timing_ms.prefill) == ("2", 500, 100)
    assert one.next_end_s is None


def test_slots_work_side_by_side() -> None:
    """Two at once, the third after the first."""
    two = node(parallel=2)
    for number in (1, 2, 3):
        two.take(job(number, 0.0, compute_s=float(number)), 0.0)
    assert [done.id for done in two.ended(2.0)] == ["1", "2"]
    assert [done.id for done in two.ended(4.0)] == ["3"]


def test_a_slower_node_takes_longer_from_then_on() -> None:
    """What runs already is not changed."""
    one = node()
    one.take(job(1, 0.0), 0.0)
    one.slower = 3.0
    one.take(job(2, 0.0), 0.0)
    assert one.ended(1.0)[0].timing_ms.compute == 1000
    assert one.next_end_s == 4.0


def test_cancelled_and_dead_questions_never_end() -> None:
    """A cancelled one makes room for the next; a dead node has nothing left."""
    one = node()
    one.take(job(1, 0.0), 0.0)
    one.take(job(2, 0.0), 0.0)
    one.cancel(wire.Cancel(device="d", id="1", attempt=1), 0.5)
    assert one.next_end_s == 1.5
    one.die()
    assert (one.in_flight, one.next_end_s, one.state.status) == (0, None, "offline")
    one.rise()
    assert (one.state.status, one.state.epoch) == ("ready", 2)


def test_a_backlog_is_a_guess() -> None:
    """A node knows how long its answers were, and not how long these will be."""
    one = node()
    one.take(job(1, 0.0, compute_s=50.0), 0.0)
    assert one.backlog(0.0) == wire.Backlog(questions=1, ms=100 + 64 * 10)
    assert one.backlog(40.0).ms == 0


def test_it_announces_what_the_file_says() -> None:
    """A node may be wrong about itself."""
    assert node().bundle.decode_ms_per_token == 20


def test_what_is_late_is_dropped() -> None:
    """Under way at its deadline, in the queue when its turn comes; what is in time is not touched."""
    one = node(minds_budgets=True)
    for number, budget_ms in ((1, 400.0), (2, 300.0), (3, 2000.0)):
        one.take(job(number, 0.0, budget_ms=budget_ms), 0.0)
    assert one.next_end_s == 0.4
    assert one.ended(0.4) == []
    assert one.next_end_s == 1.4
    (third,) = one.ended(1.4)
    assert (third.id, third.timing_ms.queue) == ("3", 400)
    patient = node()
    patient.take(job(1, 0.0, budget_ms=400.0), 0.0)
    assert patient.next_end_s == 1.0
