"""How long does it take to choose among many nodes, and how many of their state messages does a hub take?

Fills the hub's own core with nodes through its own messages, answers its pings, and times decisions over unlike
questions; then it gives the core state messages that all differ, as nodes publish them. No socket is involved.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from hub import events, wire
from hub.core import Core
from hub.eligible import Features
from hub.few import FEW, PRICINGS, choose_among_few
from hub.objective import Objective, ranking
from hub.router import choose

DECISIONS = 300
STATES_A_QUESTION = 20


def filled(nodes: int, draw: random.Random) -> tuple[Core, float]:
    """A core that knows `nodes` unlike nodes at unlike distances, and the time that it is there."""
    core = Core("bench", new_id=lambda: "drawn", settle_s=0.0)
    now = 1000.0
    core.handle(events.LinkOpened(), now)
    for number in range(nodes):
        name = f"n{number:05d}"
        served = _bundle(number, draw)
        state = wire.NodeState(epoch=1, status="ready", bundles=(served,))
        topic = wire.Topic("node_state", name)
        effects = core.handle(events.MessageReceived(topic=str(topic), payload=wire.encode(state)), now)
        pings = [effect.control for effect in effects if isinstance(effect, events.PublishControl)]
        for ping in pings:
            assert isinstance(ping, wire.Ping)
            pong = wire.Pong(hub="bench", seq=ping.seq, hold_ms=0.1)
            message = events.MessageReceived(topic=str(wire.Topic("report", name)), payload=wire.encode(pong))
            core.handle(message, now + draw.uniform(0.001, 0.2))
    return core, now + 0.3


def decisions_ms(nodes: int, objective: Objective) -> list[float]:
    """Milliseconds of each of DECISIONS choices among `nodes`."""
    draw = random.Random(nodes)
    core, now = filled(nodes, draw)
    rank = ranking(objective)
    taken = []
    for number in range(DECISIONS):
        question = Features(
            device="d",
            id=str(number),
            attempt=1,
            task="text-generation",
            model=None,
            chars=draw.randrange(10, 2000),
            max_tokens=None,
            expected_tokens=draw.uniform(4, 300),
            budget_ms=30_000.0,
        )
        at = now + number * 0.001
        started = time.perf_counter()
        if core.fleet.size <= FEW:  # as the core does
            decision = choose_among_few(question, core.fleet, at, pricing=PRICINGS[rank])
        else:
            decision = choose(question, core.fleet, at, rank=rank)
        taken.append((time.perf_counter() - started) * 1000)
        assert decision.chosen is not None
    return taken


def states_a_second(nodes: int, states: int) -> float:
    """State messages a second that a core with `nodes` takes, with a question placed after every twentieth."""
    core, now = filled(nodes, random.Random(nodes))
    messages = list(_states(nodes, states))
    question = wire.encode(wire.Question(question="What is the capital of France?"))
    started = time.perf_counter()
    for number, message in enumerate(messages):
        now += 0.003
        core.handle(message, now)
        if number % STATES_A_QUESTION == 0:
            ask = events.MessageReceived(topic=str(wire.Topic("ask", f"d{number}")), payload=question)
            effects = core.handle(ask, now)
            assert any(isinstance(effect, events.PublishWork) for effect in effects), effects
    return states / (time.perf_counter() - started)


def _bundle(node: int, draw: random.Random) -> wire.ServedBundle:
    """One of seven bundles, at a cost of this node's own."""
    return wire.ServedBundle(
        bundle=f"bundle-{node % 7}",
        model="model",
        task="text-generation",
        context=4096,
        fixed_ms=draw.uniform(1, 20),
        prefill_ms_per_token=draw.uniform(0.1, 2),
        decode_ms_per_token=draw.uniform(2, 60),
    )


def _states(nodes: int, states: int) -> Iterator[events.MessageReceived]:
    """Of all nodes in turn: costs and backlog change from one to the next."""
    draw = random.Random(states)
    for number in range(states):
        served = _bundle(number % nodes, draw)
        backlog = wire.Backlog(questions=draw.randrange(3), ms=draw.uniform(0, 500))
        state = wire.NodeState(epoch=1, status="ready", bundles=(served,), backlog=backlog)
        yield events.MessageReceived(
            topic=f"{wire.Topic('node_state', f'n{number % nodes:05d}')}", payload=wire.encode(state)
        )
