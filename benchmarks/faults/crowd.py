"""Those who ask: devices with `hub.ask.Asker`, and devices that know plain MQTT and repeat what is not answered.

Each is behind a gate of its own. Notes what was asked and how it ended, and knows nothing of what should have been.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

from hub import wire
from hub.ask import Asker, Outcome
from hub.broker_url import BrokerUrl
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link

from .gate import Gate
from .history import Asked, Ended, Log
from .overhear import outcome_of
from .questions import Planned

REPEAT_S: Final = 2.0


class Crowd:
    """Everybody who asks. `plain` devices send bare text."""

    def __init__(self, log: Log, gates: dict[str, Gate], plain: Sequence[str]) -> None:
        self._log = log
        self._askers = {name: Asker(gate.url, name) for name, gate in gates.items() if name not in plain}
        self._plain = {name: PlainClient(log, gates[name].url, name) for name in plain}

    def start(self) -> None:
        for asker in self._askers.values():
            asker.__enter__()
        for client in self._plain.values():
            client.start()

    @property
    def is_open(self) -> bool:
        """Whether everybody has a connection."""
        askers = all(asker.is_open for asker in self._askers.values())
        return askers and all(client.is_open for client in self._plain.values())

    def ask_all(self, questions: Sequence[Planned], start_s: float) -> None:
        """Ask each at its time, whatever became of those before; returns when the last one is asked."""
        pause = threading.Event()
        for planned in questions:
            pause.wait(max(start_s + planned.at_s - time.monotonic(), 0.0))
            self.ask(planned)

    def ask(self, planned: Planned) -> None:
        now = time.monotonic()
        plain = planned.device in self._plain
        self._log.add(
            Asked(
                device=planned.device,
                id=planned.id,
                at_s=now,
                deadline_s=now + planned.deadline_s,
                text=planned.text,
                plain=plain,
                streamed=planned.streamed and not plain,
            )
        )
        if plain:
            self._plain[planned.device].submit(planned, now + planned.deadline_s)
            return
        question = wire.Question(
            id=planned.id,
            question=planned.text,
            deadline_ms=planned.deadline_s * 1000,
            max_tokens=64,
            stream=planned.streamed,
        )
        shown = Shown()
        future = self._askers[planned.device].submit(question, on_text=shown.show if planned.streamed else None)
        future.add_done_callback(lambda future: self._ended(planned, future, shown))

    def close(self) -> None:
        for asker in self._askers.values():
            asker.close()
        for client in self._plain.values():
            client.close()

    def _ended(self, planned: Planned, future: Future[Outcome], shown: Shown) -> None:
        now = time.monotonic()
        outcome = future.result()
        reply = outcome.reply
        answered = isinstance(reply, wire.Answer)
        self._log.add(
            Ended(
                device=planned.device,
                id=planned.id,
                at_s=now,
                code="answered" if isinstance(reply, wire.Answer) else reply.error.code,
                text=reply.text if isinstance(reply, wire.Answer) else None,
                node=reply.node if isinstance(reply, wire.Answer) else None,
                own_timer=outcome.own_timer,
                shown=shown.text if planned.streamed and answered else None,
            )
        )


class Shown:
    """What an asker was shown of a streamed answer: the text of the last attempt."""

    def __init__(self) -> None:
        self._attempt = 0
        self.text = ""

    def show(self, attempt: int, text: str) -> None:
        if attempt != self._attempt:
            self._attempt, self.text = attempt, ""
        self.text += text


class PlainClient:
    """A device without our library: repeats a question every two seconds, and takes the first outcome of each."""

    def __init__(self, log: Log, url: str, device: str) -> None:
        self._log = log
        self._device = device
        self._open: dict[str, tuple[Planned, float]] = {}
        self._due: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._stopping = threading.Event()
        self._loop = Loop()
        self._link = Link(
            BrokerUrl.parse(url),
            f"plain-{device}",
            Handlers(received=self._received),
            subscriptions=[(str(wire.Topic("answer", device)), 1)],
        )
        self._loop.add(self._link)
        self._thread = threading.Thread(target=self._run, name=device, daemon=True)

    @property
    def is_open(self) -> bool:
        return self._link.is_open

    def start(self) -> None:
        self._thread.start()

    def submit(self, planned: Planned, deadline_s: float) -> None:
        """From any thread."""
        self._loop.call_soon(lambda: self._take(planned, deadline_s))

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    # --- in its thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            self._loop.run_once(min(max(self._due[0][0] - now, 0.0), 0.1) if self._due else 0.1)
            while self._due and self._due[0][0] <= time.monotonic():
                self._wake(heapq.heappop(self._due)[2])
        self._loop.close()

    def _take(self, planned: Planned, deadline_s: float) -> None:
        self._open[planned.id] = planned, deadline_s
        self._wake(planned.id)

    def _wake(self, question_id: str) -> None:
        if question_id not in self._open:
            return
        planned, deadline_s = self._open[question_id]
        now = time.monotonic()
        if now >= deadline_s:
            self._end(question_id, "deadline", None, own_timer=True)
            return
        if self._link.is_open:
            self._link.publish(
                str(wire.Topic("ask", self._device)),
                planned.text.encode(),
                qos=1,
                correlation=question_id.encode(),
                expiry_s=max(math.ceil(deadline_s - now), 1),
            )
        again_s = now + (REPEAT_S if self._link.is_open else 0.2)
        heapq.heappush(self._due, (min(again_s, deadline_s), next(self._order), question_id))

    def _received(self, message: Received) -> None:
        found = outcome_of(message)
        if found is not None and found[0] in self._open:
            answered = found[1] == "answered"
            self._end(found[0], found[1], message.payload.decode(errors="replace") if answered else None)

    def _end(self, question_id: str, code: str, text: str | None, *, own_timer: bool = False) -> None:
        del self._open[question_id]
        now = time.monotonic()
        self._log.add(Ended(device=self._device, id=question_id, at_s=now, code=code, text=text, own_timer=own_timer))
