"""The node's pure core: stimulus in, instructions out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent import core, events
from edge_agent.runtime.generation import Generation
from hub import wire

SERVED = wire.ServedBundle(
    bundle="b", model="m", task="text-generation", context=4096,
    fixed_ms=1.0, prefill_ms_per_token=1.0, decode_ms_per_token=10.0,
)  # fmt: skip


def node(parallel: int = 1, **options: Any) -> core.NodeCore:
    return core.NodeCore("n", {"b": SERVED}, parallel={"b": parallel}, **options)


def work(question_id: str = "1", **changes: object) -> wire.Work:
    defaults: dict[str, object] = {
        "hub": "h",
        "device": "kitchen",
        "question": wire.Question(id=question_id, question="why?"),
        "attempt": 1,
        "budget_ms": 1000.0,
        "bundle": "b",
        "reply_to": "edge/v1/answer/kitchen",
    }
    return wire.Work(**{**defaults, **changes})  # type: ignore[arg-type]


def generation(**changes: object) -> Generation:
    defaults: dict[str, object] = {
        "text": "because",
        "token_ids": (1,),
        "finish": "stop",
        "tokens": wire.Tokens(prompt=5, completion=1),
        "prefill_ms": 2.0,
        "decode_ms": 3.0,
        "compute_ms": 5.0,
    }
    return Generation(**{**defaults, **changes})  # type: ignore[arg-type]


def dones(effects: list[events.Effect]) -> list[tuple[str, str, int]]:
    """(id, outcome, attempt) of each Done among the effects."""
    reports = [effect.report for effect in effects if isinstance(effect, events.PublishReport)]
    return [(done.id, done.outcome, done.attempt) for done in reports if isinstance(done, wire.Done)]


def answers(effects: list[events.Effect]) -> list[wire.Answer]:
    return [effect.answer for effect in effects if isinstance(effect, events.PublishAnswer)]


KEY = ("kitchen", "1")


def test_answer_and_done() -> None:
    """Work starts at once on an idle node; its answer goes to the device and its Done to the hub."""
    agent = node()
    assert agent.handle(events.WorkReceived(work()), 10.0) == [events.StartWork(KEY, "b", work().question)]
    effects = agent.handle(events.WorkFinished(KEY, generation()), 10.5)
    assert answers(effects)[0].text == "because"
    assert answers(effects)[0].timing_ms == wire.Timing(queue=0.0, prefill=2.0, decode=3.0, compute=5.0)
    assert dones(effects) == [("1", "answered", 1)]
    assert agent.idle


def test_one_at_a_time_in_order() -> None:
    """The second question waits for the first; its queue time is reported."""
    agent = node()
    agent.handle(events.WorkReceived(work("1")), 0.0)
    assert agent.handle(events.WorkReceived(work("2")), 0.1) == []
    effects = agent.handle(events.WorkFinished(KEY, generation()), 0.4)
    assert effects[-1] == events.StartWork(("kitchen", "2"), "b", work("2").question)
    later = agent.handle(events.WorkFinished(("kitchen", "2"), generation()), 0.5)
    assert answers(later)[0].timing_ms.queue == pytest.approx(300.0)


def started(effects: list[events.Effect]) -> list[events.Key]:
    return [effect.key for effect in effects if isinstance(effect, events.StartWork)]


def test_as_many_at_once_as_the_bundle_takes() -> None:
    """The third of three waits for one of two; the state says how many there may be."""
    agent = node(parallel=2)
    begun = [started(agent.handle(events.WorkReceived(work(name)), 0.0)) for name in "123"]
    assert begun == [[("kitchen", "1")], [("kitchen", "2")], []]
    assert agent.state(1, 0.0).parallel == 2
    assert agent.backlog(0.0).questions == 3
    assert started(agent.handle(events.WorkFinished(("kitchen", "2"), generation()), 0.1)) == [("kitchen", "3")]


def test_devices_take_turns() -> None:
    """Who asks a hundred questions waits behind whoever asks one."""
    agent = node()
    for number in range(100):
        agent.handle(events.WorkReceived(work(str(number))), 0.0)
    for device in ("hall", "porch"):
        agent.handle(events.WorkReceived(work("1", device=device, reply_to=f"edge/v1/answer/{device}")), 0.1)
    running, order = ("kitchen", "0"), []
    for _ in range(4):
        (running,) = started(agent.handle(events.WorkFinished(running, generation()), 0.2))
        order.append(running)
    assert order == [("hall", "1"), ("porch", "1"), ("kitchen", "1"), ("kitchen", "2")]


def test_no_device_of_several_takes_every_place() -> None:
    """Whoever asks without end leaves one place to others that were here of late, for long answers give none back."""
    agent = node(parallel=3)
    agent.handle(events.WorkReceived(work("0", device="hall", reply_to="edge/v1/answer/hall")), 0.0)
    agent.handle(events.WorkFinished(("hall", "0"), generation()), 0.1)
    many = [work(name, budget_ms=1e6) for name in "1234"]
    begun = [started(agent.handle(events.WorkReceived(one), 1.0)) for one in many]
    assert begun == [[("kitchen", "1")], [("kitchen", "2")], [], []]
    hall = work("1", device="hall", reply_to="edge/v1/answer/hall")
    assert started(agent.handle(events.WorkReceived(hall), 2.0)) == [("hall", "1")]
    assert started(agent.handle(events.WorkFinished(("kitchen", "1"), generation()), 2.5)) == [("kitchen", "3")]
    assert started(agent.handle(events.WorkFinished(("hall", "1"), generation()), 2.6)) == []
    later = 2.1 + core.SHARED_S
    assert started(agent.handle(events.WorkFinished(("kitchen", "2"), generation()), later)) == [("kitchen", "4")]


def test_a_place_is_kept_for_nobody_who_left_long_ago() -> None:
    """Nor where there never was anybody else."""
    agent = node(parallel=2)
    agent.handle(events.WorkReceived(work("0", device="hall", reply_to="edge/v1/answer/hall")), 0.0)
    agent.handle(events.WorkFinished(("hall", "0"), generation()), 0.1)
    begun = [started(agent.handle(events.WorkReceived(work(name)), core.SHARED_S)) for name in "12"]
    assert begun == [[("kitchen", "1")], [("kitchen", "2")]]


def test_a_session_is_answered_in_order() -> None:
    """Its next question waits for the answer before it, even where there is room; others do not."""
    agent = node(parallel=3)
    talk = [work(name, question=wire.Question(id=name, question="and?", session="s")) for name in "12"]
    other = work("3", question=wire.Question(id="3", question="and?", session="t"))
    begun = [started(agent.handle(events.WorkReceived(one), 0.0)) for one in (*talk, other)]
    assert begun == [[("kitchen", "1")], [], [("kitchen", "3")]]
    assert started(agent.handle(events.WorkFinished(("kitchen", "1"), generation()), 0.1)) == [("kitchen", "2")]


def test_an_id_runs_once_at_a_time() -> None:
    """Another question under an id that is running waits for the end of that."""
    agent = node(parallel=2)
    agent.handle(events.WorkReceived(work("1")), 0.0)
    other = work("1", question=wire.Question(id="1", question="other"))
    assert started(agent.handle(events.WorkReceived(other), 0.0)) == []
    effects = agent.handle(events.WorkFinished(KEY, generation()), 0.1)
    assert started(effects) == [KEY]


def test_repeat_while_running_computes_once() -> None:
    """A repeat of what runs starts nothing; the newest attempt and hub are the ones told."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    repeat = work(attempt=2, hub="other")
    assert agent.handle(events.WorkReceived(repeat), 0.1) == [events.NoteRepeat(work(), repeat)]
    effects = agent.handle(events.WorkFinished(KEY, generation()), 0.2)
    assert dones(effects) == [("1", "answered", 2)]
    assert answers(effects)[0].attempt == 2


