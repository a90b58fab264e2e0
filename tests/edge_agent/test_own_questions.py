"""Each question of this device gets one outcome, from here or from the fleet, whatever happens in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec
import pytest

from edge_agent import core, events, own_questions
from edge_agent.local_first import LocalFirst
from edge_agent.own_questions import Ended, OwnQuestions
from hub import wire
from hub.ask import Outcome
from hub.errors import LinkError

SERVED = wire.ServedBundle(
    bundle="b", model="m", task="text-generation", context=4096,
    fixed_ms=500.0, prefill_ms_per_token=1.0, decode_ms_per_token=10.0,
)  # fmt: skip
QUICK = wire.Offer(
    task="text-generation", model="m", node="far", bundle="b", context=4096, network_ms=5, wait_ms=0, fixed_ms=1,
    prefill_ms_per_token=0.1, decode_ms_per_token=1,
)  # fmt: skip


class Loop:
    """Calls what is due when the test says so."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        self.later.append((when, call))

    def turn(self) -> None:
        while self.soon:
            self.soon.pop(0)()


class Fleet:
    """Keeps what it is asked; the test answers."""

    def __init__(self) -> None:
        self.is_open = True
        self.asked: list[tuple[wire.Question, Any, Future[Outcome]]] = []
        self.refuses = False

    def submit(self, question: wire.Question, *, on_text: Any = None) -> Future[Outcome]:
        if self.refuses:
            raise LinkError("refused for good")
        future: Future[Outcome] = Future()
        self.asked.append((question, on_text, future))
        return future

    def say(self, reply: wire.Answer | wire.Failure) -> None:
        self.asked[-1][2].set_result(Outcome(reply=reply, total_ms=1.0))


class Desk:
    """Own questions over a real core, a node that answers when the test says so, and a fleet."""

    def __init__(self, *offers: wire.Offer) -> None:
        self.loop, self.fleet = Loop(), Fleet()
        self.node = core.NodeCore("n", {"b": SERVED})
        self.running: list[events.StartWork] = []
        self.stopped: list[events.Key] = []
        self.ends: list[Ended] = []
        self.told: list[events.Told] = []
        choice = LocalFirst("n", 50.0)
        choice.heard("hub", wire.HubState(epoch=1, status="ready", offers=offers))
        self.own = OwnQuestions(self.loop, self.node, self.handle, self.ends.append, choice)
        self.own.fleet = self.fleet
        self.own.broker_ms = lambda: 1.0

    def handle(self, event: events.Event) -> None:
        for effect in self.node.handle(event, time.monotonic()):
            if isinstance(effect, events.StartWork):
                self.running.append(effect)
            elif isinstance(effect, events.StopWork):
                self.stopped.append(effect.key)
            elif isinstance(effect, events.TellText):
                self.own.told_text(effect)
            elif isinstance(effect, events.TellOutcome):
                self.own.told_outcome(effect)

    def ask(self, bundle: str | None = "b", **changes: Any) -> Callable[[], None]:
        question = wire.Question(**{"question": "why?", **changes})
        withdraw = self.own.ask(question, bundle, self.told.append)
        self.loop.turn()
        return withdraw

    def answer_here(self, text: str = "here") -> None:
        from edge_agent.runtime.generation import Generation

        generation = Generation(
            text=text, token_ids=(1,), finish="stop", tokens=wire.Tokens(prompt=5, completion=1),
            prefill_ms=1.0, decode_ms=1.0, compute_ms=2.0,
        )  # fmt: skip
        self.handle(events.WorkFinished(self.running.pop(0).key, generation))
        self.loop.turn()

    def answer_there(self, text: str = "there") -> None:
        self.fleet.say(wire.Answer(id="x", node="far", bundle="b", finish="stop", attempt=1, text=text))
        self.loop.turn()

    def fail_there(self, code: str = "overloaded") -> None:
        problem = wire.Problem(code=code, message="no luck")  # type: ignore[arg-type]
        self.fleet.say(wire.Failure(id="x", error=problem))
        self.loop.turn()

    def stream_there(self, attempt: int, text: str) -> None:
        self.fleet.asked[-1][1](attempt, text)
        self.loop.turn()

    @property
    def outcome(self) -> Any:
        """The one outcome: nothing follows it, and it was counted once."""
        assert len(self.ends) == 1
        assert sum(not isinstance(one, str) for one in self.told) == 1
        assert not isinstance(self.told[-1], str)
        return self.told[-1]


