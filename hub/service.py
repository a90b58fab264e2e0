"""The live hub: joins the pure core to MQTT, the records and the log.

One thread, the caller of `run`, drives two connections and calls the core; records are written by a thread of their
own. Asks come on a connection of their own whose session outlives this process, so that what devices publish while
no hub runs is delivered when one does. The hubs of a broker share them, and one takes over the session of another
that is gone.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import math
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from hub import events, wire
from hub.accounts import Heard
from hub.audience import Audience, Listener, RecordSink
from hub.broker_url import BrokerUrl
from hub.core import Core
from hub.errors import LinkError, WireError
from hub.handlers import Handlers, Received, Will
from hub.heritage import SESSION_S, Heritage, session_of
from hub.loop import Loop
from hub.mqtt_link import WITH_THE_CONNECTION, Link
from hub.objective import Objective, ranking
from hub.presence import Presence
from hub.route_spans import RouteSpans
from hub.shares import Rate
from hub.trace_context import trace_in

log = logging.getLogger(__name__)
T = TypeVar("T")

COUNTERS_EVERY_S: Final = 10.0
OFFERS_EVERY_S: Final = 1.0
ACCEPT_S: Final = 0.3  # that a hub which ends waits for the broker to accept what it has sent
LINGER_S: Final = 1.0  # that a hub which ends waits for what nodes are about to report


class HubService:
    """A hub named `name` on one broker. `records` may be None: then nothing is kept.

    `listeners` hear what happens; `heard` is what the records of the time before tell of the nodes' answers.
    `desired_heard` gets what any node is told to serve, by name, in the loop's thread; without it nobody looks.

    `alone` is for a broker that ends with this hub: it takes all asks, with a subscription that is not shared, and
    other hubs refuse to run beside it. rumqttd 0.20 needs that: it panics where the last member of a share leaves
    asks unacknowledged.
    """

    def __init__(
        self,
        broker: str | BrokerUrl,
        name: str,
        records: RecordSink | None,
        objective: Objective = "fleet",
        *,
        device_rate: Rate | None = None,
        device_in_flight: int | None = None,
        fair_shares: bool = False,
        alone: bool = False,
        listeners: Sequence[Listener] = (),
        heard: Mapping[str, Heard] | None = None,
        desired_heard: Callable[[str, bytes], None] | None = None,
    ) -> None:
        url = BrokerUrl.of(broker)
        self._url = url
        self._alone = alone
        self.name = name
        self._spans = RouteSpans(name)
        self._audience = Audience(records, listeners, self._spans)
        self._core = Core(
            name,
            new_id=lambda: uuid.uuid4().hex,
            rank=ranking(objective),
            draw=random.random,
            device_rate=device_rate,
            device_in_flight=device_in_flight,
            fair_shares=fair_shares,
            heard=heard,
        )
        self._desired_heard = desired_heard
        self._stopping = False
        self._logged_counters: dict[str, int] = {}
        self._core_ticket: dict[int, int] = {}  # the link's ticket -> the core's
        self._offers: tuple[wire.Offer, ...] = ()
        self._loop = Loop()
        self._presence = Presence(
            self._loop,
            url,
            wire.Topic("hub_state", name),
            lambda epoch: self._publish_state(
                wire.HubState(epoch=epoch, status="ready", offers=self._offers, alone=alone)
            ),
        )
        desired = [] if desired_heard is None else [wire.Topic.all_of("desired")]
        self._link = Link(
            url,
            url.owned(f"hub-{name}"),
            Handlers(
                received=self._received,
                opened=self._opened,
                closed=self._closed,
                accepted=self._accepted,
            ),
            subscriptions=[
                (wire.Topic.all_of("hub_state"), 1),
                (wire.Topic.all_of("node_state"), 1),
                (wire.Topic.all_of("report"), 1),
                *((topic, 1) for topic in desired),
            ],
            will=self._next_will,
            retained=[wire.Topic.all_of("hub_state"), wire.Topic.all_of("node_state"), *desired],
        )
        all_asks, shares = wire.Topic.all_of("ask"), wire.Topic.shared("ask", url.owned(wire.ASK_GROUP))
        self._asks = Link(
            url,
            url.owned(session_of(name)),
            Handlers(received=self._received_ask, opened=self._asks_opened),
            subscriptions=[(all_asks if alone else shares, 1)],
            dropped=[] if alone else [all_asks],  # of a hub of version 0.1, or one that was alone
            session_expiry_s=SESSION_S,
            by_hand=True,
            heritable=True,
        )
        self._heritage = Heritage(self._loop, url, self._received_ask, self._asks_taken_over)
        self._loop.add(self._link)

    def run(self) -> None:
        """Route until `stop`. Raises LinkError when the broker refuses this hub or gives its name away."""
        self._loop.call_at(time.monotonic() + COUNTERS_EVERY_S, self._log_counters)
        self._loop.call_at(time.monotonic() + OFFERS_EVERY_S, self._offer)
        try:
            while not self._stopping:
                self._turn(math.inf)
            self._turn_while(lambda: bool(self._core_ticket), ACCEPT_S)  # else their asks would be delivered again
            self._heritage.close()
            self._asks.leave()  # first: another hub takes this session over as soon as it reads `offline`
            self._turn_while(lambda: self._core.in_flight > 0, LINGER_S)
        finally:
            self._heritage.close()
            self._asks.leave()
            self._audience.tell()
            if self._link.is_open:
                self._publish_state(wire.HubState(epoch=self._presence.epoch, status="offline"))
            self._link.flush()
            self._loop.close()

    def stop(self) -> None:
        """End `run`; from any thread or signal handler."""
        self._stopping = True
        self._loop.call_soon(lambda: None)

    @property
    def ready(self) -> bool:
        """Whether it takes questions and can send work; from any thread."""
        return self._link.is_open and self._asks.is_open and not self._stopping

    def call(self, function: Callable[[Core, float], T]) -> concurrent.futures.Future[T]:
        """What `function` says of the core now; from any thread. It runs in the loop's thread, so it must be short."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(self._core, time.monotonic()))
                except Exception as error:  # the asking thread's business
                    future.set_exception(error)

        self._loop.call_soon(run)
        return future

    def drain(self, node: str, *, on: bool) -> None:
        """Tell `node` to take nothing new, or to take questions again; from any thread.

        Its state shows when it does.
        """
        self._loop.call_soon(lambda: self._do(events.PublishControl(node=node, control=wire.Drain(on=on))))

    def publish_desired(self, node: str, desired: wire.Desired) -> None:
        """Tell `node`, retained, what it is to serve; from any thread."""
        topic, payload = str(wire.Topic("desired", node)), wire.encode(desired)
        self._loop.call_soon(lambda: self._publish_retained(topic, payload))

    def _publish_retained(self, topic: str, payload: bytes) -> None:
        self._link.publish(topic, payload, qos=1, retain=True)

    def _turn_while(self, condition: Callable[[], bool], limit_s: float) -> None:
        until = time.monotonic() + limit_s
        while condition() and self._link.is_open and time.monotonic() < until:
            self._turn(until)

    def _turn(self, until: float) -> None:
        """Let the loop do what there is to do, once, and the core what is due."""
        wake_at = min(self._core.next_wake(time.monotonic()) or math.inf, until)
        self._loop.run_once(max(wake_at - time.monotonic(), 0.0))
        self._audience.tell()
        if time.monotonic() >= wake_at:
            self._handle(events.TimePassed())

    # --- in the loop's thread ---------------------------------------------------------------------------

    def _next_will(self) -> Will:
        state = wire.HubState(epoch=self._presence.next_epoch(), status="offline")
        return Will(self._presence.topic, wire.encode(state))

    def _publish_state(self, state: wire.HubState) -> None:
        self._link.publish(self._presence.topic, wire.encode(state), qos=1, retain=True)

    def _opened(self) -> None:
        self._show_if_open()
        self._handle(events.LinkOpened())
        self._asks.paused = False
        self._loop.add(self._asks)  # asks are taken only once there is a link to send their work over

    def _asks_opened(self) -> None:
        log.info("hub %s takes questions at %s", self.name, self._asks.url)
        self._show_if_open()

    def _show_if_open(self) -> None:
        """A hub is `ready` once it hears asks and can send work."""
        if self.ready:
            self._presence.opened()

    def _closed(self, why: str) -> None:
        self._core_ticket.clear()
        self._presence.closed(self._link)
        self._asks.paused = True  # another hub may take that session over; it is not to be fought for from here
        self._heritage.close()
        self._handle(events.LinkClosed())

    def _accepted(self, ticket: int) -> None:
        core_ticket = self._core_ticket.pop(ticket, None)
        if core_ticket is not None:
            self._handle(events.PublishAccepted(core_ticket))

    def _received(self, message: Received) -> None:
        if message.topic == self._presence.topic:
            self._received_own_state(message)
            return
        if message.topic.startswith(f"{wire.PREFIX}/hub/"):
            self._refuse_company(message)
        elif self._desired_heard is not None and message.topic.endswith("/desired"):
            if (topic := wire.Topic.parse(message.topic)) is not None:
                self._desired_heard(topic.name, message.payload)
            return
        self._handle(events.MessageReceived(topic=message.topic, payload=message.payload, retained=message.retained))

    def _received_own_state(self, message: Received) -> None:
        try:
            self._presence.received(message.payload)
        except WireError as error:
            log.warning("dropped a message on %s: %s", message.topic, error)

    def _refuse_company(self, message: Received) -> None:
        """Two hubs of which one takes every ask would answer each question twice."""
        with contextlib.suppress(WireError):  # the core counts it
            other = wire.decode_hub_presence(message.payload) if message.payload else None
            if other is not None and other.alone and not self._alone and other.status == "ready":
                raise LinkError(
                    f"the broker at {self._url} belongs to the hub on {message.topic}, which takes every question: "
                    "for several hubs start a broker of its own, and every hub with --broker"
                )

    def _asks_taken_over(self, hub: str) -> None:
        self._handle(events.AsksTakenOver(hub))

    def _received_ask(self, message: Received) -> None:
        if self._stopping:
            return  # it is not acknowledged, so the next hub gets it
        self._handle(
            events.MessageReceived(
                topic=message.topic,
                payload=message.payload,
                retained=message.retained,
                receipt=message.receipt,
                response_topic=message.response_topic,
                correlation=message.correlation,
                expiry_s=message.expiry_s,
                again=message.again,
                trace=trace_in(message.user_properties) if message.user_properties else None,
            )
        )

    def _handle(self, event: events.Event) -> None:
        for effect in self._core.handle(event, time.monotonic()):
            self._do(effect)

    def _do(self, effect: events.Effect) -> None:
        if isinstance(effect, events.PublishWork):
            self._publish_work(effect)
        elif isinstance(effect, events.PublishFailure):
            self._publish_failure(effect)
        elif isinstance(effect, events.PublishControl):
            topic = str(wire.Topic("control", effect.node))
            # A lost ping tells something. A Cancel must not overtake its Work, which waits where many are not accepted.
            qos = 0 if isinstance(effect.control, wire.Ping) else 1
            self._link.publish(topic, wire.encode(effect.control), qos=qos, until=WITH_THE_CONNECTION)
        elif isinstance(effect, events.AcknowledgeAsk):
            self._asks.acknowledge(effect.receipt)
            self._heritage.acknowledge(effect.receipt)
        elif isinstance(effect, (events.LogDecision, events.StoreRecord, events.EndTrace, events.StoreNote)):
            self._audience.later(effect)
        elif not self._alone:
            self._do_with_peers(effect)

    def _do_with_peers(self, effect: events.HearWork | events.TakeOverAsks | events.ForgetHub) -> None:
        if isinstance(effect, events.TakeOverAsks):
            self._heritage.take_over(effect.hub)
        elif isinstance(effect, events.ForgetHub):
            log.info("hub %s is gone: nothing is left of it", effect.hub)
            self._link.publish(str(wire.Topic("hub_state", effect.hub)), b"", qos=1, retain=True)
        elif effect.on:
            log.info("hub %s is not the only one here", self.name)
            self._link.subscribe(wire.Topic.all_of("work"), qos=0, others_only=True)
        else:
            log.info("hub %s is the only one here", self.name)
            self._link.unsubscribe(wire.Topic.all_of("work"))

    def _publish_work(self, effect: events.PublishWork) -> None:
        trace = self._spans.sent(effect)
        ticket = self._link.publish(
            str(wire.Topic("work", effect.node)),
            wire.encode(effect.work),
            qos=1,
            expiry_s=max(math.ceil(effect.work.budget_ms / 1000), 1),
            user_properties=() if trace is None else trace.properties(),
            until=WITH_THE_CONNECTION,  # the core sends anew what is still wanted, with the budget that is left
        )
        self._core_ticket[ticket] = effect.ticket

    def _publish_failure(self, effect: events.PublishFailure) -> None:
        error = effect.failure.error
        log.info("failed %s: %s (%s)", effect.failure.id, error.code, error.message)
        if effect.plain:
            payload, marks = error.message.encode(), [(wire.ERROR_PROPERTY, error.code)]
        else:
            payload, marks = wire.encode(effect.failure), []
        ticket = self._link.publish(
            effect.reply_to,
            payload,
            qos=1,
            correlation=effect.correlation,
            user_properties=marks,
            until=WITH_THE_CONNECTION,
        )
        self._core_ticket[ticket] = effect.ticket

    def _offer(self) -> None:
        """Let agents know at what terms the fleet answers, where these have changed."""
        offers = self._core.offers(time.monotonic())
        if offers != self._offers:
            self._offers = offers
            self._presence.changed()
        self._loop.call_at(time.monotonic() + OFFERS_EVERY_S, self._offer)

    def _log_counters(self) -> None:
        counters = dict(self._core.counters)
        if counters != self._logged_counters:
            self._logged_counters = counters
            log.info("counters: %s", ", ".join(f"{name} {count}" for name, count in sorted(counters.items())))
        self._loop.call_at(time.monotonic() + COUNTERS_EVERY_S, self._log_counters)