def test_repeat_after_the_answer_gets_the_same() -> None:
    """A repeat of what was answered is answered again without computing."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    first = answers(agent.handle(events.WorkFinished(KEY, generation()), 0.1))[0]
    effects = agent.handle(events.WorkReceived(work(attempt=3)), 0.2)
    assert answers(effects) == [msgspec.structs.replace(first, attempt=3)]
    assert dones(effects) == [("1", "answered", 3)]


def test_a_repeat_says_that_it_was_computed_before() -> None:
    """So that nobody counts its tokens twice."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    first = agent.handle(events.WorkFinished(KEY, generation()), 0.5)
    repeat = agent.handle(events.WorkReceived(work(attempt=2)), 1.0)
    assert [[effect.again for effect in effects if isinstance(effect, events.PublishAnswer)]
            for effects in (first, repeat)] == [[False], [True]]  # fmt: skip


def test_answers_to_hubs_are_numbered() -> None:
    """From 1 in each life; a repeat has its number again, what was never told has none, and a pong says the last."""
    agent = node()

    def answer(name: str) -> wire.Done:
        agent.handle(events.WorkReceived(work(name)), 0.0)
        return done(agent.handle(events.WorkFinished(("kitchen", name), generation()), 0.1))

    def done(effects: list[events.Effect]) -> wire.Done:
        (report,) = (effect.report for effect in effects if isinstance(effect, events.PublishReport))
        assert isinstance(report, wire.Done)
        return report

    assert [answer(name).number for name in ("1", "2")] == [1, 2]
    assert done(agent.handle(events.WorkReceived(work("1", attempt=2)), 0.2)).number == 1
    agent.handle(events.WorkReceived(work("3")), 0.2)
    agent.handle(events.ControlReceived(wire.Cancel(device="kitchen", id="3", attempt=1), 0.2), 0.2)
    assert done(agent.handle(events.WorkFinished(("kitchen", "3"), generation()), 0.3)).number is None
    assert (answer("4").number, answer("5").answer_bytes) == (3, len("because"))
    (pong,) = agent.handle(events.ControlReceived(wire.Ping(hub="h", seq=1), 1.0), 1.0)
    assert isinstance(pong, events.PublishReport)
    assert isinstance(pong.report, wire.Pong)
    assert pong.report.answers == 4
    again = agent.handle(events.ControlReceived(wire.Retell(hub="h", first=3), 1.0), 1.0)
    told = [effect.report for effect in again if isinstance(effect, events.PublishReport)]
    assert [(each.id, each.number, each.again) for each in told if isinstance(each, wire.Done)] == [
        ("4", 3, True),
        ("5", 4, True),
    ]


