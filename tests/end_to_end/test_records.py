"""Every answered question has its row: after a restart or the sudden death of a hub, and with two on one store."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from hub import wire
from hub.ask import Asker, Outcome
from hub.report.filter import Filter
from hub.report.history import Missing
from hub.store.database import Database
from hub.store.reading import read_history, read_rows
from hub.store.tables import questions

pytestmark = pytest.mark.broker
ASKED = 400
EVERY_S = 0.005


class Stream:
    """Questions at a steady rate from one asker, and when each answer came."""

    def __init__(self, url: str) -> None:
        self._asker = Asker(url, "kitchen")
        self.ended_at: list[float] = []
        self.futures: list[Future[Outcome]] = []

    def __enter__(self) -> Stream:
        self._asker.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._asker.close()

    def ask(self, questions: int) -> None:
        start = time.monotonic()
        for number in range(questions):
            time.sleep(max(start + number * EVERY_S - time.monotonic(), 0))  # a rate, not a wait
            future = self._asker.submit(wire.Question(question="Why?"))
            future.add_done_callback(lambda _: self.ended_at.append(time.monotonic()))
            self.futures.append(future)

    def ids(self) -> set[str]:
        """Of all answers."""
        replies = [future.result(40).reply for future in self.futures]
        assert all(isinstance(reply, wire.Answer) for reply in replies), replies
        return {reply.id for reply in replies}


def start(processes: Any, url: str, *hubs: str) -> None:
    for name in hubs:
        processes.hub(url, name=name)
    for node in ("n1", "n2"):
        command = ("python", "benchmarks/noop_node.py", "--broker", url, "--node", node)
        processes.start(node, *command, "--answer-ms", "40", "--parallel", "8")
    for name in hubs:
        processes.eventually(lambda name=name: "takes questions" in processes.log(name), limit_s=30)
    with Asker(url, "warm") as asker:
        assert isinstance(asker.ask(wire.Question(question="Why?")).reply, wire.Answer)


def kept(processes: Any) -> tuple[int, Missing, int]:
    """Answered questions that have a row, what is missing, and how many rows were pieced together."""
    history, missing = read_history(processes.store, Filter(devices=("kitchen",), outcomes=("answered",)))
    assert len({row.id for row in read_rows(processes.store, history.row.tolist())}) == len(history)
    return len(history), missing, int(history.partial.sum())


def test_a_restart_in_the_middle_loses_no_row(processes: Any, mosquitto: Any) -> None:
    """A hub that ends in order and comes back has a row for every question, also for those in flight meanwhile."""
    start(processes, mosquitto.url, "hub")
    with Stream(mosquitto.url) as stream:
        stream.ask(ASKED // 2)
        assert processes.end("hub") == 0
        processes.hub(mosquitto.url, name="hub")
        stream.ask(ASKED // 2)
        assert len(stream.ids()) == ASKED
    assert processes.end("hub") == 0
    rows, missing, partial = kept(processes)
    assert (rows, missing) == (ASKED, Missing())
    assert partial < ASKED // 4


def test_a_sudden_death_loses_no_more_than_is_said(processes: Any, mosquitto: Any) -> None:
    """The next hub asks the nodes for what is missing; what they do not tell again is counted."""
    start(processes, mosquitto.url, "hub")
    with Stream(mosquitto.url) as stream:
        stream.ask(ASKED // 2)
        processes.kill("hub")
        died_at = time.monotonic()
        stream.ask(ASKED // 4)
        processes.hub(mosquitto.url, name="hub")
        stream.ask(ASKED // 4)
        assert len(stream.ids()) == ASKED
    in_last_second = sum(died_at - 1.0 <= at <= died_at + 1.0 for at in stream.ended_at)
    assert processes.end("hub") == 0
    rows, missing, _ = kept(processes)
    assert rows + missing.answers == ASKED
    assert missing.answers <= in_last_second


def test_nodes_that_forget_are_no_secret(processes: Any, mosquitto: Any) -> None:
    """Where nobody tells the missing answers again, the report says how many they are."""
    start(processes, mosquitto.url, "hub")
    with Stream(mosquitto.url) as stream:
        stream.ask(ASKED // 2)
        stream.ids()
    assert processes.end("hub") == 0
    database = Database(processes.store, writing=True)
    with database.engine.begin() as connection:
        lost = sa.select(questions.c.seq).order_by(questions.c.seq.desc()).offset(50).limit(20)
        connection.execute(questions.delete().where(questions.c.seq.in_(lost)))
    database.engine.dispose()
    rows, missing, _ = kept(processes)
    assert (rows + 20, missing.answers) == (ASKED // 2, 20)


@pytest.mark.postgresql
def test_two_hubs_write_into_one_database(processes: Any, mosquitto: Any, postgresql: Any) -> None:
    """Each question has one row, whichever hub had it, also those that the one that ends leaves to the other."""
    processes.store = postgresql.url
    start(processes, mosquitto.url, "one", "two")
    for name in ("one", "two"):
        processes.eventually(lambda name=name: "is not the only one" in processes.log(name), limit_s=30)
    with Stream(mosquitto.url) as stream:
        stream.ask(ASKED // 2)
        assert processes.end("one") == 0
        stream.ask(ASKED // 2)
        assert len(stream.ids()) == ASKED
    assert processes.end("two") == 0
    history, _ = read_history(processes.store, Filter(devices=("kitchen",)), details=True)
    assert history.details is not None
    assert set(history.details.hub.names) == {"one", "two"}
    rows, missing, _ = kept(processes)
    assert (rows, missing) == (ASKED, Missing())
    told = np.isfinite(history.asker_ms)
    assert told.sum() > ASKED / 2  # a question tells of earlier ones, whichever hub they were at
