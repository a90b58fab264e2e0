"""Questions that are asked on this device: each is answered here or by the fleet, and gets one outcome.

Here, unless `local_first` finds the fleet sooner or this node lacks the model. What went to the fleet comes back here
when the broker is lost, when the fleet fails it, or when it is long overdue, as long as nothing of it was told; what is
told first counts. Everything runs in the service's loop thread but `ask` and what it returns. Knows nothing of MQTT or
of how an answer is made.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Protocol

import msgspec

from edge_agent import core, events
from edge_agent.local_first import GENERATION, LocalFirst, Need, Terms
from hub import wire
from hub.ask import Outcome
from hub.errors import LinkError

HERE_BUDGET_MS: Final = 600_000.0  # of a question that is asked without a deadline
PATIENCE: Final = 2.0  # times the predicted delay, and then a second more, until the fleet is overdue
PATIENCE_MS: Final = 1000.0
_OTHERS_MAY: Final = ("no_node", "overloaded", "internal", "unsupported", "deadline")  # what is no fault of a question

Tell = Callable[[events.Told], None]
LEAVING: Final = events.Refusal("overloaded", "this node is shutting down: ask again in a while")


class Fleet(Protocol):
    """Whoever asks the fleet in this device's name: `hub.ask.Asker`."""

    @property
    def is_open(self) -> bool:
        """Whether the broker is there."""
        ...

    def submit(self, question: wire.Question, *, on_text: Callable[[int, str], None] | None = None) -> Future[Outcome]:
        """Ask; called back in a thread of its own. Raises LinkError."""
        ...


class Loop(Protocol):
    """The loop in whose thread all of this runs."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """From any thread."""
        ...

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """At a time of `time.monotonic`."""
        ...


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a question, for whoever counts: `bundle` is that of this node which answered, or would have."""

    id: str
    question: wire.Question
    bundle: str | None
    route: wire.Route
    outcome: wire.Answer | events.Refusal
    total_ms: float
    cancelled: bool = False


class _Own:
    """A question under way."""

    def __init__(self, question_id: str, question: wire.Question, bundle: str | None, tell: Tell, now: float) -> None:
        self.id = question_id
        self.question = question
        self.bundle = bundle  # of this node; None where it has none for it
        self.tell = tell
        self.asked_at = now
        self.deadline_at = now + (question.deadline_ms or HERE_BUDGET_MS) / 1000
        self.route = wire.Route(where="here", why="", margin_ms=0.0)
        self.asked_here = False
        self.told = ""
        self.heard: tuple[int, str] = (0, "")  # the fleet's present attempt, and its text so far

    def left_ms(self, now: float) -> float:
        return max((self.deadline_at - now) * 1000, 0.0)


