"""A device with a node of its own, in a fleet that comes and goes: its questions never wait for anybody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent import events as agent_events
from edge_agent.runtime.generation import Generation, OneByOne
from edge_agent.service import AgentService, Own
from hub import events, wire
from hub.ask import Asker
from hub.service import HubService

SERVED = wire.ServedBundle(
    bundle="b", model="m", task="text-generation", context=4096,
    fixed_ms=1.0, prefill_ms_per_token=0.0, decode_ms_per_token=0.0,
)  # fmt: skip


class Teller:
    """Answers with its name, after as long as its bundle says."""

    def __init__(self, name: str, fixed_ms: float) -> None:
        self.name = name
        self.served = msgspec.structs.replace(SERVED, fixed_ms=fixed_ms)
        self.begun = 0

    def tend(self) -> None:
        """It stays as slow as it is."""

    def answer(
        self, question: wire.Question, *, should_stop: Callable[[], bool], on_text: Callable[[str], None] | None = None
    ) -> Generation:
        self.begun += 1
        end = time.monotonic() + self.served.fixed_ms / 1000
        while time.monotonic() < end and not should_stop():
            time.sleep(0.002)
        return Generation(
            text=self.name, token_ids=(1,), finish="cancelled" if should_stop() else "stop",
            tokens=wire.Tokens(prompt=1, completion=1), prefill_ms=0.0, decode_ms=0.0, compute_ms=self.served.fixed_ms,
        )  # fmt: skip


class Rows:
    """What the hub keeps."""

    def __init__(self) -> None:
        self.kept: list[tuple[events.Record, float]] = []

    def store(self, record: events.Record, wall_time_s: float) -> None:
        self.kept.append((record, wall_time_s))

    def note(self, note: events.Note, wall_time_s: float) -> None:
        """Rows only."""


def ask(node: AgentService, text: str = "who?", bundle: str | None = "b", **changes: Any) -> Any:
    """The outcome of a question of this device."""
    told: list[agent_events.Told] = []
    done = threading.Event()

    def tell(one: agent_events.Told) -> None:
        told.append(one)
        if not isinstance(one, str):
            done.set()

    node.ask(wire.Question(question=text, **changes), bundle, tell)
    assert done.wait(15), "no outcome"
    return told[-1]


def test_the_sooner_node_answers_a_device(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None], tmp_path: Path
) -> None:
    """The fleet where it is sooner by the margin, else the device itself, and a model that it lacks from elsewhere."""
    rows = Rows()
    running(HubService(broker_url, "hub", rows))
    slow = AgentService(broker_url, "slow", {"b": OneByOne(Teller("slow", 400.0))}, own=Own(records=tmp_path / "r.db"))
    running(slow)
    running(AgentService(broker_url, "fast", {"b": OneByOne(Teller("fast", 5.0))}))
    other = msgspec.structs.replace(SERVED, bundle="c", model="other")
    third = Teller("third", 5.0)
    third.served = other
    running(AgentService(broker_url, "third", {"c": OneByOne(third)}))
    eventually(lambda: {offer.node for offer in slow.offers} == {"fast", "third"})

    there = ask(slow)
    assert (there.text, there.node) == ("fast", "fast")
    assert there.route.where == "fleet"
    assert there.route.fleet_ms + 50 < there.route.here_ms
    assert there.route.here_ms >= 400
    elsewhere = ask(slow, bundle=None, model="other", task="text-generation")
    assert (elsewhere.text, elsewhere.route.here_ms) == ("third", None)
    here = ask(slow, session="s")
    assert (here.text, here.route.where) == ("slow", "here")
    eventually(lambda: len(rows.kept) == 3)
    assert [(row.device, row.node, row.attempts) for row, _ in rows.kept] == [
        ("slow", "fast", 1), ("slow", "third", 1), ("slow", "slow", 0),
    ]  # fmt: skip


@pytest.mark.broker
def test_a_broker_that_is_lost_and_comes_back(
    mosquitto: Any, running: Callable[[object], Any], eventually: Callable[..., None], tmp_path: Path
) -> None:
    """Answers go on; what was answered meanwhile is recorded once, as old as it is."""
    rows = Rows()
    mosquitto.stop()
    node = AgentService(
        mosquitto.url, "n", {"b": OneByOne(Teller("n", 1.0))}, device="kitchen", own=Own(records=tmp_path / "r.db")
    )
    running(node)
    for number in range(5):  # no broker at start
        assert ask(node, f"before {number}").route.why == "no hub is in reach"
    mosquitto.start()
    running(HubService(mosquitto.url, "hub", rows))
    eventually(lambda: len(rows.kept) == 5, limit_s=20)

    mosquitto.stop(kill=True)
    started = time.time()
    for number in range(5):
        assert ask(node, f"meanwhile {number}").text == "n"
    time.sleep(1.0)
    mosquitto.start()
    eventually(lambda: len(rows.kept) == 10, limit_s=20)
    assert ask(node, "after").text == "n"
    eventually(lambda: len(rows.kept) == 11)
    time.sleep(0.5)
    assert len({row.id for row, _ in rows.kept}) == len(rows.kept) == 11
    assert {(row.device, row.node, row.outcome) for row, _ in rows.kept} == {("kitchen", "n", "answered")}
    assert all(abs(wall_time_s - started) < 1.0 for _, wall_time_s in rows.kept[5:10])


@pytest.mark.broker
def test_a_question_at_the_fleet_comes_back_when_the_broker_is_lost(
    mosquitto: Any, running: Callable[[object], Any], eventually: Callable[..., None], tmp_path: Path
) -> None:
    """It is answered here, long before its deadline."""
    running(HubService(mosquitto.url, "hub", None))
    node = AgentService(mosquitto.url, "n", {"b": OneByOne(Teller("n", 800.0))}, own=Own(records=tmp_path / "r.db"))
    running(node)
    far = Teller("far", 300.0)
    running(AgentService(mosquitto.url, "far", {"b": OneByOne(far)}))
    eventually(lambda: [offer.node for offer in node.offers] == ["far"])
    outcomes: list[Any] = []
    asking = threading.Thread(target=lambda: outcomes.append(ask(node)))
    asking.start()
    eventually(lambda: far.begun == 1)
    mosquitto.stop(kill=True)
    asking.join(10)
    assert (outcomes[0].text, outcomes[0].route.why) == ("n", "the broker was lost")


def test_a_node_that_leaves_ends_what_runs_and_hands_back_the_rest(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """Its running question is answered by it, the next one by another node, and nobody waits for a deadline."""
    hub = running(HubService(broker_url, "hub", None))
    leaving = Teller("leaving", 600.0)
    first = running(AgentService(broker_url, "leaving", {"b": OneByOne(leaving)}))
    with Asker(broker_url, "d") as asker:
        eventually(lambda: asker.is_open)
        asked = [asker.submit(wire.Question(question=f"{number}?")) for number in range(2)]
        eventually(lambda: leaving.begun == 1)
        running(AgentService(broker_url, "staying", {"b": OneByOne(Teller("staying", 700.0))}))
        eventually(lambda: first.service._core.backlog(time.monotonic()).questions == 2)
        eventually(lambda: "staying" in hub.service._core.fleet)
        first.service.stop()
        outcomes = [one.result(10) for one in asked]
    assert [one.reply.text for one in outcomes] == ["leaving", "staying"]
    assert first.error is None


def test_a_lone_node_that_leaves_and_returns(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """What it handed back waits for it, as there is nobody else."""
    running(HubService(broker_url, "hub", None))
    before = Teller("before", 500.0)
    first = running(AgentService(broker_url, "n", {"b": OneByOne(before)}))
    with Asker(broker_url, "d") as asker:
        eventually(lambda: asker.is_open)
        asked = [asker.submit(wire.Question(question=f"{number}?")) for number in range(2)]
        eventually(lambda: before.begun == 1)
        eventually(lambda: first.service._core.backlog(time.monotonic()).questions == 2)
        first.stop()
        running(AgentService(broker_url, "n", {"b": OneByOne(Teller("after", 10.0))}))
        outcomes = [one.result(20) for one in asked]
    assert [one.reply.text for one in outcomes] == ["before", "after"]
