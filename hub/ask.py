"""Asks a question over MQTT and gets exactly one outcome back, by its deadline: the asker other programs import.

    with Asker("mqtt://127.0.0.1:1883", "kitchen") as asker:
        outcome = asker.ask(Question(question="What is the capital of France?"))

The question is repeated, with the same id and what is left of its budget, after a reconnect and after a silence;
whatever comes twice is dropped. It tells how long earlier ones took, for the fleet's records. The asker knows nothing
of hubs and nodes, only of the ask and answer topics.
"""

from __future__ import annotations

import collections
import concurrent.futures
import heapq
import itertools
import math
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Final

import msgspec

from hub import ask_span, tracing, wire
from hub.broker_url import BrokerUrl
from hub.errors import LinkError, WireError
from hub.handlers import Handlers, Received
from hub.heard import Heard
from hub.loop import Loop
from hub.mqtt_link import WITH_THE_CONNECTION, Link

# Questions without an outcome at a time; more wait here. Brokers hold only so many for a hub (Mosquitto: 1,000), drop
# the rest without a word, and each one dropped would be asked again by a crowd of them.
MOST_OPEN: Final = 256
_EARLIER_BYTES: Final = 1024 * wire.MAX_EARLIER  # an id of 128 characters, escaped, and two numbers, for each
SILENCES_S: Final = (1.0, 2.0, 4.0)  # then the last one again and again


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The one terminal outcome of a question, and the asker's own clock.

    `network_ms` is what neither queue nor compute at the node explains. `own_timer` marks a `deadline` failure
    that came from no hub: nothing was heard in time.
    """

    reply: wire.Answer | wire.Failure
    total_ms: float
    own_timer: bool = False

    @property
    def network_ms(self) -> float:
        """Milliseconds outside the answering node; all of them for a failure."""
        if isinstance(self.reply, wire.Failure):
            return self.total_ms
        timing = self.reply.timing_ms
        return max(self.total_ms - timing.queue - timing.compute, 0.0)


class _Pending:
    """A question under way, and when to do something about it next."""

    def __init__(self, question: wire.Question, on_text: Callable[[int, str], None] | None, now: float) -> None:
        self.question = question
        self.on_text = on_text
        self.future: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
        self.future.set_running_or_notify_cancel()  # a question under way cannot be taken back
        self.asked_at = now
        self.deadline_at = now + (question.deadline_ms or wire.DEFAULT_DEADLINE_MS) / 1000
        self.wake = -1  # the number of its entry in the heap that counts
        self.repeats = 0
        self.repeat_at = math.inf
        self.shown = (0, -1)  # attempt and sequence number of the last chunk that was shown
        self.shown_of = ""  # the node that it came from
        self.first_at: float | None = None  # when its first text was here
        self.earlier: tuple[wire.Earlier, ...] | None = None  # what it tells of questions before it, once it was asked
        self.span: tracing.Span | None = None  # however often it is asked
        self.torn = 0  # the last attempt of which a chunk got lost: the whole comes with the answer

    def next_wake(self) -> float:
        return min(self.deadline_at, self.repeat_at)

    def payload(self, now: float) -> tuple[bytes, int]:
        """The question with what is left of its budget, and the Message Expiry that goes with it."""
        left_ms = max((self.deadline_at - now) * 1000, 1.0)
        question = msgspec.structs.replace(self.question, deadline_ms=left_ms, earlier=self.earlier or ())
        return wire.encode(question), max(math.ceil(left_ms / 1000), 1)

    @property
    def has_room(self) -> bool:
        """Whether the question may tell of others without becoming too large."""
        return len(wire.encode(self.question)) < wire.MAX_QUESTION_BYTES - _EARLIER_BYTES

    def trace_properties(self) -> list[tuple[str, str]]:
        context = None if self.span is None else self.span.context
        return [] if context is None else context.properties()

    def repeated(self, now: float) -> None:
        self.repeat_at = now + SILENCES_S[min(self.repeats, len(SILENCES_S) - 1)]
        self.repeats += 1

    def took(self, now: float) -> wire.Earlier:
        """How long it took, by this clock."""
        assert self.question.id is not None
        first_ms = None if self.first_at is None else (self.first_at - self.asked_at) * 1000
        return wire.Earlier(id=self.question.id, total_ms=(now - self.asked_at) * 1000, first_ms=first_ms)

    def show(self, chunk: wire.Chunk) -> None:
        """One attempt is shown, up to a gap; a newer attempt starts over, an older one is dropped.

        Two hubs that do not know of each other yet can have two nodes at it under one number: the first is shown.
        """
        if self.on_text is None or (chunk.attempt, chunk.seq) <= self.shown or chunk.attempt <= self.torn:
            return
        if chunk.attempt == self.shown[0] and chunk.node != self.shown_of:
            return
        expected = self.shown[1] + 1 if chunk.attempt == self.shown[0] else 0
        if chunk.seq != expected:
            self.torn = chunk.attempt
            return
        self.shown, self.shown_of = (chunk.attempt, chunk.seq), chunk.node
        self.on_text(chunk.attempt, chunk.text)


class Asker:
    """Asks for one device, from any thread. One background thread drives the connection.

    Raises LinkError at once for a malformed URL, IdentityError for files of TLS that cannot be used; a broker that is
    away is waited for, question by question, until the deadline. By TLS: `Asker(BrokerUrl.parse("mqtts://HOST",
    Tls(ca, cert, key)), "kitchen")`; where one side does not trust the other, `ask` raises LinkError, but a `patient`
    asker goes on trying.
    """

    def __init__(self, broker: str | BrokerUrl, device: str, *, patient: bool = False) -> None:
        if not wire.is_name(device):
            raise LinkError(f"{device!r} cannot name a device: use 1 to 64 letters, digits, '.', '_' or '-'")
        self.device = device
        self._pending: dict[str, _Pending] = {}
        self._wakes: list[tuple[float, int, _Pending]] = []  # a heap; of a question the last entry counts
        self._order = itertools.count()
        self._waiting: collections.deque[_Pending] = collections.deque()
        self._asked: dict[str, _Pending] = {}  # of the pending ones those that do not wait
        self._heard = Heard()
        self._lock = threading.Lock()  # between `submit` and the end of the thread; all else is the thread's own
        self._stopping = False
        self._fatal: LinkError | None = None
        self._loop = Loop()
        self._link = Link(
            BrokerUrl.of(broker),
            f"ask-{device}-{uuid.uuid4().hex[:12]}",
            Handlers(received=self._received, opened=self._opened),
            subscriptions=[(str(wire.Topic("answer", device)), 1)],
            gives_up=not patient,
        )
        self._loop.add(self._link)
        self._thread = threading.Thread(target=self._run, name=f"asker-{device}", daemon=True)

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End; questions still under way get their `deadline` failure now."""
        self._loop.call_soon(self._stop)
        self._thread.join()

    @property
    def is_open(self) -> bool:
        """Whether the broker is there now."""
        return self._link.is_open

    def ask(self, question: wire.Question, *, on_text: Callable[[int, str], None] | None = None) -> Outcome:
        """Ask and wait for the outcome. `on_text(attempt, text)` sees a streamed answer as it grows.

        Raises LinkError when the broker refuses us for good.
        """
        return self.submit(question, on_text=on_text).result()

    def submit(
        self, question: wire.Question, *, on_text: Callable[[int, str], None] | None = None
    ) -> concurrent.futures.Future[Outcome]:
        """Ask without waiting; `on_text` is called in the asker's thread."""
        if question.id is None:
            question = msgspec.structs.replace(question, id=uuid.uuid4().hex)
        pending = _Pending(question, on_text, time.monotonic())
        assert question.id is not None
        with self._lock:
            if self._fatal is not None:
                raise self._fatal
            self._pending[question.id] = pending
            pending.span = ask_span.begun(question, self.device, self._link.url)
        self._loop.call_soon(lambda: self._take(pending))
        return pending.future

    # --- in the asker's thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                now = time.monotonic()
                wake_at = self._wakes[0][0] if self._wakes else now + 1.0
                self._loop.run_once(max(wake_at - now, 0.0))
                self._wake_due(time.monotonic())
        except LinkError as error:
            with self._lock:
                self._fatal = error
            for pending in self._pending.values():
                ask_span.broken(pending.span)
                pending.future.set_exception(error)
        finally:
            self._loop.close()

    def _stop(self) -> None:
        for pending in list(self._pending.values()):
            self._end_by_own_timer(pending, time.monotonic(), "the asker was closed")
        self._stopping = True

    def _take(self, pending: _Pending) -> None:
        self._waiting.append(pending)
        self._wake_later(pending)
        self._ask_waiting()

    def _ask_waiting(self) -> None:
        now = time.monotonic()
        while self._waiting and len(self._asked) < MOST_OPEN:
            pending = self._waiting.popleft()
            if not pending.future.done():
                assert pending.question.id is not None
                self._asked[pending.question.id] = pending
                pending.repeat_at = now
                self._wake(pending, now)

    def _wake_due(self, now: float) -> None:
        while self._wakes and self._wakes[0][0] <= now:
            _, number, pending = heapq.heappop(self._wakes)
            if number == pending.wake:
                self._wake(pending, now)

    def _wake(self, pending: _Pending, now: float) -> None:
        """Do what is due for a question, if it is still open, and see to it again when the next is."""
        if pending.future.done():
            return
        if now >= pending.deadline_at:
            where = "" if self._link.is_open else f": {self._link.url} cannot be reached"
            self._end_by_own_timer(pending, now, f"no answer within the deadline{where}")
            return
        if now >= pending.repeat_at and self._link.is_open:
            self._publish(pending, now)
        elif now >= pending.repeat_at:
            pending.repeat_at = math.inf  # `opened` asks again
        self._wake_later(pending)

    def _wake_later(self, pending: _Pending) -> None:
        """At its next time; any earlier entry for it counts no more."""
        pending.wake = next(self._order)
        heapq.heappush(self._wakes, (pending.next_wake(), pending.wake, pending))

    def _publish(self, pending: _Pending, now: float) -> None:
        if pending.earlier is None:
            pending.earlier = self._heard.take() if pending.has_room else ()
        payload, expiry_s = pending.payload(now)
        assert pending.question.id is not None
        pending.repeated(now)
        self._link.publish(
            str(wire.Topic("ask", self.device)),
            payload,
            qos=1,
            correlation=pending.question.id.encode(),
            response_topic=str(wire.Topic("answer", self.device)),
            expiry_s=expiry_s,
            user_properties=pending.trace_properties(),
            until=WITH_THE_CONNECTION,  # `_opened` asks again, with the budget that is left
        )

    def _opened(self) -> None:
        now = time.monotonic()
        for pending in self._asked.values():
            self._publish(pending, now)
            self._wake_later(pending)

    def _received(self, message: Received) -> None:
        try:
            reply = wire.decode_reply(message.payload)
        except WireError:
            return  # a plain-text answer to another client of this device, or noise
        pending = self._pending.get(reply.id)
        if pending is None:
            return
        now = time.monotonic()
        if isinstance(reply, wire.Chunk):
            pending.first_at = pending.first_at or now
            pending.show(reply)
            return
        self._end(pending, Outcome(reply=reply, total_ms=(now - pending.asked_at) * 1000), now)

    def _end_by_own_timer(self, pending: _Pending, now: float, why: str) -> None:
        assert pending.question.id is not None
        failure = wire.Failure(id=pending.question.id, error=wire.Problem(code="deadline", message=why))
        total_ms = (now - pending.asked_at) * 1000
        self._heard.give_back(pending.earlier or ())
        self._end(pending, Outcome(reply=failure, total_ms=total_ms, own_timer=True), now)

    def _end(self, pending: _Pending, outcome: Outcome, now: float) -> None:
        assert pending.question.id is not None
        self._heard.ended(pending.took(now))
        del self._pending[pending.question.id]
        self._asked.pop(pending.question.id, None)
        ask_span.ended(pending.span, outcome.reply, max(pending.repeats - 1, 0))
        pending.future.set_result(outcome)
        if self._waiting:
            self._loop.call_soon(self._ask_waiting)
