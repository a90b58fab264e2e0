"""Who hears what a hub has decided and how questions ended: the log, traces, the records, and whoever listens.

Told once the messages have gone, in the loop's thread. A listener that fails is left out from then on: whoever watches
must not stop who routes. Knows nothing of MQTT.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from hub import events
from hub.decision import Decision
from hub.explain import decision_line
from hub.route_spans import RouteSpans

log = logging.getLogger(__name__)

Happening = events.LogDecision | events.StoreRecord | events.EndTrace | events.StoreNote


class RecordSink(Protocol):
    """Where records go; must not block."""

    def store(self, record: events.Record, wall_time_s: float) -> None:
        """Keep one record."""
        ...

    def note(self, note: events.Note, wall_time_s: float) -> None:
        """Keep what is known beside the records."""
        ...


class Listener(Protocol):
    """Who watches the hub; must not block."""

    def decided(self, decision: Decision) -> None:
        """A node was chosen, or none was there."""
        ...

    def ended(self, record: events.Record, wall_time_s: float) -> None:
        """A question has its outcome."""
        ...


class Audience:
    """`records` may be None: then nothing is kept."""

    def __init__(self, records: RecordSink | None, listeners: Sequence[Listener], spans: RouteSpans) -> None:
        self._records = records
        self._listeners = list(listeners)
        self._spans = spans
        self._untold: list[tuple[Happening, float]] = []  # with the wall time at which it was said

    def later(self, happening: Happening) -> None:
        """To be told when the messages have gone."""
        self._untold.append((happening, time.time()))

    def tell(self) -> None:
        """Tell what has happened since the last time."""
        for happening, at_s in self._untold:
            if isinstance(happening, events.LogDecision):
                self._decided(happening.decision)
            elif isinstance(happening, events.StoreRecord):
                self._ended(happening, at_s)
            elif isinstance(happening, events.EndTrace):
                self._spans.left(happening)
            elif self._records is not None:
                self._records.note(happening.note, at_s)
        self._untold.clear()

    def _decided(self, decision: Decision) -> None:
        log.info("%s", decision_line(decision))
        self._spans.decided(decision)
        self._to_all(lambda listener: listener.decided(decision))

    def _ended(self, happening: events.StoreRecord, at_s: float) -> None:
        record, wall_time_s = happening.record, at_s - happening.ago_ms / 1000
        self._spans.ended(record, happening.trace)
        if self._records is not None:
            self._records.store(record, wall_time_s)
        self._to_all(lambda listener: listener.ended(record, wall_time_s))

    def _to_all(self, tell: Callable[[Listener], None]) -> None:
        for listener in list(self._listeners):
            try:
                tell(listener)
            except Exception:
                log.exception("%s failed and hears no more; routing goes on", type(listener).__name__)
                self._listeners.remove(listener)
