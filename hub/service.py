"""The live hub: joins the pure core to MQTT, the records and the log.

One thread, the caller of `run`, drives two connections and calls the core; records are written by a thread of their
own. Asks come on a connection of their own whose session outlives this process, so that what devices publish while
no hub runs is delivered when one does.
"""

from __future__ import annotations

import logging
import math
import random
import time
import uuid
from typing import Final, Protocol

from hub import events, wire
from hub.core import Core
from hub.errors import WireError
from hub.explain import decision_line
from hub.mqtt_link import WITH_THE_CONNECTION, BrokerUrl, Handlers, Link, Loop, Received, Will
from hub.objective import Objective, ranking
from hub.presence import Presence
from hub.shares import Rate

log = logging.getLogger(__name__)

ASK_SESSION_S: Final = 3600  # how long the broker keeps asks for a hub that is away; each has its own expiry besides
COUNTERS_EVERY_S: Final = 10.0
OFFERS_EVERY_S: Final = 1.0


class RecordSink(Protocol):
    """Where records go; must not block."""

    def store(self, record: events.Record, wall_time_s: float) -> None:
        """Keep one record."""
        ...


class HubService:
    """A hub named `name` on one broker. `records` may be None: then nothing is kept."""

    def __init__(
        self,
        broker: str,
        name: str,
        records: RecordSink | None,
        objective: Objective = "fleet",
        *,
        device_rate: Rate | None = None,
        fair_shares: bool = False,
    ) -> None:
        url = BrokerUrl.parse(broker)
        self.name = name
        self._records = records
        self._core = Core(
            name,
            new_id=lambda: uuid.uuid4().hex,
            rank=ranking(objective),
            draw=random.random,
            device_rate=device_rate,
            fair_shares=fair_shares,
        )
        self._stopping = False
        self._logged_counters: dict[str, int] = {}
        self._core_ticket: dict[int, int] = {}  # the link's ticket -> the core's
        self._unwritten: list[events.LogDecision | events.StoreRecord] = []  # lines and rows, while messages go first
        self._offers: tuple[wire.Offer, ...] = ()
        self._loop = Loop()
        self._presence = Presence(
            self._loop,
            url,
            wire.Topic("hub_state", name),
            lambda epoch: self._publish_state(wire.HubState(epoch=epoch, status="ready", offers=self._offers)),
        )
        self._link = Link(
            url,
            f"hub-{name}",
            Handlers(
                received=self._received,
                opened=self._opened,
                closed=self._closed,
                accepted=self._accepted,
            ),
            subscriptions=[
                (self._presence.topic, 1),
                (wire.Topic.all_of("node_state"), 1),
                (wire.Topic.all_of("report"), 1),
            ],
            will=self._next_will,
        )
        self._asks = Link(
            url,
            f"hub-{name}-asks",
            Handlers(received=self._received_ask, opened=self._asks_opened),
            subscriptions=[(wire.Topic.all_of("ask"), 1)],
            session_expiry_s=ASK_SESSION_S,
            by_hand=True,
        )
        self._loop.add(self._link)

    def run(self) -> None:
        """Route until `stop`. Raises LinkError when the broker refuses this hub or gives its name away."""
        self._loop.call_at(time.monotonic() + COUNTERS_EVERY_S, self._log_counters)
        self._loop.call_at(time.monotonic() + OFFERS_EVERY_S, self._offer)
        try:
            while not self._stopping:
                wake_at = self._core.next_wake(time.monotonic())
                self._loop.run_once(math.inf if wake_at is None else max(wake_at - time.monotonic(), 0.0))
                self._write_down()
                if wake_at is not None and time.monotonic() >= wake_at:
                    self._handle(events.TimePassed())
        finally:
            self._write_down()
            if self._link.is_open:
                self._publish_state(wire.HubState(epoch=self._presence.epoch, status="offline"))
            self._link.flush()
            self._loop.close()

    def stop(self) -> None:
        """End `run`; from any thread or signal handler."""
        self._stopping = True
        self._loop.call_soon(lambda: None)

    # --- in the loop's thread ---------------------------------------------------------------------------

    def _next_will(self) -> Will:
        state = wire.HubState(epoch=self._presence.next_epoch(), status="offline")
        return Will(self._presence.topic, wire.encode(state))

    def _publish_state(self, state: wire.HubState) -> None:
        self._link.publish(self._presence.topic, wire.encode(state), qos=1, retain=True)

    def _opened(self) -> None:
        self._show_if_open()
        self._handle(events.LinkOpened())
        self._loop.add(self._asks)  # asks are taken only once there is a link to send their work over

    def _asks_opened(self) -> None:
        log.info("hub %s takes questions at %s", self.name, self._asks.url)
        self._show_if_open()

    def _show_if_open(self) -> None:
        """A hub is `ready` once it hears asks and can send work."""
        if self._link.is_open and self._asks.is_open:
            self._presence.opened()

    def _closed(self, why: str) -> None:
        self._core_ticket.clear()
        self._presence.closed(self._link)
        self._handle(events.LinkClosed())

    def _accepted(self, ticket: int) -> None:
        core_ticket = self._core_ticket.pop(ticket, None)
        if core_ticket is not None:
            self._handle(events.PublishAccepted(core_ticket))

    def _received(self, message: Received) -> None:
        if message.topic == self._presence.topic:
            self._received_own_state(message)
            return
        self._handle(events.MessageReceived(topic=message.topic, payload=message.payload, retained=message.retained))

    def _received_own_state(self, message: Received) -> None:
        try:
            self._presence.received(message.payload)
        except WireError as error:
            log.warning("dropped a message on %s: %s", message.topic, error)

    def _received_ask(self, message: Received) -> None:
        self._handle(
            events.MessageReceived(
                topic=message.topic,
                payload=message.payload,
                retained=message.retained,
                receipt=message.receipt,
                response_topic=message.response_topic,
                correlation=message.correlation,
                expiry_s=message.expiry_s,
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
        else:
            self._unwritten.append(effect)

    def _write_down(self) -> None:
        """Log decisions and keep records, now that what they led to travels."""
        for effect in self._unwritten:
            if isinstance(effect, events.LogDecision):
                log.info("%s", decision_line(effect.decision))
            elif self._records is not None:
                self._records.store(effect.record, time.time() - effect.ago_ms / 1000)
        self._unwritten.clear()

    def _publish_work(self, effect: events.PublishWork) -> None:
        ticket = self._link.publish(
            str(wire.Topic("work", effect.node)),
            wire.encode(effect.work),
            qos=1,
            expiry_s=max(math.ceil(effect.work.budget_ms / 1000), 1),
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
