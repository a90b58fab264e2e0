"""A node on the fleet: joins the pure core, the worker thread, the questions of this device and the MQTT link.

One thread, the caller of `run`, drives MQTT and the core; the worker thread only computes and reports back. Knows
nothing of how an answer is made.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from edge_agent import core, events
from edge_agent.answer_spans import AnswerSpans
from edge_agent.books import Books
from edge_agent.errors import AgentError
from edge_agent.evidence import Deployments, Evidence
from edge_agent.local_first import LocalFirst
from edge_agent.metrics import Metrics
from edge_agent.own_questions import Ended, OwnQuestions
from edge_agent.runtime.generation import Answerer
from edge_agent.store import Store
from edge_agent.telemetry import MachineSense, Tally
from edge_agent.worker import Worker
from hub import wire
from hub.ask import Asker
from hub.broker_url import BrokerUrl
from hub.errors import WireError
from hub.handlers import Handlers, Received, Will
from hub.loop import Loop
from hub.mqtt_link import Link
from hub.presence import Presence

log = logging.getLogger(__name__)

SESSION_EXPIRY_S: Final = 0  # work that was queued for a node that went away has been sent elsewhere by then
TELL_EVERY_S: Final = 5.0  # how the machine is
DRAIN_S: Final = 5.0  # for what runs when the node is to leave
MARGIN_MS: Final = 50.0
LINGER_S: Final = 2.0  # that a bundle still takes what hubs send for it that have not heard that it is gone


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """How this device's own questions are treated: by how much the fleet must be sooner, and where records wait."""

    margin_ms: float = MARGIN_MS
    records: Path | None = None


