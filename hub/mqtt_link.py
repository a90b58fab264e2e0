"""MQTT 5 connections that answer in under a millisecond; the only file that imports paho.

A `Loop` drives any number of `Link`s, timers and calls from other threads, all in the thread that calls
`run_once`. It knows nothing of what the messages mean.

Two socket options make the difference between 88 ms and 0.65 ms for a request and its reply: `TCP_NODELAY`, which
paho never sets, and `TCP_QUICKACK`, which the kernel forgets and which is therefore set again after each read.

What a turn of the loop publishes is written at its end, all of a connection at once: each write by itself wakes the
broker, and that costs more than all else that a small message does.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import logging
import math
import random
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers
from paho.mqtt.subscribeoptions import SubscribeOptions

from hub import reach
from hub.errors import LinkError
from hub.reach import Reach

log = logging.getLogger(__name__)

KEEPALIVE_S: Final = 5
FIRST_RETRY_S: Final = 0.1
LAST_RETRY_S: Final = 1.0  # who has 5 s of a broker to answer in must not spend them waiting to connect
WITH_THE_CONNECTION: Final = -math.inf  # `until` of what its owner sends anew over the next one
CONNECT_LIMIT_S: Final = 2.0  # of an attempt that nothing is known about: everything else waits for it
SLOW_CONNECT_S: Final = 0.5
LOOK_EVERY_S: Final = 0.02
_ROUND_TRIP_STEP: Final = 0.2  # of the way to each new sample
_receipts = itertools.count(1)  # over all links, so that a receipt names its message whichever link brought it
_TAKEN_OVER: Final = 0x8E  # MQTT 5, 3.14.2.1: Session taken over
_FATAL_CONNACK: Final = {
    0x84,
    0x85,
    0x86,
    0x87,
    0x8A,
}  # version, client id, credentials, authorization, banned
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_CORK: Final[int | None] = getattr(socket, "TCP_CORK", None)
_READS_A_TURN: Final = 16  # packets of one connection, before what they led to is written


class BrokerUrl(msgspec.Struct, frozen=True):
    """Where a broker listens, and as whom to log in. Its text never holds the password.

    >>> str(BrokerUrl.parse("mqtt://anna:secret@broker.local"))
    'mqtt://anna:***@broker.local:1883'
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> BrokerUrl:
        """Raises LinkError when `url` is not `mqtt://[user[:password]@]host[:port]`."""
        try:
            parts = urlsplit(url if "://" in url else f"mqtt://{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise LinkError(f"not a broker URL ({error}): use mqtt://HOST:PORT") from None
        if parts.scheme != "mqtt" or not host or parts.path not in ("", "/") or parts.query or port == 0:
            raise LinkError("not a broker URL: use mqtt://[USER:PASSWORD@]HOST[:PORT]")
        user, password = parts.username, parts.password
        return cls(host, port or 1883, None if user is None else unquote(user), password and unquote(password))

    def __str__(self) -> str:
        login = "" if self.username is None else f"{self.username}{':***' if self.password else ''}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt://{login}{host}:{self.port}"

    def __repr__(self) -> str:
        return f"BrokerUrl({str(self)!r})"


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it came. `receipt` is to be given to `Link.acknowledge` where the link acknowledges by hand."""

    topic: str
    payload: bytes
    retained: bool
    receipt: int
    response_topic: str | None
    correlation: bytes | None
    expiry_s: int | None
    user_properties: tuple[tuple[str, str], ...]


class Will(msgspec.Struct, frozen=True):
    """What the broker publishes, retained, when this connection breaks."""

    topic: str
    payload: bytes


class Handlers(msgspec.Struct, frozen=True, kw_only=True):
    """What a link calls, always in the loop's thread."""

    received: Callable[[Received], None]
    opened: Callable[[], None] = lambda: None
    closed: Callable[[str], None] = lambda why: None
    accepted: Callable[[int], None] = lambda ticket: None
    refused: Callable[[str], None] | None = None  # instead of LinkError, where one can do without the link


class Link:
    """One connection to a broker: connects, subscribes, publishes, and comes back when it breaks.

    `subscriptions` are (filter, qos); `opened` is called each time they stand. With `will`, a function, each
    connection gets a fresh will, so that a raised epoch goes into it. QoS 1 publishes outlive a reconnect.
    A `by_hand` link acknowledges in order of receipt, whatever the order of `acknowledge` calls: MQTT 5 demands
    it (4.6) and rumqttd drops clients that do otherwise. With `look_first` no attempt to connect ever holds up the
    loop: a thread looks whether the broker can be reached, which takes a round trip more. `dropped` are filters that
    a kept session may still have. The session of a `heritable` link may be taken by another client: then the
    connection is lost like any other.
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
    ) -> None:
        self.url = url
        self.client_id = client_id
        self.is_open = False
        self.paused = False  # while set, a broken connection is not made again
        self._handlers = handlers
        self._subscriptions = [(topic, SubscribeOptions(qos=qos)) for topic, qos in subscriptions]
        self._dropped = list(dropped)
        self._heritable = heritable
        self._will = will
        self._session_expiry_s = session_expiry_s
        self._tickets = itertools.count(1)
        self._ticket_of_mid: dict[int, tuple[int, float | None]] = {}  # and when it was written, if to an open link
        self._until_of_mid: dict[int, float] = {}
        self.round_trip_ms: float | None = None  # to the broker and back, a running mean; None before the first
        self._unacknowledged: collections.OrderedDict[int, tuple[int, int]] = collections.OrderedDict()
        self._acknowledged: set[int] = set()
        self._fatal: str | None = None
        self._is_reading = False
        self._leaving = False
        self._retry_s = FIRST_RETRY_S
        self._connected_once = False
        self._look_first = look_first
        self._was_slow = look_first  # the last attempt to connect took long to fail
        self._reach: Reach | None = None
        self.retry_at: float | None = 0.0  # when to connect next; None while a connection is up or under way
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=by_hand,
        )
        self._client.connect_timeout = CONNECT_LIMIT_S
        self._client.username = url.username
        self._client.password = url.password
        self._client.on_socket_open = self._on_socket_open
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
        ticket = next(self._tickets)
        if qos == 0 and not self.is_open:
            return ticket
        properties = _PublishProperties(correlation, response_topic, expiry_s, user_properties)
        info = self._client.publish(topic, payload, qos, retain, properties)  # type: ignore[arg-type]  # it only packs them
        if qos > 0:
            self._ticket_of_mid[info.mid] = ticket, time.monotonic() if self.is_open else None
            if until < math.inf:
                self._until_of_mid[info.mid] = until
        return ticket

    def acknowledge(self, receipt: int) -> None:
        """Let the broker forget a message; unknown receipts (of an earlier connection) are ignored."""
        if receipt not in self._unacknowledged:
            return
        self._acknowledged.add(receipt)
        while self._unacknowledged:
            first, (mid, qos) = next(iter(self._unacknowledged.items()))
            if first not in self._acknowledged:
                return
            del self._unacknowledged[first]
            self._acknowledged.discard(first)
            if qos:
                self._client.ack(mid, qos)

    @property
    def is_settled(self) -> bool:
        """Every message that came has been acknowledged."""
        return not self._unacknowledged

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
            if remaining_s <= 0 or not select.select([], [sock], [], remaining_s)[1]:
                return
            self._client.loop_write()

    # --- what the loop calls ----------------------------------------------------------------------------

    def fileno_and_mask(self) -> tuple[int, int] | None:
        """The socket to wait on, and for what; None while there is none."""
        sock = self._client.socket()
        if sock is None:
            return None
        return sock.fileno(), select.POLLIN | (select.POLLOUT if self._client.want_write() else 0)

    def read(self) -> None:
        """Take what has come. Raises LinkError when going on is pointless."""
        self._is_reading = True
        try:
            for _ in range(_READS_A_TURN):
                self._client.loop_read()
                sock = self._client.socket()
                if sock is None or not _has_more(sock):
                    break
        finally:
            self._is_reading = False
        self._rearm_quickack()
        self._raise_if_fatal()

    def write(self) -> None:
        """Write what waits, in as few segments as hold it. Raises LinkError when going on is pointless.

        Within a handler nothing is written, but after it: paho holds a lock there that it takes to write QoS 0.
        """
        sock = self._client.socket()
        if sock is None or self._is_reading or not self._client.want_write():
            return
        _cork(sock, on=True)
        self._client.loop_write()
        if self._client.socket() is sock:
            _cork(sock, on=False)
        self._raise_if_fatal()

    def tend(self, now: float) -> None:
        """Keepalive, and connecting again when it is time. Raises LinkError when going on is pointless."""
        self._client.loop_misc()
        due = self.retry_at is not None and now >= self.retry_at and not self._leaving and not self.paused
        if due and (not self._was_slow or self._reached(now)):
            self._connect()
        self._raise_if_fatal()

    # --- inside -----------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self.retry_at = None
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
            self._was_slow = self._look_first or time.monotonic() - started > SLOW_CONNECT_S
            self._lost(f"cannot connect to {self.url}: {error}")

    def _drop_outdated(self, now: float) -> None:
        """Before connecting: let paho forget what must not be sent again, for which it has no public name."""
        for mid in [mid for mid, until in self._until_of_mid.items() if until <= now]:
            with self._client._out_message_mutex:
                self._client._out_messages.pop(mid, None)
            del self._until_of_mid[mid]
            self._ticket_of_mid.pop(mid, None)

    def _reached(self, now: float) -> bool:
        """Whether the broker can be reached; False until that is known.

        Asked behind an attempt that took long to fail: else everything that this loop serves stands still again and
        again, for as long as the network swallows packets.
        """
        if self._reach is None:
            self._reach = Reach(self.url.host, self.url.port)
        reached = self._reach.reached
        if reached is None:
            self.retry_at = now + LOOK_EVERY_S
            return False
        self._reach = None
        if reached:
            # It may be slow, but it answers. paho lets this be set only before the first connection, though it reads it
            # at each one.
            self._client._connect_timeout = reach.LIMIT_S
        else:
            self._lost(f"cannot connect to {self.url}: it does not answer")
        return reached

    def _lost(self, why: str) -> None:
        was_open, self.is_open = self.is_open, False
        self._unacknowledged.clear()
        self._acknowledged.clear()
        self.round_trip_ms = None
        self._ticket_of_mid = {mid: (ticket, None) for mid, (ticket, _) in self._ticket_of_mid.items()}
        if self._leaving:
            return
        self.retry_at = time.monotonic() + self._retry_s * random.uniform(0.5, 1.0)  # noqa: S311 (spread, no secret)
        (log.warning if was_open or self._retry_s == FIRST_RETRY_S else log.debug)("%s: %s", self.client_id, why)
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
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

    def _rearm_quickack(self) -> None:
        sock = self._client.socket()
        if sock is not None and _QUICKACK is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)  # type: ignore[attr-defined]

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
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
        self._retry_s = FIRST_RETRY_S
        self._handlers.opened()

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        receipt = next(_receipts)
        self._unacknowledged[receipt] = (message.mid, message.qos)
        if not client._manual_ack:  # paho has no public name for its own setting
            del self._unacknowledged[receipt]
        properties = message.properties
        try:
            topic = message.topic
        except UnicodeDecodeError:  # MQTT forbids it; a broker that lets it pass must not stop us
            self.acknowledge(receipt)
            return
        self._handlers.received(
            Received(
                topic=topic,
                payload=bytes(message.payload),
                retained=message.retain,
                receipt=receipt,
                response_topic=getattr(properties, "ResponseTopic", None),
                correlation=getattr(properties, "CorrelationData", None),
                expiry_s=getattr(properties, "MessageExpiryInterval", None),
                user_properties=tuple(getattr(properties, "UserProperty", ())),
            )
        )

    def _on_publish(self, client: paho.Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        ticket, sent_at = self._ticket_of_mid.pop(mid, (None, None))
        self._until_of_mid.pop(mid, None)
        if sent_at is not None:
            sample_ms = (time.monotonic() - sent_at) * 1000
            known_ms = sample_ms if self.round_trip_ms is None else self.round_trip_ms
            self.round_trip_ms = known_ms + _ROUND_TRIP_STEP * (sample_ms - known_ms)
        if ticket is not None:
            self._handlers.accepted(ticket)

    def _on_disconnect(self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        taken_over = flags.is_disconnect_packet_from_server and reason.value == _TAKEN_OVER
        if taken_over and not self._heritable:
            self._fatal = f"another client took over the name {self.client_id!r} at {self.url}: give each its own"
        self._lost(f"connection to {self.url} lost: {reason}")


class _PublishProperties:
    """Properties of a PUBLISH (MQTT 5, 3.3.2.3) as paho packs its own, in a tenth of the time.

    >>> _PublishProperties(b"c", "t", 20, [("k", "v")]).pack().hex(" ")
    '14 02 00 00 00 14 08 00 01 74 09 00 01 63 26 00 01 6b 00 01 76'
    """

    def __init__(
        self,
        correlation: bytes | None,
        response_topic: str | None,
        expiry_s: int | None,
        user_properties: Iterable[tuple[str, str]],
    ) -> None:
        parts = []
        if expiry_s is not None:
            parts.append(b"\x02" + expiry_s.to_bytes(4, "big"))
        if response_topic is not None:
            parts.append(b"\x08" + _with_length(response_topic.encode()))
        if correlation is not None:
            parts.append(b"\x09" + _with_length(correlation))
        for name, value in user_properties:
            parts.append(b"\x26" + _with_length(name.encode()) + _with_length(value.encode()))
        self._packed = b"".join(parts)

    def pack(self) -> bytes:
        """Their length, then they themselves."""
        length: bytes = VariableByteIntegers.encode(len(self._packed))  # type: ignore[no-untyped-call]
        return length + self._packed


def _with_length(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _cork(sock: Any, *, on: bool) -> None:
    """Hold small packets back until a segment is full or this is off again, where the platform can."""
    if _CORK is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _CORK, int(on))


def _has_more(sock: Any) -> bool:
    """Whether something can be read at once."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


def _written_by_the_loop(client: paho.Client, userdata: Any, sock: Any) -> None:
    """With this callback paho leaves writing to its owner, who does it once a turn."""


class Loop:
    """Drives links, timers and calls from other threads, all in one thread.

    >>> loop = Loop()
    >>> loop.call_soon(lambda: print("called"))
    >>> loop.run_once(0)
    called
    >>> loop.close()
    """

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._calls: collections.deque[Callable[[], None]] = collections.deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    def add(self, link: Link) -> None:
        """Start driving `link`, if it is not driven yet; it connects on the next `run_once`."""
        if link not in self._links:
            self._links.append(link)

    def remove(self, link: Link, *, for_good: bool = False) -> None:
        """Leave the broker of `link` and drive it no more; `for_good` keeps no session for it either."""
        link.leave(for_good=for_good)
        self._links.remove(link)

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """Call once `time.monotonic()` has reached `when`."""
        heapq.heappush(self._timers, (when, next(self._order), call))

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call on the next turn; the one method that any thread (or signal handler) may use."""
        self._calls.append(call)
        with contextlib.suppress(OSError):  # full: a wake-up is on its way already; closed: nobody listens any more
            self._wake_out.send(b"\0")

    def run_once(self, limit_s: float) -> None:
        """Wait for at most `limit_s` seconds for something to do, and do it. Raises LinkError."""
        now = time.monotonic()
        for link in list(self._links):
            link.tend(now)
        self._write()
        self._wait_and_serve(min(limit_s, self._time_to_next(time.monotonic())))
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        self._write()

    def close(self) -> None:
        """Leave all brokers and free the sockets."""
        for link in self._links:
            link.leave()
        self._wake_in.close()
        self._wake_out.close()

    def _write(self) -> None:
        for link in list(self._links):
            link.write()

    def _time_to_next(self, now: float) -> float:
        times = [1.0]  # keepalives are looked after at least once a second
        if self._calls:
            times.append(0.0)
        if self._timers:
            times.append(self._timers[0][0] - now)
        times += [link.retry_at - now for link in self._links if link.retry_at is not None and not link.paused]
        return max(min(times), 0.0)

    def _wait_and_serve(self, limit_s: float) -> None:
        poller = select.poll()
        poller.register(self._wake_in.fileno(), select.POLLIN)
        by_fileno: dict[int, Link] = {}
        for link in self._links:
            waiting = link.fileno_and_mask()
            if waiting is not None:
                poller.register(*waiting)
                by_fileno[waiting[0]] = link
        # poll takes whole milliseconds; round up, so that a timer is not polled for in a busy loop
        for fileno, mask in poller.poll(math.ceil(limit_s * 1000)):
            if fileno in by_fileno:
                if mask & ~select.POLLOUT:
                    by_fileno[fileno].read()
            else:
                with contextlib.suppress(BlockingIOError):
                    self._wake_in.recv(4096)
