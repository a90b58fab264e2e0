"""Asks at the times that a schedule intends, whether or not earlier questions have been answered.

    python benchmarks/asking.py --broker URL --device NAME --rate 500 --seconds 5 --seed 1

An open loop: arrivals are a Poisson process, and a latency counts from the *intended* time, not from the time at which
this process came to send. So a hub that stalls is charged for every question that it kept from being asked, and so is
this process when it is late itself (Tene's "coordinated omission"). Prints one JSON line; knows nothing of goals.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import uuid

import msgspec
from bare_mqtt import BareClient, publish, text

from hub import wire

DEADLINE_S = 20
SETTLE_S = 0.3  # between connecting and the first question
QUIET_S = 3.0  # after the last intended time: what has not come by then is given up


class Outcome(msgspec.Struct):
    """Of an answer or a failure, what counts here."""

    id: str
    error: wire.Problem | None = None


class Asked(msgspec.Struct):
    """What became of one schedule. Milliseconds count from the intended times."""

    intended: int
    answered: int
    failed: int
    sent_late_ms: list[float]
    latencies_ms: list[float]
    took_s: float  # from the first intended time to the last answer


def schedule_s(rate: float, seconds: float, seed: int) -> list[float]:
    """When to ask, from 0 on: exponential gaps."""
    draw = random.Random(seed)
    times, at = [], 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        times.append(at)
    return times


def packet(device: str, question_id: str, number: int) -> bytes:
    """A question as a device publishes it."""
    question = wire.Question(id=question_id, question="What is the capital of France?", deadline_ms=DEADLINE_S * 1000.0)
    topic = str(wire.Topic("answer", device))
    properties = b"\x02" + DEADLINE_S.to_bytes(4, "big") + b"\x08" + text(topic)
    return publish(
        str(wire.Topic("ask", device)), wire.encode(question), mid=number % 65_535 + 1, properties=properties
    )


def ask(broker: str, device: str, times_s: list[float]) -> Asked:
    """Ask at these times, counted from now."""
    client = BareClient(broker, f"asking-{device}", [str(wire.Topic("answer", device))])
    run = uuid.uuid4().hex  # no id twice, not over runs either: a hub does not route what it has routed before
    intended_s = {f"{run}-{number}": at for number, at in enumerate(times_s)}
    packets = [packet(device, name, number) for number, name in enumerate(intended_s)]
    decoder = msgspec.json.Decoder(Outcome)
    latencies_ms: dict[str, float] = {}
    late_ms: list[float] = []
    failed = sent = 0
    started = time.perf_counter() + SETTLE_S
    now = last = started
    give_up = started + times_s[-1] + QUIET_S
    while len(latencies_ms) + failed < len(times_s) and now < give_up:
        due = sent
        while due < len(times_s) and started + times_s[due] <= now:
            late_ms.append((now - started - times_s[due]) * 1000)
            due += 1
        if due > sent:
            client.send(b"".join(packets[sent:due]))
            sent = due
        wait_until = started + times_s[sent] if sent < len(times_s) else give_up
        messages = client.receive(wait_until - time.perf_counter())
        now = time.perf_counter()
        for message in messages:
            outcome = decoder.decode(message.payload)
            if outcome.id not in intended_s:
                continue  # of a step before: whose Done was lost is asked again, and answered again
            if outcome.error is not None:
                failed += 1
            elif outcome.id not in latencies_ms:
                latencies_ms[outcome.id] = (now - started - intended_s[outcome.id]) * 1000
                last = now
    client.close()
    return Asked(len(times_s), len(latencies_ms), failed, late_ms, list(latencies_ms.values()), last - started)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask at intended times, an open loop.")
    parser.add_argument("--broker", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asked = ask(options.broker, options.device, schedule_s(options.rate, options.seconds, options.seed))
    print(json.dumps(msgspec.to_builtins(asked)))


if __name__ == "__main__":
    main()
