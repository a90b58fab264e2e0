"""A node that answers at once: what is left of a round trip when the model costs nothing.

    python benchmarks/noop_node.py --broker mqtt://127.0.0.1:1883 --node noop-1 [--answer-ms 30 [--parallel 1]]

It is the real `AgentService` over an answerer that does nothing, or takes its time. It also echoes `bench/direct/ask`
to `bench/direct/answer` over a link of its own, so that a benchmark can ask the very same process without a hub.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import signal
import threading
import time
from collections.abc import Callable, Hashable
from typing import Final, Literal

import msgspec

from edge_agent.errors import RequestError
from edge_agent.runtime.generation import Answerer, Generation, OneByOne
from edge_agent.service import AgentService
from hub import wire
from hub.broker_url import BrokerUrl
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link

DIRECT_ASK = "bench/direct/ask"
DIRECT_ANSWER = "bench/direct/answer"
BUNDLE = "noop-desktop-cpu-000000000000"
STEP_S: Final = 0.005


class Noop:
    """Answers every question at once with one word."""

    served = wire.ServedBundle(
        bundle=BUNDLE,
        model="noop",
        task="text-generation",
        context=4096,
        fixed_ms=0.01,
        prefill_ms_per_token=0.0,
        decode_ms_per_token=0.0,
    )

    def tend(self) -> None:
        """It costs nothing, ever."""

    def answer(
        self, question: wire.Question, *, should_stop: Callable[[], bool], on_text: Callable[[str], None] | None = None
    ) -> Generation:
        return generation(question, "yes", "stop", 0.0)


class Patient:
    """Answers each question after `answer_ms` in its own words, which are streamed one by one; many at once."""

    def __init__(self, answer_ms: float, parallel: int = 16) -> None:
        self._answer_ms = answer_ms
        self.parallel = parallel
        self._begun: dict[int, _Begun] = {}
        self._tickets = itertools.count()
        self.served = msgspec.structs.replace(Noop.served, fixed_ms=answer_ms)

    def begin(
        self, question: wire.Question, *, should_stop: Callable[[], bool], on_text: Callable[[str], None] | None = None
    ) -> int:
        ticket = next(self._tickets)
        self._begun[ticket] = _Begun(question, should_stop, on_text, time.monotonic())
        return ticket

    def advance(self) -> list[tuple[Hashable, Generation | RequestError]]:
        if self._begun:
            time.sleep(STEP_S)
        ended: list[tuple[Hashable, Generation | RequestError]] = []
        for ticket, begun in list(self._begun.items()):
            passed_ms = (time.monotonic() - begun.at_s) * 1000
            finish: Literal["stop", "cancelled"] = "cancelled" if begun.should_stop() else "stop"
            begun.show(min(passed_ms / self._answer_ms, 1.0))
            if finish == "cancelled" or passed_ms >= self._answer_ms:
                del self._begun[ticket]
                ended.append((ticket, generation(begun.question, " ".join(begun.words), finish, passed_ms)))
        return ended

    def abandon(self) -> None:
        self._begun.clear()

    def tend(self) -> None:
        """Its time is its own choice."""


class _Begun:
    """A question of `Patient`, and how many of its words were shown."""

    def __init__(
        self,
        question: wire.Question,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None,
        at_s: float,
    ) -> None:
        self.question, self.should_stop, self.at_s = question, should_stop, at_s
        self.words = question.turns()[-1].split(" ")
        self._on_text = on_text
        self._shown = 0

    def show(self, share: float) -> None:
        """Let this share of the words be seen."""
        upto = int(share * len(self.words))
        if self._on_text is not None and upto > self._shown:
            self._on_text(" " * (self._shown > 0) + " ".join(self.words[self._shown : upto]))
        self._shown = max(upto, self._shown)


def generation(question: wire.Question, text: str, finish: Literal["stop", "cancelled"], took_ms: float) -> Generation:
    return Generation(
        text=text,
        token_ids=(1,),
        finish=finish,
        tokens=wire.Tokens(prompt=len(question.turns()[0]) // 4, completion=1),
        prefill_ms=0.0,
        decode_ms=0.0,
        compute_ms=took_ms,
    )


def echo(broker: str, stopping: threading.Event) -> None:
    """Answer direct questions until told to stop."""
    loop = Loop()

    def received(message: Received) -> None:
        link.publish(DIRECT_ANSWER, message.payload, qos=1, correlation=message.correlation)

    link = Link(BrokerUrl.parse(broker), "bench-echo", Handlers(received=received), subscriptions=[(DIRECT_ASK, 1)])
    loop.add(link)
    while not stopping.is_set():
        loop.run_once(0.2)
    loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A node that answers at once.")
    parser.add_argument("--broker", required=True)
    parser.add_argument("--node", default="noop")
    parser.add_argument("--answer-ms", type=float, help="take that long, and answer in the question's own words")
    parser.add_argument("--parallel", type=int, default=16, help="so many at once, with --answer-ms")
    parser.add_argument("--no-direct", action="store_true", help="answer what hubs send, and nothing else")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s %(message)s")
    stopping = threading.Event()
    direct = threading.Thread(target=echo, args=(options.broker, stopping))
    if not options.no_direct:
        direct.start()
    answerer: Answerer = OneByOne(Noop()) if options.answer_ms is None else Patient(options.answer_ms, options.parallel)
    service = AgentService(options.broker, options.node, {BUNDLE: answerer})
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: service.stop())
    try:
        service.run()
    finally:
        stopping.set()
        if direct.is_alive():
            direct.join()


if __name__ == "__main__":
    main()