class OwnQuestions:
    """`handle` takes events of the node's core; `ended` is called with each end. Without `fleet`, all is here."""

    def __init__(
        self,
        loop: Loop,
        node: core.NodeCore,
        handle: Callable[[events.Event], None],
        ended: Callable[[Ended], None],
        choice: LocalFirst,
    ) -> None:
        self.choice = choice
        self.fleet: Fleet | None = None
        self.broker_ms: Callable[[], float | None] = lambda: None
        self._loop = loop
        self._node = node
        self._handle = handle
        self._ended = ended
        self._under_way: dict[str, _Own] = {}
        self.leaving = False
        self._lock = threading.Lock()  # between who asks and the end

    # --- from any thread --------------------------------------------------------------------------------

    @property
    def fleet_in_reach(self) -> bool:
        """Whether there is a hub to ask."""
        return self.fleet is not None and self.fleet.is_open and self.choice.hub is not None

    def ask(self, question: wire.Question, bundle: str | None, tell: Tell) -> Callable[[], None]:
        """Ask `bundle` of this node, or whoever has `question.model`; what is returned withdraws the question."""
        own = _Own(uuid.uuid4().hex, question, bundle, tell, time.monotonic())
        with self._lock:
            if self.leaving:
                tell(LEAVING)
                return lambda: None
            self._under_way[own.id] = own
        self._loop.call_soon(lambda: self._begin(own))
        return lambda: self._loop.call_soon(lambda: self._withdraw(own.id))

    # --- in the loop's thread ---------------------------------------------------------------------------

    def refuse_new(self) -> None:
        """From now on; safe in a signal handler, too."""
        self.leaving = True

    def told_text(self, effect: events.TellText) -> None:
        """This node has more text of an answer."""
        own = self._under_way.get(effect.id)
        if own is not None:
            own.told += effect.text
            own.tell(effect.text)

    def told_outcome(self, effect: events.TellOutcome) -> None:
        """This node has ended a question."""
        own = self._under_way.get(effect.id)
        if own is not None:
            self._end(own, effect.outcome, cancelled=effect.cancelled)

    def lost_broker(self) -> None:
        """Nothing comes back from the fleet for now: what can be answered here is."""
        self.choice.lost_broker()
        for own in list(self._under_way.values()):
            if own.route.where == "fleet":
                self._ask_here_too(own, "the broker was lost")

    def close(self) -> None:
        """Whoever still waits, or asks from now, is told so at once."""
        with self._lock:  # whoever was let in before is among these
            self.leaving = True
        for own in self._under_way.values():
            own.tell(LEAVING)
        self._under_way.clear()

    # --- inside -----------------------------------------------------------------------------------------

    def _begin(self, own: _Own) -> None:
        if own.id not in self._under_way:
            return
        now = time.monotonic()
        own.route = self._route(own, now)
        if own.route.where == "here":
            self._ask_here(own, now)
        elif self.fleet is not None and self.fleet_in_reach:
            self._ask_fleet(own, self.fleet, now)
        else:
            self._end(own, events.Refusal("no_node", f"{_wanted(own)} is not served here, and no hub is in reach"))

    def _route(self, own: _Own, now: float) -> wire.Route:
        bundle = own.bundle
        here = None if bundle is None else self._terms_here(bundle, now)
        need = self._need(own.question, bundle)
        route = self.choice.choose(need, here, self.broker_ms())
        if route.where == "fleet" and here is not None:
            if not self.fleet_in_reach:
                return msgspec.structs.replace(route, where="here", why="the broker is away")
            if own.question.session is not None:
                return msgspec.structs.replace(route, where="here", why="its session is here")
        return route

    def _terms_here(self, bundle: str, now: float) -> Terms:
        served = self._node.known[bundle]
        return Terms(
            wait_ms=self._node.wait_here_ms(bundle, now),
            fixed_ms=served.fixed_ms,
            prefill_ms_per_token=served.prefill_ms_per_token,
            decode_ms_per_token=served.decode_ms_per_token,
        )

    def _need(self, question: wire.Question, bundle: str | None) -> Need:
        served = None if bundle is None else self._node.known[bundle]
        task = question.task or (served.task if served is not None else GENERATION)
        model = question.model or (served.model if served is not None else "")
        prompt_tokens, answer_tokens = self._node.expected_tokens(question, task)
        return Need(task=task, model=model, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)

    def _ask_here(self, own: _Own, now: float) -> None:
        assert own.bundle is not None
        own.asked_here = True
        own.bundle = self._node.successor(own.bundle)  # it may have gone since somebody asked for it
        self._handle(events.Asked(own.id, own.question, own.bundle, own.left_ms(now)))

    def _ask_fleet(self, own: _Own, fleet: Fleet, now: float) -> None:
        need = self._need(own.question, own.bundle)
        question = msgspec.structs.replace(
            own.question,
            id=own.id,
            task=need.task,
            model=need.model or None,
            deadline_ms=max(own.left_ms(now), 1.0),
        )
        on_text = None
        if question.stream:

            def on_text(attempt: int, text: str) -> None:
                self._loop.call_soon(lambda: self._fleet_text(own.id, attempt, text))

        try:
            future = fleet.submit(question, on_text=on_text)
        except LinkError as error:
            self._fleet_failed(own, events.Refusal("no_node", str(error)))
            return
        future.add_done_callback(lambda done: self._loop.call_soon(lambda: self._fleet_ended(own.id, done)))
        if own.bundle is not None:
            overdue_ms = PATIENCE * (own.route.fleet_ms or 0.0) + PATIENCE_MS
            self._loop.call_at(now + overdue_ms / 1000, lambda: self._ask_here_too(own, "the fleet was overdue"))

    def _ask_here_too(self, own: _Own, why: str) -> None:
        if self._under_way.get(own.id) is own and own.bundle is not None and not own.asked_here and not own.told:
            own.route = msgspec.structs.replace(own.route, where="here", why=why)
            self._ask_here(own, time.monotonic())

    def _fleet_text(self, question_id: str, attempt: int, text: str) -> None:
        """Text goes on as long as it continues what was told; a new attempt may repeat that, or else is held back."""
        own = self._under_way.get(question_id)
        if own is None or own.asked_here:
            return
        before = own.heard[1] if attempt == own.heard[0] else ""
        own.heard = attempt, before + text
        self._tell_more(own, own.heard[1])

    def _tell_more(self, own: _Own, whole: str) -> None:
        if len(whole) > len(own.told) and whole.startswith(own.told):
            more = whole[len(own.told) :]
            own.told = whole
            own.tell(more)

    def _fleet_ended(self, question_id: str, future: Future[Outcome]) -> None:
        own = self._under_way.get(question_id)
        if own is None:
            return
        if (error := future.exception()) is not None:
            self._fleet_failed(own, events.Refusal("no_node", str(error)))
            return
        reply = future.result().reply
        if isinstance(reply, wire.Failure):
            self._fleet_failed(own, events.Refusal(reply.error.code, reply.error.message))
        elif not own.told or (not own.asked_here and (reply.text or "").startswith(own.told)):
            self._answered_by_fleet(own, reply)
        elif not own.asked_here:
            self._end(own, events.Refusal("internal", "its answer began anew elsewhere, and was another: ask again"))

    def _answered_by_fleet(self, own: _Own, answer: wire.Answer) -> None:
        if own.asked_here:
            self._loop.call_soon(lambda: self._handle(events.Withdrawn(own.id)))  # its end finds nobody any more
            own.route = msgspec.structs.replace(own.route, where="fleet")
        if own.question.stream:
            self._tell_more(own, answer.text or "")
        self._end(own, answer)

    def _fleet_failed(self, own: _Own, refusal: events.Refusal) -> None:
        if own.asked_here:
            return  # this node's outcome counts
        retriable = refusal.code in _OTHERS_MAY and own.left_ms(time.monotonic()) > 0
        if retriable and own.bundle is not None and not own.told:
            self._ask_here_too(own, f"the fleet failed it: {refusal.message}"[:200])
        else:
            self._end(own, refusal)

    def _withdraw(self, question_id: str) -> None:
        """Nobody wants to know any more. What is at the fleet is let go: its answer will find nobody."""
        own = self._under_way.get(question_id)
        if own is None:
            return
        if own.asked_here:
            self._handle(events.Withdrawn(own.id))
        else:
            self._end(own, events.Refusal("internal", "cancelled"), cancelled=True)

    def _end(self, own: _Own, outcome: wire.Answer | events.Refusal, *, cancelled: bool = False) -> None:
        if self._under_way.pop(own.id, None) is None:
            return
        if isinstance(outcome, wire.Answer):
            outcome = msgspec.structs.replace(outcome, route=own.route)
        total_ms = (time.monotonic() - own.asked_at) * 1000
        self._ended(
            Ended(
                id=own.id, question=own.question, bundle=own.bundle, route=own.route, outcome=outcome,
                total_ms=total_ms, cancelled=cancelled,
            )
        )  # fmt: skip
        own.tell(outcome)


def _wanted(own: _Own) -> str:
    return repr((own.question.model or own.question.task or "")[:200])
