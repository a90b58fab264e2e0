"""One MQTT 5 connection: how does it connect, subscribe, publish, and come back? The only file that imports paho.

It knows nothing of what the messages mean, nor whose turn it is: a `hub.loop.Loop` calls it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import select
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from hub import attempts, tcp
from hub.attempts import Attempts
from hub.broker_url import BrokerUrl
from hub.dial import Dial
from hub.errors import IdentityError, LinkError
from hub.handlers import Handlers, Will, received_from
from hub.properties import PublishProperties
from hub.receipts import Receipts, next_receipt
from hub.tickets import Tickets
from hub.tls import refusal

log = logging.getLogger(__name__)

KEEPALIVE_S: Final = 5
WITH_THE_CONNECTION: Final = -math.inf  # `until` of what its owner sends anew over the next one
_TAKEN_OVER: Final = 0x8E  # MQTT 5, 3.14.2.1: Session taken over
_FATAL_CONNACK: Final = {0x84, 0x85, 0x86, 0x87, 0x8A}  # version, client id, credentials, authorization, banned
_READS_A_TURN: Final = 16  # packets of one connection, before what they led to is written


class Link:
    """One connection to a broker: connects, subscribes, publishes, and comes back when it breaks.

    `subscriptions` are (filter, qos); `opened` is called each time they stand. Of the filters in `retained`, what the
    broker has kept comes with QoS 0: of QoS 1 Mosquitto gives a subscriber the first thousand and drops the rest.
    `dropped` are filters that a kept session may still have. With `will`, a function, each connection gets a fresh
    will, so that a raised epoch goes into it. QoS 1 publishes outlive a reconnect.
    A `by_hand` link acknowledges in order of receipt, whatever the order of `acknowledge` calls. With `look_first` no
    attempt to connect ever holds up the loop: a thread looks whether the broker can be reached, which takes a round
    trip more. By TLS none ever does. The session of a `heritable` link may be taken by another client: then the
    connection is lost like any other.

    A link that `gives_up` raises LinkError where TLS shows that one side does not trust the other. Others say so once
    and go on trying: certificates are renewed, and the clock of a machine without a battery may be wrong as it starts.
    Raises IdentityError where the files of TLS cannot be used.
    """

    def __init__(
        self,
        url: BrokerUrl,
        client_id: str,
        handlers: Handlers,
        *,
        subscriptions: Iterable[tuple[str, int]] = (),
        will: Callable[[], Will] | None = None,
        session_expiry_s: int = 0,
        by_hand: bool = False,
        look_first: bool = False,
        dropped: Iterable[str] = (),
        heritable: bool = False,
        retained: Iterable[str] = (),
        gives_up: bool = False,
    ) -> None:
        if url.tls is not None:
            url.tls.client_context()  # what is wrong with its files is said now
        self.url = url
        self.client_id = client_id
        self.is_open = False
        self.paused = False  # while set, a broken connection is not made again
        self._handlers = handlers
        kept = list(retained)
        self._subscriptions = [(topic, SubscribeOptions(qos=0)) for topic in kept]
        self._subscriptions += [(topic, _options(qos, no_retained=topic in kept)) for topic, qos in subscriptions]
        self._dropped = list(dropped)
        self._heritable = heritable
        self._will = will
        self._session_expiry_s = session_expiry_s
        self._tickets = Tickets()
        self._by_hand = by_hand
        self._receipts = Receipts()
        self._fatal: str | None = None
        self._is_reading = False
        self._leaving = False
        self._gives_up = gives_up
        self._said: set[str] = set()  # reasons for being closed that the log has, since it was open last
        self._is_answered = False  # the broker has answered on this connection
        self._dial: Dial | None = None
        self._attempts = Attempts(url.host, url.port, look_first=look_first)
        self._client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=by_hand,
        )
        self._client.username = url.username
        self._client.password = url.password
        self._client.on_socket_open = _sends_at_once
        self._client.on_socket_register_write = _written_by_the_loop
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._client.on_disconnect = self._on_disconnect

    # --- what the owner calls ---------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int,
        retain: bool = False,
        correlation: bytes | None = None,
        response_topic: str | None = None,
        expiry_s: int | None = None,
        user_properties: Iterable[tuple[str, str]] = (),
        until: float = math.inf,
    ) -> int:
        """Publish; returns the ticket that `accepted` gets when the broker has acknowledged (QoS 1 only).

        While the link is down QoS 1 waits for the next connection and QoS 0 is dropped. What the broker has not
        acknowledged is sent again over the next connection, if that is made before `until` (`time.monotonic`).
        """
        ticket = self._tickets.next_ticket()
        if qos == 0 and not self.is_open:
            return ticket
        properties = PublishProperties(correlation, response_topic, expiry_s, user_properties)
        info = self._client.publish(topic, payload, qos, retain, properties)  # type: ignore[arg-type]  # it only packs them
        if qos > 0:
            self._tickets.published(info.mid, ticket, time.monotonic() if self.is_open else None, until)
        return ticket

    def acknowledge(self, receipt: int) -> None:
        """Let the broker forget a message; unknown receipts (of an earlier connection) are ignored."""
        for mid, qos in self._receipts.acknowledged(receipt):
            self._client.ack(mid, qos)

    @property
    def is_settled(self) -> bool:
        """Every message that came has been acknowledged."""
        return not self._receipts

    @property
    def round_trip_ms(self) -> float | None:
        """To the broker and back, a running mean; None before the first of a connection."""
        return self._tickets.round_trip_ms

    def subscribe(self, topic: str, *, qos: int, others_only: bool = False) -> None:
        """Receive `topic` from now on; with `others_only` but for what this link publishes, if the broker can tell."""
        wanted = (topic, SubscribeOptions(qos=qos, noLocal=others_only))
        self._subscriptions = [each for each in self._subscriptions if each[0] != topic] + [wanted]
        if self._client.is_connected():
            self._client.subscribe([wanted])

    def unsubscribe(self, topic: str) -> None:
        """Receive `topic` no more."""
        self._subscriptions = [each for each in self._subscriptions if each[0] != topic]
        if self._client.is_connected():
            self._client.unsubscribe(topic)

    def leave(self, *, for_good: bool = False) -> None:
        """Say goodbye to the broker, so that it does not publish the will, and `for_good` keeps no session either."""
        self._leaving = True
        self._abandon()
        if self._client.socket() is not None:
            properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            if for_good:
                properties.SessionExpiryInterval = 0
            self._client.disconnect(properties=properties if for_good else None)
            self.flush()

    def flush(self, limit_s: float = 1.0) -> None:
        """Write out what is queued, for at most `limit_s` seconds."""
        end = time.monotonic() + limit_s
        while (sock := self._client.socket()) is not None and self._client.want_write():
            remaining_s = end - time.monotonic()
            if remaining_s <= 0 or not tcp.takes_more(sock, remaining_s):
                return
            self._client.loop_write()

    # --- what the loop calls ----------------------------------------------------------------------------

    @property
    def due_at(self) -> float | None:
        """When it is to be tended: to connect, or to read what is here already; None while neither is its wish."""
        if tcp.has_pending(self._client.socket()):
            return -math.inf
        return None if self.paused else self._attempts.due_at

    def fileno_and_mask(self) -> tuple[int, int] | None:
        """The socket to wait on, and for what; None while there is none."""
        if self._dial is not None:
            return self._dial.fileno(), select.POLLIN
        sock = self._client.socket()
        if sock is None:
            return None
        return sock.fileno(), select.POLLIN | (select.POLLOUT if self._client.want_write() else 0)

    def read(self) -> None:
        """Take what has come. Raises LinkError when going on is pointless."""
        if self._dial is not None:
            self._take_dialled(self._dial)
            self._raise_if_fatal()
            return
        self._is_reading = True
        try:
            for _ in range(_READS_A_TURN):
                self._client.loop_read()
                sock = self._client.socket()
                if sock is None or not tcp.has_more(sock):
                    break
        finally:
            self._is_reading = False
        sock = self._client.socket()
        if sock is not None:
            tcp.acknowledge_at_once(sock)
        self._raise_if_fatal()

    def write(self) -> None:
        """Write what waits, in as few segments as hold it. Raises LinkError when going on is pointless.

        Within a handler nothing is written, but after it: paho holds a lock there that it takes to write QoS 0.
        """
        sock = self._client.socket()
        if sock is None or self._is_reading or not self._client.want_write():
            return
        tcp.cork(sock, on=True)
        self._client.loop_write()
        if self._client.socket() is sock:
            tcp.cork(sock, on=False)
        self._raise_if_fatal()

    def tend(self, now: float) -> None:
        """Keepalive, and connecting again when it is time. Raises LinkError when going on is pointless."""
        self._client.loop_misc()
        if tcp.has_pending(self._client.socket()):
            self.read()
        due_at = self.due_at
        if due_at is not None and due_at > -math.inf and now >= due_at and not self._leaving:
            self._try_to_connect(now)
        self._raise_if_fatal()

    # --- inside -----------------------------------------------------------------------------------------

    def _try_to_connect(self, now: float) -> None:
        if self.url.tls is not None:
            self._attempts.begun()
            self._dial = Dial(self.url.host, self.url.port, self.url.tls)
            return
        may_connect = self._attempts.may_connect(now)
        if may_connect:
            self._connect()
        elif may_connect is not None:
            self._lost(f"cannot connect to {self.url}: it does not answer")

    def _take_dialled(self, dial: Dial) -> None:
        if self.paused:
            self._abandon()
            self._attempts.wait(time.monotonic(), 0.0)  # as soon as it is paused no more
            return
        self._dial = None
        try:
            self._client.dialled = dial.take()
        except (OSError, IdentityError) as error:
            if not self._distrusted(error):
                self._lost(f"cannot connect to {self.url}: {error}")
            return
        self._connect()

    def _distrusted(self, error: Exception) -> bool:
        """Whether the connection ended for want of trust."""
        why = refusal(error)
        if why is None:
            return False
        why = f"cannot connect to {self.url}: {why}"
        if self._gives_up:
            self._fatal = why
        self._lost(why, attempts.DISTRUST_RETRY_S)
        return True

    def _abandon(self) -> None:
        if self._dial is not None:
            self._dial.abandon()
            self._dial = None

    def _connect(self) -> None:
        self._attempts.begun()
        self._is_answered = False
        # paho lets this be set only before the first connection, though it reads it at each one.
        self._client._connect_timeout = self._attempts.limit_s
        self._drop_outdated(time.monotonic())
        if self._will is not None:
            will = self._will()
            self._client.will_set(will.topic, will.payload, qos=1, retain=True)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session_expiry_s
        # A session is kept across processes where one was asked for (a hub's asks), else only within this one.
        clean = self._session_expiry_s == 0
        started = time.monotonic()
        try:
            self._client.connect(self.url.host, self.url.port, KEEPALIVE_S, clean_start=clean, properties=properties)
        except OSError as error:
            self._attempts.failed(time.monotonic() - started)
            self._lost(f"cannot connect to {self.url}: {error}")

    def _drop_outdated(self, now: float) -> None:
        """Before connecting: let paho forget what must not be sent again, for which it has no public name."""
        for mid in self._tickets.drop_outdated(now):
            with self._client._out_message_mutex:
                self._client._out_messages.pop(mid, None)

    def _lost(self, why: str, least_wait_s: float = 0.0) -> None:
        was_open, self.is_open = self.is_open, False
        self._receipts.clear()
        self._tickets.lost()
        if self._leaving:
            return
        is_news = was_open or (self._fatal is None and why not in self._said)
        (log.warning if is_news else log.debug)("%s: %s", self.client_id, why)
        self._said.add(why)
        self._attempts.wait(time.monotonic(), random.uniform(0.5, 1.0), least_wait_s)  # noqa: S311 (spread, no secret)
        if was_open:
            self._handlers.closed(why)

    def _raise_if_fatal(self) -> None:
        if self._fatal is None:
            return
        if self._handlers.refused is None:
            raise LinkError(self._fatal)
        if not self._leaving:
            self._leaving = True
            self._handlers.refused(self._fatal)

    def _on_connect(self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._is_answered = True
        if reason.is_failure:
            if reason.value in _FATAL_CONNACK:
                self._fatal = f"{self.url} refused {self.client_id!r}: {reason}"
            return
        if self._dropped and flags.session_present:
            client.unsubscribe(self._dropped)
        if self._subscriptions:
            client.subscribe(self._subscriptions)
        else:
            self._opened()

    def _on_subscribe(self, client: paho.Client, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._fatal = f"{self.url} refused a subscription of {self.client_id!r}: {refused[0]}"
        elif not self.is_open:  # else it was one more, on a connection that stands
            self._opened()

    def _opened(self) -> None:
        self.is_open = True
        self._said.clear()
        self._attempts.succeeded()
        self._handlers.opened()

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        receipt = next_receipt()
        if self._by_hand:
            self._receipts.came(receipt, message.mid, message.qos)
        try:
            received = received_from(message, receipt)
        except UnicodeDecodeError:  # MQTT forbids it in a topic; a broker that lets it pass must not stop us
            self.acknowledge(receipt)
            return
        self._handlers.received(received)

    def _on_publish(self, client: paho.Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        if reason.is_failure and (why := f"{self.url} refuses what this client publishes: {reason}") not in self._said:
            self._said.add(why)
            log.warning("%s: %s: it may publish only what is its own", self.client_id, why)
        ticket = self._tickets.accepted(mid, time.monotonic())
        if ticket is not None:
            self._handlers.accepted(ticket)

    def _on_disconnect(self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        taken_over = flags.is_disconnect_packet_from_server and reason.value == _TAKEN_OVER
        if taken_over and not self._heritable:
            self._fatal = f"another client took over the name {self.client_id!r} at {self.url}: give each its own"
        broken, self._client.broken = self._client.broken, None
        if broken is not None and not self._is_answered and self._distrusted(broken):
            return
        hint = "" if self._is_answered or self.url.tls is not None else "; if it speaks TLS there, use mqtts://"
        self._lost(f"connection to {self.url} lost: {reason}{hint}")


class _Client(paho.Client):
    """paho's, over a connection by TLS that was `dialled` before, where there is one; `broken` is why TLS ended it."""

    dialled: ssl.SSLSocket | None = None
    broken: ssl.SSLError | None = None

    def _create_socket(self) -> Any:
        dialled, self.dialled = self.dialled, None
        return super()._create_socket() if dialled is None else dialled

    def _sock_recv(self, bufsize: int) -> bytes:
        try:
            return super()._sock_recv(bufsize)
        except ssl.SSLError as error:  # in TLS 1.3 a client hears only then that its certificate was refused
            self.broken = error
            raise

    def _sock_send(self, buf: bytes | bytearray) -> int:
        try:
            return super()._sock_send(buf)
        except BlockingIOError:
            raise
        except OSError:  # closed by the other side, who may have said why
            with contextlib.suppress(OSError):
                self._sock_recv(1)
            raise


def _options(qos: int, *, no_retained: bool) -> SubscribeOptions:
    handling = SubscribeOptions.RETAIN_DO_NOT_SEND if no_retained else SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
    return SubscribeOptions(qos=qos, retainHandling=handling)


def _sends_at_once(client: paho.Client, userdata: Any, sock: Any) -> None:
    tcp.send_at_once(sock)


def _written_by_the_loop(client: paho.Client, userdata: Any, sock: Any) -> None:
    """With this callback paho leaves writing to its owner, who does it once a turn."""
