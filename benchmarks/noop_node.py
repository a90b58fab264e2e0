"""A node that answers at once: what is left of a round trip when the model costs nothing.

    python benchmarks/noop_node.py --broker mqtt://127.0.0.1:1883 --node noop-1 [--answer-ms 30] [--repeat]

It is the real `AgentService` over an answerer that does nothing, or takes its time. It also echoes `bench/direct/ask`
to `bench/direct/answer` over a link of its own, so that a benchmark can ask the very same process without a hub.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
import time
from collections.abc import Callable

from edge_agent.runtime.generation import Generation, OneByOne
from edge_agent.service import AgentService
from hub import wire
from hub.mqtt_link import BrokerUrl, Handlers, Link, Loop, Received

DIRECT_ASK = "bench/direct/ask"
DIRECT_ANSWER = "bench/direct/answer"
BUNDLE = "noop-desktop-cpu-000000000000"


class Noop:
    """Answers every question after `answer_ms`: with one word, or with `repeat` in the question's own words, which are
    streamed one by one.
    """

    def __init__(self, answer_ms: float = 0.0, *, repeat: bool = False) -> None:
        self._answer_ms = answer_ms
        self._repeat = repeat
        self.served = wire.ServedBundle(
            bundle=BUNDLE,
            model="noop",
            task="text-generation",
            context=4096,
            fixed_ms=max(answer_ms, 0.01),
            prefill_ms_per_token=0.0,
            decode_ms_per_token=0.0,
        )

    def tend(self) -> None:
        """It costs nothing, ever."""

    def answer(
        self, question: wire.Question, *, should_stop: Callable[[], bool], on_text: Callable[[str], None] | None = None
    ) -> Generation:
        words = question.turns()[-1].split(" ") if self._repeat else ["yes"]
        stopped = False
        for number, word in enumerate(words):
            if self._answer_ms:
                time.sleep(self._answer_ms / 1000 / len(words))
            if stopped := should_stop():
                break
            if on_text is not None:
                on_text(f" {word}" if number else word)
        return Generation(
            text=" ".join(words),
            token_ids=(1,),
            finish="cancelled" if stopped else "stop",
            tokens=wire.Tokens(prompt=len(question.turns()[0]) // 4, completion=len(words)),
            prefill_ms=0.0,
            decode_ms=0.0,
            compute_ms=self._answer_ms,
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
    parser.add_argument("--answer-ms", type=float, default=0.0, help="how long an answer takes")
    parser.add_argument("--repeat", action="store_true", help="answer in the question's own words, and stream them")
    parser.add_argument("--no-direct", action="store_true", help="answer what hubs send, and nothing else")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s %(message)s")
    stopping = threading.Event()
    direct = threading.Thread(target=echo, args=(options.broker, stopping))
    if not options.no_direct:
        direct.start()
    answerer = Noop(options.answer_ms, repeat=options.repeat)
    service = AgentService(options.broker, options.node, {BUNDLE: OneByOne(answerer)})
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