def test_same_id_of_another_device_is_another_question() -> None:
    """Two devices may use the same id."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    agent.handle(events.WorkFinished(KEY, generation()), 0.1)
    other = work(device="hall", reply_to="edge/v1/answer/hall")
    assert agent.handle(events.WorkReceived(other), 0.2) == [events.StartWork(("hall", "1"), "b", other.question)]


def test_same_id_for_another_question_is_not_a_repeat() -> None:
    """A device that uses an id again for something else gets an answer to that, not the old one."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    agent.handle(events.WorkFinished(KEY, generation()), 0.1)
    other = work(question=wire.Question(id="1", question="how?"))
    assert agent.handle(events.WorkReceived(other), 0.2) == [events.StartWork(KEY, "b", other.question)]
    third = work(question=wire.Question(id="1", question="when?"))
    agent.handle(events.WorkReceived(third), 0.3)
    assert dones(agent.handle(events.WorkReceived(work()), 0.4)) == [("1", "cancelled", 1)]


def test_late_in_the_queue() -> None:
    """Work whose budget ends in the queue is reported as late and never computed."""
    agent = node()
    agent.handle(events.WorkReceived(work("1", budget_ms=5000.0)), 0.0)
    agent.handle(events.WorkReceived(work("2", budget_ms=300.0)), 0.0)
    assert agent.next_wake() == pytest.approx(0.3)
    assert dones(agent.handle(events.TimePassed(), 0.3)) == [("2", "deadline", 1)]
    assert agent.handle(events.WorkFinished(KEY, generation()), 0.4)[-1:] != [events.StartWork]
    assert agent.idle