def test_a_bundle_that_went_meanwhile_gives_way_to_its_successor() -> None:
    """The fleet has failed a question whose bundle here was replaced since it was asked."""
    desk = Desk(QUICK)
    desk.ask()
    desk.handle(events.BundleOffered(msgspec.structs.replace(SERVED, bundle="b2"), 1, "b"))
    desk.handle(events.BundleDone("b"))
    desk.fleet.say(wire.Failure(id="1", error=wire.Problem(code="internal", message="it broke")))
    desk.loop.turn()
    desk.answer_here()
    assert isinstance(desk.told[-1], wire.Answer)
    assert (desk.told[-1].bundle, desk.ends[-1].bundle) == ("b2", "b2")


def test_sooner_elsewhere_and_why_is_in_the_answer() -> None:
    """With both predictions."""
    desk = Desk(QUICK)
    desk.ask()
    assert not desk.running
    desk.answer_there()
    assert (desk.outcome.text, desk.outcome.node) == ("there", "far")
    route = desk.outcome.route
    assert (route.where, route.margin_ms) == ("fleet", 50.0)
    assert route.here_ms > route.fleet_ms + 50
    assert desk.fleet.asked[0][0].deadline_ms == pytest.approx(own_questions.HERE_BUDGET_MS, rel=0.01)


@pytest.mark.parametrize("away", ["no offer", "closed", "no fleet", "no hub"])
def test_here_while_the_fleet_is_away(away: str) -> None:
    """Whatever of it is missing."""
    desk = Desk(*([] if away == "no offer" else [QUICK]))
    desk.fleet.is_open = away != "closed"
    if away == "no fleet":
        desk.own.fleet = None
    if away == "no hub":
        desk.own.lost_broker()
    desk.ask()
    desk.answer_here()
    assert (desk.outcome.text, desk.outcome.route.where) == ("here", "here")
    assert not desk.fleet.asked


def test_a_session_stays_where_it_is() -> None:
    """What was said before in it is known here only."""
    desk = Desk(QUICK)
    desk.ask(session="s")
    desk.answer_here()
    assert desk.outcome.route.why == "its session is here"


def test_what_is_not_served_here_goes_to_the_fleet_or_fails_at_once() -> None:
    """With a message that says why."""
    desk = Desk()
    desk.ask(None, model="big")
    desk.answer_there()
    assert desk.outcome.text == "there"
    lonely = Desk()
    lonely.fleet.is_open = False
    lonely.ask(None, model="big")
    assert lonely.outcome == events.Refusal("no_node", "'big' is not served here, and no hub is in reach")


def test_a_failure_of_the_fleet_is_made_good_here() -> None:
    """Unless the question itself is wrong, or this node has nothing for it."""
    desk = Desk(QUICK)
    desk.ask()
    desk.fail_there()
    desk.answer_here()
    assert desk.outcome.route.where == "here"
    assert "no luck" in desk.outcome.route.why
    wrong = Desk(QUICK)
    wrong.ask()
    wrong.fail_there("too_large")
    assert wrong.outcome.code == "too_large"
    lacking = Desk()
    lacking.ask(None, model="big")
    lacking.fail_there()
    assert lacking.outcome == events.Refusal("overloaded", "no luck")


def test_a_broker_that_refuses_is_no_end() -> None:
    """Neither when the fleet is asked nor while it is."""
    desk = Desk(QUICK)
    desk.fleet.refuses = True
    desk.ask()
    desk.answer_here()
    assert desk.outcome.text == "here"
    later = Desk(QUICK)
    later.ask()
    later.fleet.asked[0][2].set_exception(LinkError("taken over"))
    later.loop.turn()
    later.answer_here()
    assert later.outcome.text == "here"


