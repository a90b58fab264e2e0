"""A node that answers at once: what is left of a round trip when the model costs nothing.

    python benchmarks/noop_node.py --broker mqtt://127.0.0.1:1883 --node noop-1

It is the real `AgentService` over an answerer that does nothing. It also echoes `bench/direct/ask` to
`bench/direct/answer` over a link of its own, so that a benchmark can ask the very same process without a hub.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable

from edge_agent.runtime.generation import Generation, OneByOne
from edge_agent.service import AgentService
from hub import wire
from hub.mqtt_link import BrokerUrl, Handlers, Link, Loop, Received

DIRECT_ASK = "bench/direct/ask"
DIRECT_ANSWER = "bench/direct/answer"
BUNDLE = "noop-desktop-cpu-000000000000"


class Noop:
    """Answers every question with one word, after `delay_ms`."""

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
        return Generation(
            text="yes",
            token_ids=(1,),
            finish="stop",
            tokens=wire.Tokens(prompt=len(question.turns()[0]) // 4, completion=1),
            prefill_ms=0.0,
            decode_ms=0.0,
            compute_ms=0.0,
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
    options = parser.parse_args()
    stopping = threading.Event()
    direct = threading.Thread(target=echo, args=(options.broker, stopping))
    direct.start()
    service = AgentService(options.broker, options.node, {BUNDLE: OneByOne(Noop())})
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: service.stop())
    try:
        service.run()
    finally:
        stopping.set()
        direct.join()


if __name__ == "__main__":
    main()