def test_late_while_running() -> None:
    """Work that runs out of budget is stopped, and reported as late when the worker lets go."""
    agent = node()
    agent.handle(events.WorkReceived(work(budget_ms=300.0)), 0.0)
    assert agent.handle(events.TimePassed(), 0.31) == [events.StopWork(KEY)]
    assert dones(agent.handle(events.WorkFinished(KEY, generation(finish="cancelled")), 0.32)) == [("1", "deadline", 1)]


def test_no_answer_after_the_deadline_or_a_cancel() -> None:
    """What was computed too late, or could not be stopped any more, is reported and goes to nobody: a hub has said so.

    It is remembered: asked again with a new budget, it is there.
    """
    agent = node()
    agent.handle(events.WorkReceived(work(budget_ms=500.0)), 0.0)
    late = agent.handle(events.WorkFinished(KEY, generation()), 0.5)
    assert (answers(late), dones(late)) == ([], [("1", "deadline", 1)])
    agent.handle(events.WorkReceived(work("2")), 1.0)
    agent.handle(events.ControlReceived(wire.Cancel(device="kitchen", id="2", attempt=1), 1.1), 1.1)
    cancelled = agent.handle(events.WorkFinished(("kitchen", "2"), generation()), 1.2)
    assert (answers(cancelled), dones(cancelled)) == ([], [("2", "cancelled", 1)])
    again = agent.handle(events.WorkReceived(work(budget_ms=500.0, attempt=2)), 2.0)
    assert [(answer.text, answer.attempt) for answer in answers(again)] == [("because", 2)]


def test_no_budget_no_work() -> None:
    """Work that arrives too late is refused on the spot."""
    assert dones(node().handle(events.WorkReceived(work(budget_ms=0.0)), 1.0)) == [("1", "deadline", 1)]


def test_cancel_queued_and_running() -> None:
    """Cancel takes work out of the queue, and stops what runs."""
    agent = node()
    agent.handle(events.WorkReceived(work("1")), 0.0)
    agent.handle(events.WorkReceived(work("2")), 0.0)
    cancel_second = events.ControlReceived(wire.Cancel(device="kitchen", id="2", attempt=1), 0.1)
    assert dones(agent.handle(cancel_second, 0.1)) == [("2", "cancelled", 1)]
    cancel_first = events.ControlReceived(wire.Cancel(device="kitchen", id="1", attempt=1), 0.1)
    assert agent.handle(cancel_first, 0.1) == [events.StopWork(KEY)]
    assert dones(agent.handle(events.WorkFinished(KEY, generation(finish="cancelled")), 0.2)) == [("1", "cancelled", 1)]


def test_old_cancel_does_not_touch_a_newer_attempt() -> None:
    """A cancel of attempt 1 leaves attempt 2 alone."""
    agent = node()
    agent.handle(events.WorkReceived(work(attempt=2)), 0.0)
    assert agent.handle(events.ControlReceived(wire.Cancel(device="kitchen", id="1", attempt=1), 0.1), 0.1) == []


def test_cancelled_and_wanted_again() -> None:
    """Work that comes again while its cancelled self still runs is computed afterwards."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    agent.handle(events.ControlReceived(wire.Cancel(device="kitchen", id="1", attempt=1), 0.1), 0.1)
    agent.handle(events.WorkReceived(work(attempt=2)), 0.15)
    effects = agent.handle(events.WorkFinished(KEY, generation(finish="cancelled")), 0.2)
    assert dones(effects) == [("1", "cancelled", 1)]
    assert effects[-1] == events.StartWork(KEY, "b", work().question)


def test_failures_go_to_the_hub_only() -> None:
    """A refusal is reported, not published, and a repeat is tried again."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    effects = agent.handle(events.WorkFinished(KEY, events.Refusal("too_large", "9000 tokens")), 0.1)
    assert dones(effects) == [("1", "too_large", 1)]
    assert answers(effects) == []
    assert isinstance(agent.handle(events.WorkReceived(work(attempt=2)), 0.2)[0], events.StartWork)