class AgentService:
    """Serves `answerers` (by bundle id) as node `name`, on the machine that asks as `device` (default: `name`).

    With `own`, this device's questions may go to the fleet, and what is answered here is recorded.
    Raises LinkError for a malformed URL, InputError where records cannot be kept.
    """

    def __init__(
        self,
        broker: str | BrokerUrl,
        name: str,
        answerers: Mapping[str, Answerer],
        *,
        device: str | None = None,
        own: Own | None = None,
        queue_limit: int = 256,
        drain_s: float = DRAIN_S,
        profile: str = "",
    ) -> None:
        served = {bundle: answerer.served for bundle, answerer in answerers.items()}
        url = BrokerUrl.of(broker)
        self.name = name
        self.dropped = 0  # messages that were not what they should be
        self._device = name if device is None else device
        parallel = {bundle: answerer.parallel for bundle, answerer in answerers.items()}
        self._evidence = Evidence(served)
        self._deployment: wire.Deployment | None = None
        self._closers: dict[str, Callable[[], None]] = {}
        self._core = core.NodeCore(
            name,
            served,
            life=time.time_ns() // 1_000_000,  # goes up, like an epoch
            device=self._device,
            parallel=parallel,
            queue_limit=queue_limit,
        )
        self._loop = Loop()
        margin_ms = MARGIN_MS if own is None else own.margin_ms
        self._own = OwnQuestions(self._loop, self._core, self._handle, self._ended, LocalFirst(name, margin_ms))
        self._store = None if own is None or own.records is None else Store(own.records, self._send_records)
        self._records_hub: str | None = None  # who gets them
        self._asker = None if own is None else Asker(url, self._device, patient=True)
        self._sense, self._tally = MachineSense(), Tally()
        self._machine = self._sense.read()
        self._metrics = Metrics(self._state, self._records_count)
        self._spans = AnswerSpans(name, lambda bundle: self._core.known.get(bundle))
        self._books = Books(
            self._device,
            metrics=self._metrics,
            spans=self._spans,
            tally=self._tally,
            evidence=self._evidence,
            known=lambda: self._core.known,
            keep=None if self._store is None else self._store.keep,
        )
        self._drain_s = drain_s
        self._profile = profile
        self._leave_by: float | None = None  # set when this node is to leave
        self._dead = False
        self._worker = Worker(
            answerers, lambda event: self._loop.call_soon(lambda: self._handle(event)), self._worker_died
        )
        self._presence = Presence(
            self._loop,
            url,
            wire.Topic("node_state", name),
            lambda epoch: self._publish_state(self._state(epoch)),
        )
        self._work_topic = str(wire.Topic("work", name))
        self._control_topic = str(wire.Topic("control", name))
        self._report_topic = str(wire.Topic("report", name))
        self._desired_topic = str(wire.Topic("desired", name))
        topics = [self._presence.topic, self._work_topic, self._control_topic]
        if own is not None:  # what hubs offer, once a second, is for who asks here
            topics.append(wire.Topic.all_of("hub_state"))
        self._link = Link(
            url,
            url.owned(f"node-{name}"),
            Handlers(received=self._received, opened=self._opened, closed=self._closed),
            subscriptions=[(topic, 1) for topic in topics],
            will=self._next_will,
            session_expiry_s=SESSION_EXPIRY_S,
            look_first=True,
        )
        self._own.broker_ms = lambda: self._link.round_trip_ms
        self._loop.add(self._link)

    def run(self) -> None:
        """Serve until `stop`. Raises LinkError when the broker refuses this node or gives its name away, AgentError
        when nothing computes any more.
        """
        if self._asker is not None:
            self._own.fleet = self._asker.__enter__()
        self._loop.call_at(time.monotonic() + TELL_EVERY_S, self._tell_machine)
        try:
            while not self._may_leave(time.monotonic()):
                wake_at = min(
                    (at for at in (self._core.next_wake(), self._leave_by) if at is not None), default=math.inf
                )
                self._loop.run_once(max(wake_at - time.monotonic(), 0.0))
                if time.monotonic() >= wake_at:
                    self._handle(events.TimePassed())
        finally:
            self._close()
        if self._dead:
            raise AgentError("the inference thread died twice: see the log above for what it died of")

    def stop(self) -> None:
        """End `run`, from any thread or signal handler: what runs is ended first, unless this is said twice.

        What is unfinished is sent elsewhere by the hub.
        """
        self._own.refuse_new()
        self._loop.call_soon(self._leave)

    # --- questions of this device, from any thread ------------------------------------------------------

    @property
    def served(self) -> tuple[wire.ServedBundle, ...]:
        """What can be asked here."""
        return tuple(self._core.served.values())

    @property
    def offers(self) -> tuple[wire.Offer, ...]:
        """What other nodes offer, as far as a hub has said so."""
        return self._own.choice.offers

    @property
    def fleet_in_reach(self) -> bool:
        """Whether the fleet can be asked for what is not served here."""
        return self._own.fleet_in_reach

    @property
    def ready(self) -> bool:
        """Whether questions are taken."""
        return not self._core.draining and not self._own.leaving

    def metrics(self) -> bytes:
        """What this node tells Prometheus, as text."""
        return self._metrics.exposition()

    def ask(
        self, question: wire.Question, bundle: str | None, tell: Callable[[events.Told], None]
    ) -> Callable[[], None]:
        """Ask a bundle of this node, or where that is None whoever in the fleet has `question.model`.

        `tell` gets text as it comes, if it is to be streamed, and then the outcome. It is called from the loop's
        thread. What is returned withdraws the question.
        """
        return self._own.ask(question, bundle, tell)

    # --- bundles that come and go, from any thread ------------------------------------------------------

    def deploy_with(self, deployments: Deployments) -> None:
        """Let hubs say what this node is to serve; before `run`."""
        self._evidence.deployments = deployments
        self._link.subscribe(self._desired_topic, qos=1)

    def offer(self, answerer: Answerer, *, instead_of: str | None = None) -> None:
        """Offer what this answers from now on, in the place of another bundle, which stays loaded, or beside all.

        An answerer whose bundle is loaded already is not looked at.
        """
        served = answerer.served

        def offered() -> None:
            if served.bundle not in self._core.loaded:
                self._worker.add(served.bundle, answerer)
                self._evidence.offered(served)
            self._handle(events.BundleOffered(served, answerer.parallel, instead_of))

        self._loop.call_soon(offered)

    def withdraw(self, bundle: str) -> None:
        """Offer it no more; it stays loaded."""
        self._loop.call_soon(lambda: self._handle(events.BundleWithdrawn(bundle)))

    def let_go(self, bundle: str, close: Callable[[], None]) -> None:
        """Call `close`, in the worker's thread, once all that waits for this bundle, or comes late, is answered."""

        def going() -> None:
            self._closers[bundle] = close
            self._handle(events.BundleDone(bundle))

        self._loop.call_soon(lambda: self._loop.call_at(time.monotonic() + LINGER_S, going))

    def between_questions(self, bundle: str, call: Callable[[bool], None]) -> None:
        """Call this in the worker's thread, between two runs, with whether nothing of that bundle is under way."""
        self._loop.call_soon(lambda: self._worker.between_questions(bundle, call))

    def deployed(self, deployment: wire.Deployment) -> None:
        """Say in this node's state how far a deployment has come."""

        def said() -> None:
            self._deployment = deployment
            self._presence.changed()

        self._loop.call_soon(said)

    def _worker_died(self) -> None:
        self._dead = True
        self._loop.call_soon(self._leave)
        self._loop.call_soon(self._leave)  # at once: nothing that runs will end

    # --- in the loop's thread ---------------------------------------------------------------------------

    def _leave(self) -> None:
        if self._leave_by is None:
            self._leave_by = time.monotonic() + self._drain_s
            self._handle(events.Leaving())
        else:
            self._leave_by = time.monotonic()

    def _may_leave(self, now: float) -> bool:
        return self._leave_by is not None and (self._core.idle or now >= self._leave_by)

    def _close(self) -> None:
        self._own.close()
        if self._link.is_open:
            # Draining first: a hub that only hears `offline` takes it for a crash and waits for the node's return.
            for status in ("draining", "offline"):
                self._publish_state(wire.NodeState(epoch=self._presence.epoch, status=status))
        self._link.flush()
        self._loop.close()
        self._worker.close()
        if self._asker is not None:
            self._asker.close()
        if self._store is not None:
            self._store.close()

    def _state(self, epoch: int | None = None) -> wire.NodeState:
        machine = self._tally.added_to(self._machine)
        state = self._core.state(epoch or self._presence.epoch, time.monotonic(), machine)
        deploys = self._evidence.deployments is not None
        return msgspec.structs.replace(state, profile=self._profile, deploys=deploys, deployment=self._deployment)

    def _tell_machine(self) -> None:
        """How the machine is goes into the state every few seconds; brokers see a message of 1 kB from it."""
        self._machine = self._sense.read()
        self._presence.changed()
        self._loop.call_at(time.monotonic() + TELL_EVERY_S, self._tell_machine)

    def _next_will(self) -> Will:
        state = wire.NodeState(epoch=self._presence.next_epoch(), status="offline")
        return Will(self._presence.topic, wire.encode(state))

    def _opened(self) -> None:
        log.info("node %s is at %s", self.name, self._link.url)
        self._presence.opened()

    def _closed(self, why: str) -> None:
        self._presence.closed(self._link)
        self._own.lost_broker()
        self._note_hub()

    def _note_hub(self) -> None:
        """Records wait for no hub that is gone: what it had not confirmed goes to the next one."""
        if self._store is not None and self._own.choice.hub != self._records_hub:
            self._records_hub = self._own.choice.hub
            self._store.online(self._records_hub is not None)

    def _publish_state(self, state: wire.NodeState) -> None:
        self._link.publish(self._presence.topic, wire.encode(state), qos=1, retain=True)

    def _received(self, message: Received) -> None:
        try:
            if message.topic == self._work_topic:
                work = wire.decode_work(message.payload)
                self._spans.came(work, message.user_properties, time.monotonic())
                self._handle(events.WorkReceived(work))
            elif message.topic == self._control_topic:
                self._controlled(wire.decode_control(message.payload))
            elif message.topic == self._desired_topic:
                self._desired(message.payload)
            elif message.topic == self._presence.topic:
                self._presence.received(message.payload)
            elif (topic := wire.Topic.parse(message.topic)) is not None and topic.kind == "hub_state":
                self._hub_said(topic.name, message.payload)
        except WireError as error:
            self.dropped += 1
            log.warning("dropped a message on %s (%d so far): %s", message.topic, self.dropped, error)

    def _controlled(self, control: wire.Control) -> None:
        if isinstance(control, wire.Kept):
            if self._store is not None:
                self._store.confirmed(control.seq)
        else:
            self._handle(events.ControlReceived(control, time.monotonic()))

    def _desired(self, payload: bytes) -> None:
        if self._evidence.deployments is not None and payload:  # none is a Desired that was taken back
            self._evidence.deployments.desired(wire.decode_desired(payload))

    def _hub_said(self, hub: str, payload: bytes) -> None:
        gone = wire.HubState(epoch=0, status="offline")
        self._own.choice.heard(hub, wire.decode_hub_state(payload) if payload else gone)
        self._note_hub()

    def _handle(self, event: events.Event) -> None:
        for effect in self._core.handle(event, time.monotonic()):
            self._do(effect)

    def _do(self, effect: events.Effect) -> None:
        if isinstance(effect, events.StartWork):
            self._worker.start(effect)
        elif isinstance(effect, events.StopWork):
            self._worker.stop(effect.key)
        elif isinstance(effect, events.PublishAnswer):
            self._publish_answer(effect)
            self._link.write()  # log and books can wait while it travels
            log.info("answered %s of %s, attempt %d", effect.answer.id, effect.work.device, effect.answer.attempt)
            self._books.answered(effect, time.monotonic())
        elif isinstance(effect, events.PublishChunk):
            self._link.publish(
                effect.work.reply_to, wire.encode(effect.chunk), qos=0, correlation=effect.work.correlation
            )
        elif isinstance(effect, events.NoteRepeat):
            self._spans.repeated(effect.before, effect.work)
        elif isinstance(effect, events.TellText):
            self._own.told_text(effect)
        elif isinstance(effect, events.TellOutcome):
            self._own.told_outcome(effect)
        elif isinstance(effect, events.PublishReport):
            if isinstance(effect.report, wire.Done) and effect.report.outcome != "answered":
                self._books.failed(effect.report, time.monotonic())
            qos = 0 if isinstance(effect.report, wire.Pong) else 1
            self._link.publish(self._report_topic, wire.encode(effect.report), qos=qos)
        elif isinstance(effect, events.NoteComputed):
            self._evidence.computed(effect.answer, effect.beside)
        elif isinstance(effect, events.NoteOverdue):
            self._evidence.failed(effect.bundle)
        elif isinstance(effect, events.CloseBundle):
            self._worker.remove(effect.bundle, self._closers.pop(effect.bundle))
        else:
            self._presence.changed()

    def _ended(self, ended: Ended) -> None:
        self._books.own_ended(ended)

    def _send_records(self, seq: int, records: tuple[wire.OwnRecord, ...]) -> None:
        """From the store's thread: to one hub, which says Kept."""
        self._loop.call_soon(lambda: self._report_own(seq, records))

    def _report_own(self, seq: int, records: tuple[wire.OwnRecord, ...]) -> None:
        if self._link.is_open and (hub := self._own.choice.hub) is not None:
            self._link.publish(
                self._report_topic, wire.encode(wire.OwnRecords(hub=hub, seq=seq, records=records)), qos=1
            )

    def _records_count(self) -> tuple[int, int]:
        return (0, 0) if self._store is None else (self._store.waiting, self._store.lost)

    def _publish_answer(self, effect: events.PublishAnswer) -> None:
        work, answer = effect.work, effect.answer
        payload = wire.plain_text(answer).encode() if work.plain else wire.encode(answer)
        self._link.publish(work.reply_to, payload, qos=1, correlation=work.correlation, until=effect.until)