def test_a_lost_broker_brings_questions_back() -> None:
    """At once; what comes from the fleet afterwards is too late."""
    desk = Desk(QUICK)
    desk.ask()
    desk.own.lost_broker()
    assert len(desk.running) == 1
    desk.answer_here()
    desk.answer_there()
    assert (desk.outcome.text, desk.outcome.route.why) == ("here", "the broker was lost")


@pytest.mark.parametrize("first", ["here", "there"])
def test_an_overdue_fleet_has_a_rival(first: str) -> None:
    """The first outcome counts, the other is called off or ignored."""
    desk = Desk(QUICK)
    desk.ask()
    [(when, overdue)] = desk.loop.later
    assert 1.0 < when - time.monotonic() < 2.0
    overdue()
    if first == "here":
        desk.answer_here()
        desk.answer_there()
    else:
        desk.answer_there()
        assert desk.stopped == [desk.running[0].key]
        desk.answer_here()
    assert desk.outcome.text == first
    assert desk.outcome.route.where == ("here" if first == "here" else "fleet")


def test_what_is_answered_in_time_has_no_rival() -> None:
    """The timer finds nothing to do."""
    desk = Desk(QUICK)
    desk.ask()
    desk.answer_there()
    desk.loop.later[0][1]()
    assert not desk.running


def test_a_stream_from_the_fleet() -> None:
    """Piece by piece; what its chunks did not have comes with the end."""
    desk = Desk(QUICK)
    desk.ask(stream=True)
    desk.stream_there(1, "the")
    desk.stream_there(1, "re i")
    desk.answer_there("there it is")
    assert desk.told[:-1] == ["the", "re i", "t is"]
    assert desk.outcome.text == "there it is"


def test_a_stream_that_begins_anew_goes_on_where_it_was() -> None:
    """Another attempt repeats the same text; one with another text cannot be made good, and fails."""
    desk = Desk(QUICK)
    desk.ask(stream=True)
    desk.stream_there(1, "there")
    desk.stream_there(2, "the")
    desk.stream_there(2, "re it")
    desk.answer_there("there it is")
    assert desk.told[:-1] == ["there", " it", " is"]
    other = Desk(QUICK)
    other.ask(stream=True)
    other.stream_there(1, "there")
    other.stream_there(2, "elsewhere")
    other.answer_there("elsewhere it is")
    assert other.told[:-1] == ["there"]
    assert other.outcome.code == "internal"


def test_a_stream_under_way_is_not_begun_here() -> None:
    """Half of one answer and half of another is none."""
    desk = Desk(QUICK)
    desk.ask(stream=True)
    desk.stream_there(1, "there")
    desk.own.lost_broker()
    desk.loop.later[0][1]()
    assert not desk.running
    desk.fail_there()
    assert desk.outcome.code == "overloaded"


def test_who_withdraws_hears_of_it_once() -> None:
    """At the fleet, here, and twice."""
    for offers in ((), (QUICK,)):
        desk = Desk(*offers)
        withdraw = desk.ask()
        withdraw()
        withdraw()
        desk.loop.turn()
        for job in desk.running:
            finished = msgspec.structs.replace(_cancelled(), finish="cancelled")
            desk.handle(events.WorkFinished(job.key, finished))
        assert desk.ends[0].cancelled
        assert len(desk.ends) == 1


def _cancelled() -> Any:
    from edge_agent.runtime.generation import Generation

    return Generation(
        text="", token_ids=(), finish="cancelled", tokens=wire.Tokens(), prefill_ms=0.0, decode_ms=0.0, compute_ms=0.0
    )


def test_who_waits_at_the_end_is_told() -> None:
    """And who asks from then on."""
    desk = Desk(QUICK)
    desk.ask()
    desk.own.close()
    desk.ask()
    assert desk.told == [own_questions.LEAVING] * 2