def test_a_repeat_for_another_bundle_is_none() -> None:
    """Work under a known id for a bundle that is not served is refused; what runs goes on and is answered."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    assert dones(agent.handle(events.WorkReceived(work(bundle="other", attempt=2)), 0.1)) == [("1", "unsupported", 2)]
    assert agent.backlog(0.2).questions == 1
    assert answers(agent.handle(events.WorkFinished(KEY, generation()), 0.3))[0].bundle == "b"


def test_unknown_bundle_and_full_queue() -> None:
    """What is not served here, or does not fit the queue, is refused by name."""
    agent = node(queue_limit=1)
    assert dones(agent.handle(events.WorkReceived(work(bundle="other")), 0.0)) == [("1", "unsupported", 1)]
    agent.handle(events.WorkReceived(work("1")), 0.0)
    agent.handle(events.WorkReceived(work("2")), 0.0)
    assert dones(agent.handle(events.WorkReceived(work("3")), 0.0)) == [("3", "overloaded", 1)]


def test_pong_subtracts_the_hold_and_tells_the_backlog() -> None:
    """A ping is answered with how long it was held and what is still to do."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    effects = agent.handle(events.ControlReceived(wire.Ping(hub="h", seq=7), 0.100), 0.102)
    pong = effects[0].report  # type: ignore[union-attr]
    assert isinstance(pong, wire.Pong)
    assert (pong.seq, pong.hold_ms) == (7, pytest.approx(2.0))
    assert pong.backlog.questions == 1
    assert pong.backlog.ms > 0


def test_backlog_shrinks_while_running() -> None:
    """The remaining work is priced from the bundle's cost and shrinks as time passes, never below zero."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    at_start, later, long_after = (agent.backlog(now).ms for now in (0.0, 0.1, 99.0))
    assert at_start - later == pytest.approx(100.0)
    assert long_after == 0.0


def test_drain_shows_in_the_state() -> None:
    """Drain changes the state once; taking it back changes it again."""
    agent = node()
    drain = events.ControlReceived(wire.Drain(), 0.0)
    assert agent.handle(drain, 0.0) == [events.PublishState()]
    assert agent.handle(drain, 0.0) == []
    assert agent.state(3, 0.0).status == "draining"
    assert agent.handle(events.ControlReceived(wire.Drain(on=False), 0.0), 0.0) == [events.PublishState()]


def test_chunks_are_spaced_and_numbered() -> None:
    """Streamed text leaves at most every 20 ms, in numbered chunks that lose nothing in between."""
    agent = node()
    asked = work(question=wire.Question(id="1", question="why?", stream=True))
    agent.handle(events.WorkReceived(asked), 0.0)
    chunks: list[wire.Chunk] = []
    for step in range(20):
        for effect in agent.handle(events.TextProduced(KEY, str(step % 10)), step * 0.0055):
            assert isinstance(effect, events.PublishChunk)
            chunks.append(effect.chunk)
    assert [chunk.seq for chunk in chunks] == list(range(len(chunks)))
    assert len(chunks) == 5  # one every fourth of 20 pieces that come 5.5 ms apart
    assert "01234567890123456789".startswith("".join(chunk.text for chunk in chunks))


def ask_here(agent: core.NodeCore, name: str, now: float = 0.0, **changes: object) -> list[events.Effect]:
    question = wire.Question(question="here?", **changes)  # type: ignore[arg-type]
    return agent.handle(events.Asked(name, question, "b", 1000.0), now)


def test_what_is_asked_here_is_answered_here() -> None:
    """Text as it comes and the outcome go to who asked, nothing to the hub or over the wire."""
    agent = node()
    (start,) = ask_here(agent, "a", stream=True)
    assert isinstance(start, events.StartWork)
    assert agent.handle(events.TextProduced(start.key, "be"), 0.001) == [events.TellText("a", "be")]
    assert agent.handle(events.TextProduced(start.key, "cause"), 0.002) == [events.TellText("a", "cause")]
    computed, told = agent.handle(events.WorkFinished(start.key, generation()), 0.1)
    assert isinstance(computed, events.NoteComputed)
    assert isinstance(told, events.TellOutcome)
    assert isinstance(told.outcome, wire.Answer)
    assert (told.id, told.outcome.text, told.outcome.node) == ("a", "because", "n")


def test_here_comes_first() -> None:
    """A question of the device itself does not wait behind the fleet's."""
    agent = node()
    for number in range(5):
        agent.handle(events.WorkReceived(work(str(number))), 0.0)
    ask_here(agent, "a")
    effects = agent.handle(events.WorkFinished(("kitchen", "0"), generation()), 0.1)
    assert started(effects) == [("", "a")]


