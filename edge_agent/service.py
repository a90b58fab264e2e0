"""A node on the fleet: joins the pure core, the worker thread and the MQTT link.

One thread, the caller of `run`, drives MQTT and the core; the worker thread only computes and reports back. Knows
nothing of how an answer is made.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Final

from edge_agent import core
from edge_agent.errors import AgentError
from edge_agent.metrics import Metrics
from edge_agent.runtime.generation import Answerer
from edge_agent.telemetry import Machine
from edge_agent.worker import Worker
from hub import wire
from hub.errors import WireError
from hub.mqtt_link import BrokerUrl, Handlers, Link, Loop, Received, Will
from hub.presence import Presence

log = logging.getLogger(__name__)

HERE_BUDGET_MS: Final = 600_000.0  # of a question that is asked here without a deadline
SESSION_EXPIRY_S: Final = 0  # work that was queued for a node that went away has been sent elsewhere by then


_LEAVING: Final = core.Refusal("overloaded", "this node is shutting down: ask again in a while")


class AgentService:
    """Serves `answerers` (by bundle id) as node `name`. Raises LinkError for a malformed URL."""

    def __init__(self, broker: str, name: str, answerers: Mapping[str, Answerer], *, queue_limit: int = 256) -> None:
        served = {bundle: answerer.served for bundle, answerer in answerers.items()}
        self.name = name
        self.dropped = 0  # messages that were not what they should be
        parallel = {bundle: answerer.parallel for bundle, answerer in answerers.items()}
        self._core = core.NodeCore(name, served, parallel=parallel, queue_limit=queue_limit)
        self._served = tuple(served.values())
        self._bundles = frozenset(served)
        self._metrics = Metrics(lambda: self._core.backlog(time.monotonic()), Machine().read)
        self._asked_here: dict[str, tuple[str, Callable[[core.Told], None]]] = {}  # bundle, and who is told
        self._stopping = False
        self._leaving = threading.Lock()
        self._loop = Loop()
        self._dead = False
        self._worker = Worker(
            answerers, lambda event: self._loop.call_soon(lambda: self._handle(event)), self._worker_died
        )
        url = BrokerUrl.parse(broker)
        self._presence = Presence(
            self._loop,
            url,
            wire.Topic("node_state", name),
            lambda epoch: self._publish_state(self._core.state(epoch, time.monotonic())),
        )
        self._work_topic = str(wire.Topic("work", name))
        self._control_topic = str(wire.Topic("control", name))
        self._report_topic = str(wire.Topic("report", name))
        self._link = Link(
            url,
            f"node-{name}",
            Handlers(
                received=self._received,
                opened=self._opened,
                closed=lambda why: self._presence.closed(self._link),
            ),
            subscriptions=[(self._presence.topic, 1), (self._work_topic, 1), (self._control_topic, 1)],
            will=self._next_will,
            session_expiry_s=SESSION_EXPIRY_S,
        )
        self._loop.add(self._link)

    def run(self) -> None:
        """Serve until `stop`. Raises LinkError when the broker refuses this node or gives its name away, AgentError
        when nothing computes any more.
        """
        try:
            while not self._stopping:
                wake_at = self._core.next_wake()
                self._loop.run_once(math.inf if wake_at is None else max(wake_at - time.monotonic(), 0.0))
                if wake_at is not None and time.monotonic() >= wake_at:
                    self._handle(core.TimePassed())
        finally:
            with self._leaving:  # whoever asks from now is told so at once
                self._stopping = True
            if self._link.is_open:
                # Draining first: a hub that only hears `offline` takes it for a crash and waits for the node's return.
                for status in ("draining", "offline"):
                    self._publish_state(wire.NodeState(epoch=self._presence.epoch, status=status))
            self._link.flush()
            self._loop.close()
            self._worker.close()
            for _, tell in self._asked_here.values():
                tell(_LEAVING)
            self._asked_here.clear()
        if self._dead:
            raise AgentError("the inference thread died twice: see the log above for what it died of")

    def stop(self) -> None:
        """End `run`; from any thread or signal handler. What is unfinished is sent elsewhere by the hub."""
        self._stopping = True
        self._loop.call_soon(lambda: None)

    # --- questions of this device, from any thread ------------------------------------------------------

    @property
    def served(self) -> tuple[wire.ServedBundle, ...]:
        """What can be asked here."""
        return self._served

    @property
    def ready(self) -> bool:
        """Whether questions are taken."""
        return not self._core.draining and not self._stopping

    def metrics(self) -> bytes:
        """What this node tells Prometheus, as text."""
        return self._metrics.exposition()

    def ask(self, question: wire.Question, bundle: str, tell: Callable[[core.Told], None]) -> Callable[[], None]:
        """Ask a bundle of this node; `tell` gets text as it comes, if it is to be streamed, and then the outcome.

        It is called from the loop's thread. What is returned withdraws the question.
        """
        question_id = uuid.uuid4().hex
        budget_ms = question.deadline_ms or HERE_BUDGET_MS
        asked = core.Asked(question_id, question, bundle, budget_ms)

        with self._leaving:
            if self._stopping:
                tell(_LEAVING)
                return lambda: None
            self._asked_here[question_id] = bundle, tell
        self._loop.call_soon(lambda: self._handle(asked))
        return lambda: self._loop.call_soon(lambda: self._handle(core.Withdrawn(question_id)))

    def _worker_died(self) -> None:
        self._dead = True
        self.stop()

    # --- in the loop's thread ---------------------------------------------------------------------------

    def _next_will(self) -> Will:
        state = wire.NodeState(epoch=self._presence.next_epoch(), status="offline")
        return Will(self._presence.topic, wire.encode(state))

    def _opened(self) -> None:
        log.info("node %s is at %s", self.name, self._link.url)
        self._presence.opened()

    def _publish_state(self, state: wire.NodeState) -> None:
        self._link.publish(self._presence.topic, wire.encode(state), qos=1, retain=True)

    def _received(self, message: Received) -> None:
        try:
            if message.topic == self._work_topic:
                self._handle(core.WorkReceived(wire.decode_work(message.payload)))
            elif message.topic == self._control_topic:
                self._handle(core.ControlReceived(wire.decode_control(message.payload), time.monotonic()))
            elif message.topic == self._presence.topic:
                self._presence.received(message.payload)
        except WireError as error:
            self.dropped += 1
            log.warning("dropped a message on %s (%d so far): %s", message.topic, self.dropped, error)

    def _handle(self, event: core.Event) -> None:
        for effect in self._core.handle(event, time.monotonic()):
            self._do(effect)

    def _do(self, effect: core.Effect) -> None:
        if isinstance(effect, core.StartWork):
            self._worker.start(effect)
        elif isinstance(effect, core.StopWork):
            self._worker.stop(effect.key)
        elif isinstance(effect, core.PublishAnswer):
            if not effect.again:
                self._metrics.answered(effect.answer, "fleet")
            self._publish_answer(effect.work, effect.answer)
        elif isinstance(effect, core.PublishChunk):
            self._link.publish(
                effect.work.reply_to, wire.encode(effect.chunk), qos=0, correlation=effect.work.correlation
            )
        elif isinstance(effect, core.TellText):
            self._asked_here[effect.id][1](effect.text)
        elif isinstance(effect, core.TellOutcome):
            self._count_here(effect)
            self._asked_here.pop(effect.id)[1](effect.outcome)
        elif isinstance(effect, core.PublishReport):
            if isinstance(effect.report, wire.Done) and effect.report.outcome != "answered":
                known = effect.report.bundle in self._bundles  # whatever else is asked for makes no labels
                self._metrics.failed(effect.report.bundle if known else "unknown", "fleet", effect.report.outcome)
            qos = 0 if isinstance(effect.report, wire.Pong) else 1
            self._link.publish(self._report_topic, wire.encode(effect.report), qos=qos)
        else:
            self._presence.changed()

    def _count_here(self, effect: core.TellOutcome) -> None:
        if isinstance(effect.outcome, wire.Answer):
            self._metrics.answered(effect.outcome, "here")
        else:
            outcome = "cancelled" if effect.cancelled else effect.outcome.code
            self._metrics.failed(self._asked_here[effect.id][0], "here", outcome)

    def _publish_answer(self, work: wire.Work, answer: wire.Answer) -> None:
        log.info("answered %s of %s, attempt %d", answer.id, work.device, answer.attempt)
        payload = wire.plain_text(answer).encode() if work.plain else wire.encode(answer)
        self._link.publish(work.reply_to, payload, qos=1, correlation=work.correlation)
