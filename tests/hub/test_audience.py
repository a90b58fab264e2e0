"""What a hub tells of decisions and outcomes, and who cannot stop it."""

from __future__ import annotations

import logging

import pytest

from hub import events
from hub.audience import Audience
from hub.decision import Decision
from hub.route_spans import RouteSpans
from tests.hub.rows import record

DECISION = Decision(device="kitchen", id="q", attempt=1, chosen=None, candidates=(), rejected=())
NOTE = events.LateAnswer(node="a", life=1, number=2)


class Ear:
    """Hears everything, as records or as a listener."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.heard: list[object] = []
        self._deaf = deaf

    def decided(self, decision: Decision) -> None:
        if self._deaf:
            raise ValueError("a bug")
        self.heard.append(decision)

    def ended(self, record: events.Record, wall_time_s: float) -> None:
        self.heard.append((record, round(wall_time_s)))

    def store(self, record: events.Record, wall_time_s: float) -> None:
        self.heard.append((record, round(wall_time_s)))

    def note(self, note: events.Note, wall_time_s: float) -> None:
        self.heard.append(note)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.audience.time.time", lambda: 1000.0)


def test_everybody_hears_once_when_it_is_told() -> None:
    """In order, and dated by when a question ended."""
    records, listener = Ear(), Ear()
    audience = Audience(records, [listener], RouteSpans("hub"))
    for happening in (events.LogDecision(DECISION), events.StoreRecord(record(), 5000.0), events.StoreNote(NOTE)):
        audience.later(happening)
    assert records.heard == listener.heard == []
    audience.tell()
    audience.tell()
    assert listener.heard == [DECISION, (record(), 995)]
    assert records.heard == [(record(), 995), NOTE]


def test_the_end_of_a_trace_is_for_traces_alone() -> None:
    """No listener counts the question again."""
    ends: list[events.EndTrace] = []

    class Ends(RouteSpans):
        def left(self, end: events.EndTrace) -> None:
            ends.append(end)

    records, listener = Ear(), Ear()
    audience = Audience(records, [listener], Ends("hub"))
    end = events.EndTrace(device="kitchen", id="q", outcome="answered")
    audience.later(end)
    audience.tell()
    assert (ends, records.heard, listener.heard) == ([end], [], [])


def test_a_listener_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """The others and the records hear on, and the log says so once."""
    records, broken, whole = Ear(), Ear(deaf=True), Ear()
    audience = Audience(records, [broken, whole], RouteSpans("hub"))
    for happening in (events.LogDecision(DECISION), events.LogDecision(DECISION), events.StoreRecord(record())):
        audience.later(happening)
    with caplog.at_level(logging.ERROR):
        audience.tell()
    assert whole.heard == [DECISION, DECISION, (record(), 1000)]
    assert records.heard == [(record(), 1000)]
    assert broken.heard == []
    assert [entry.getMessage() for entry in caplog.records] == ["Ear failed and hears no more; routing goes on"]


def test_nothing_need_be_kept() -> None:
    """Without records, notes and rows go nowhere."""
    listener = Ear()
    audience = Audience(None, [listener], RouteSpans("hub"))
    audience.later(events.StoreNote(NOTE))
    audience.later(events.StoreRecord(record()))
    audience.tell()
    assert listener.heard == [(record(), 1000)]