def test_work_of_this_device_comes_first() -> None:
    """Also where a hub sent it."""
    agent = node(device="mine")
    for number in range(3):
        agent.handle(events.WorkReceived(work(str(number))), 0.0)
    agent.handle(events.WorkReceived(work("m", device="mine", reply_to="edge/v1/answer/mine")), 0.0)
    assert started(agent.handle(events.WorkFinished(("kitchen", "0"), generation()), 0.1)) == [("mine", "m")]


def test_the_wait_of_this_device() -> None:
    """Nothing while a slot is free; then what runs least long, and what of this device is before it."""
    agent = node(parallel=2)
    assert agent.wait_here_ms("b", 0.0) == 0
    agent.handle(events.WorkReceived(work("1")), 0.0)
    assert agent.wait_here_ms("b", 0.0) == 0
    agent.handle(events.WorkReceived(work("2", budget_ms=60_000.0)), 0.1)
    alone_ms = agent._cost_ms(work())
    assert agent.wait_here_ms("b", 0.1) == pytest.approx(alone_ms - 100)
    agent.handle(events.WorkReceived(work("3")), 0.1)  # the fleet's waits behind
    ask_here(agent, "a", 0.1)
    assert agent.wait_here_ms("b", 0.1) == pytest.approx(alone_ms - 100 + alone_ms / 2, rel=0.01)


def test_a_node_that_leaves_keeps_what_runs_and_what_is_its_own() -> None:
    """The rest is handed back, and so is what comes later; `drain off` does not bring it back."""
    agent = node()
    for number in range(3):
        agent.handle(events.WorkReceived(work(str(number))), 0.0)
    ask_here(agent, "a")
    effects = agent.handle(events.Leaving(), 0.1)
    assert events.PublishState() in effects
    assert dones(effects) == [("1", "overloaded", 1), ("2", "overloaded", 1)]
    assert agent.state(1, 0.1).status == "draining"
    assert dones(agent.handle(events.WorkReceived(work("4")), 0.2)) == [("4", "overloaded", 1)]
    assert agent.handle(events.ControlReceived(wire.Drain(on=False), 0.2), 0.2) == []
    assert started(agent.handle(events.WorkFinished(("kitchen", "0"), generation()), 0.3)) == [("", "a")]
    assert not agent.idle
    agent.handle(events.WorkFinished(("", "a"), generation()), 0.4)
    assert agent.idle


def test_a_bundle_that_costs_something_else_now() -> None:
    """It is shown, and counts from there."""
    agent = node()
    before_ms = agent._cost_ms(work())
    slower = msgspec.structs.replace(SERVED, decode_ms_per_token=30.0)
    assert agent.handle(events.ServedChanged(slower), 0.0) == [events.PublishState()]
    assert agent.state(1, 0.0).bundles == (slower,)
    assert agent._cost_ms(work()) > 2 * before_ms


@pytest.mark.parametrize("running", [True, False])
def test_what_is_asked_here_ends_once(running: bool) -> None:
    """Late, withdrawn or failed: one outcome, with the reason."""
    agent = node()
    if not running:
        agent.handle(events.WorkReceived(work(budget_ms=60_000.0)), 0.0)
    ask_here(agent, "late")
    effects = agent.handle(events.TimePassed(), 1.0)
    if running:
        assert effects == [events.StopWork(("", "late")), events.NoteOverdue("b")]
        effects = agent.handle(events.WorkFinished(("", "late"), generation(finish="cancelled")), 1.1)
    (told,) = [effect for effect in effects if isinstance(effect, events.TellOutcome)]
    assert isinstance(told.outcome, events.Refusal)
    assert told.outcome.code == "deadline"
    assert "late" in told.outcome.message

    ask_here(agent, "gone", 2.0)
    effects = agent.handle(events.Withdrawn("gone"), 2.1)
    told = events.TellOutcome("gone", events.Refusal("internal", "cancelled"), cancelled=True)
    assert effects == ([events.StopWork(("", "gone"))] if running else [told])


class NodeMachine(RuleBasedStateMachine):
    """Any interleaving of work, repeats, cancels, finishes and time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.agent = node(parallel=2, queue_limit=4, remembered_limit=4)
        self.running: list[events.Key] = []
        self.open: set[str] = set()

    def do(self, event: events.Event) -> None:
        for effect in self.agent.handle(event, self.now):
            if isinstance(effect, events.StartWork):
                assert effect.key not in self.running, "the same twice at once"
                self.running.append(effect.key)
                assert len(self.running) <= 2
            elif isinstance(effect, events.PublishAnswer):
                assert effect.answer.id == effect.work.question.id
            elif isinstance(effect, events.PublishReport) and isinstance(effect.report, wire.Done):
                self.open.discard(effect.report.id)

    @rule(question=st.integers(0, 9), attempt=st.integers(1, 3), budget_ms=st.floats(0, 2000))
    def work_comes(self, question: int, attempt: int, budget_ms: float) -> None:
        self.open.add(str(question))
        self.do(events.WorkReceived(work(str(question), attempt=attempt, budget_ms=budget_ms)))

    @rule(question=st.integers(0, 9), attempt=st.integers(1, 3))
    def cancel_comes(self, question: int, attempt: int) -> None:
        cancel = wire.Cancel(device="kitchen", id=str(question), attempt=attempt)
        self.do(events.ControlReceived(cancel, self.now))

    @rule(seconds=st.floats(0, 1))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(events.TimePassed())

    @precondition(lambda self: self.running)
    @rule(finish=st.sampled_from(["stop", "cancelled", "failed"]), which=st.integers(0, 1))
    def worker_finishes(self, finish: str, which: int = 0) -> None:
        key = self.running.pop(which % len(self.running))
        result = events.Refusal("internal", "x") if finish == "failed" else generation(finish=finish)
        self.do(events.WorkFinished(key, result))

    @invariant()
    def bounded_and_consistent(self) -> None:
        backlog = self.agent.backlog(self.now)
        assert backlog.questions <= 6
        assert backlog.ms >= 0
        assert len(self.agent._answered) <= 4
        assert self.agent.idle == (not self.running)

    def teardown(self) -> None:
        while self.running:
            self.worker_finishes("stop")
        assert self.agent.idle
        assert not self.open, "work without a Done"


NodeMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_interleaving_ends_each_work_with_a_done = NodeMachine.TestCase


OTHER = msgspec.structs.replace(SERVED, bundle="new")


def test_a_bundle_takes_the_place_of_another_between_two_questions() -> None:
    """What runs, waits, or comes from a hub that knows no better, is answered with the old one, which closes then."""
    agent = node(parallel=1)
    agent.handle(events.WorkReceived(work("1")), 0.0)
    agent.handle(events.WorkReceived(work("2")), 0.0)
    effects = agent.handle(events.BundleOffered(OTHER, 1, instead_of="b"), 0.1)
    assert effects == [events.PublishState()]
    assert [served.bundle for served in agent.state(1, 0.1).bundles] == ["new"]
    fresh = work("3", bundle="new", device="hall")
    assert agent.handle(events.WorkReceived(fresh), 0.1) == [events.StartWork(("hall", "3"), "new", fresh.question)]
    agent.handle(events.WorkReceived(work("4")), 0.2)
    assert agent.handle(events.BundleDone("b"), 0.2) == []
    assert dones(agent.handle(events.WorkReceived(work("5")), 0.2)) == [("5", "unsupported", 1)]
    closed: list[str] = []
    for question_id in ("1", "2", "4"):
        effects = agent.handle(events.WorkFinished(("kitchen", question_id), generation()), 0.3)
        assert answers(effects)[0].bundle == "b"
        closed += [effect.bundle for effect in effects if isinstance(effect, events.CloseBundle)]
    assert closed == ["b"]
    assert agent.state(1, 0.3).backlog.questions == 1


def test_a_repeat_of_what_a_bundle_answered_that_is_gone_gets_the_same_answer() -> None:
    """It was computed; nobody computes it again."""
    agent = node()
    agent.handle(events.WorkReceived(work()), 0.0)
    first = answers(agent.handle(events.WorkFinished(KEY, generation()), 0.1))[0]
    agent.handle(events.BundleOffered(OTHER, 1, instead_of="b"), 0.2)
    assert agent.handle(events.BundleDone("b"), 0.2) == [events.CloseBundle("b")]
    again = answers(agent.handle(events.WorkReceived(work(attempt=2)), 0.3))[0]
    assert msgspec.structs.replace(again, attempt=1) == first


def test_a_node_may_have_no_bundle_yet() -> None:
    """It offers nothing, refuses by name, and answers once it has one."""
    agent = core.NodeCore("n", {})
    assert agent.state(1, 0.0).bundles == ()
    assert dones(agent.handle(events.WorkReceived(work()), 0.0)) == [("1", "unsupported", 1)]
    agent.handle(events.BundleOffered(SERVED, 1), 0.1)
    assert agent.handle(events.WorkReceived(work()), 0.2) == [events.StartWork(KEY, "b", work().question)]


def test_a_bundle_that_is_much_slower_than_it_should_be_is_noted() -> None:
    """A deadline that was too tight for it is not its fault, nor is what it takes beside others."""
    tight, hung = node(), node()
    tight.handle(events.WorkReceived(work(budget_ms=100.0)), 0.0)
    assert tight.handle(events.TimePassed(), 0.1) == [events.StopWork(KEY)]
    hung.handle(events.WorkReceived(work(budget_ms=2000.0)), 0.0)
    assert hung.handle(events.TimePassed(), 2.0) == [events.StopWork(KEY), events.NoteOverdue("b")]
    cost_ms = node()._cost_ms(work())
    for beside, noted in ((1, True), (3, False)):
        busy = node(parallel=4)
        budget_ms = 2.5 * core.OVERDUE * cost_ms
        for number in range(1 + beside):
            busy.handle(events.WorkReceived(work(str(1 + number), budget_ms=budget_ms if not number else 1e6)), 0.0)
        assert (events.NoteOverdue("b") in busy.handle(events.TimePassed(), budget_ms / 1000)) == noted


def test_who_was_computed_meanwhile_is_told() -> None:
    """On average over the time that the answer took; a repeat was not computed again."""
    agent = node(parallel=3)

    def beside(question_id: str, now: float) -> list[float]:
        effects = agent.handle(events.WorkFinished(("kitchen", question_id), generation()), now)
        return [effect.beside for effect in effects if isinstance(effect, events.NoteComputed)]

    agent.handle(events.WorkReceived(work("1")), 0.0)
    assert beside("1", 0.1) == [0.0]
    agent.handle(events.WorkReceived(work("2")), 0.2)
    agent.handle(events.WorkReceived(work("3")), 0.3)
    agent.handle(events.WorkReceived(work("4")), 0.4)
    assert beside("2", 0.6) == [pytest.approx((0.1 + 2 * 0.2) / 0.4)]
    assert beside("3", 0.7) == [pytest.approx((0.1 + 2 * 0.2 + 0.1) / 0.4)]
    assert beside("4", 1.0) == [pytest.approx((2 * 0.2 + 0.1) / 0.6)]
    again = agent.handle(events.WorkReceived(work("2", attempt=2)), 1.1)
    assert not any(isinstance(effect, events.NoteComputed) for effect in again)
    assert any(isinstance(effect, events.PublishAnswer) and effect.again for effect in again)
