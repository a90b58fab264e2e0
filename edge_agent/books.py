"""What is written down when a question has ended: counts, spans, the machine's tally, evidence, a record for a hub.

Knows nothing of MQTT or threads; called in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_agent import events
from edge_agent.answer_spans import AnswerSpans
from edge_agent.evidence import Evidence
from edge_agent.metrics import Metrics
from edge_agent.own_questions import Ended
from edge_agent.telemetry import Tally
from hub import wire


class Books:
    """The books of the machine that asks as `device`. `known` gives every bundle that was ever loaded, by id; `keep`
    takes a record of what no hub has seen, None where none are kept.
    """

    def __init__(
        self,
        device: str,
        *,
        metrics: Metrics,
        spans: AnswerSpans,
        tally: Tally,
        evidence: Evidence,
        known: Callable[[], Mapping[str, wire.ServedBundle]],
        keep: Callable[[wire.OwnRecord], None] | None,
    ) -> None:
        self._device = device
        self._metrics = metrics
        self._spans = spans
        self._tally = tally
        self._evidence = evidence
        self._known = known
        self._keep = keep

    def answered(self, effect: events.PublishAnswer, now: float) -> None:
        """An answer went to a device; a repeat is in no book but that of traces."""
        self._spans.answered(effect.work, effect.answer, now, again=effect.again)
        if not effect.again:
            self._metrics.answered(effect.answer, "fleet")
            self._tally.answered(effect.answer)

    def failed(self, done: wire.Done, now: float) -> None:
        """A question of the fleet ended without an answer."""
        known = done.bundle in self._known()  # whatever else is asked for makes no labels
        self._metrics.failed(done.bundle if known else "unknown", "fleet", done.outcome)
        self._spans.failed(done, now)
        if done.outcome == "internal":
            self._evidence.failed(done.bundle)

    def own_ended(self, ended: Ended) -> None:
        """A question of this device has its end: it is counted, and kept for a hub unless one has seen it."""
        answer, outcome = None, "answered"
        if isinstance(ended.outcome, wire.Answer):
            answer = ended.outcome
        else:
            outcome = "cancelled" if ended.cancelled else ended.outcome.code
        if ended.route.where == "fleet":
            self._metrics.sent_away(outcome)
            return
        assert ended.bundle is not None
        self._spans.own(ended.id, ended.question, ended.bundle, answer or outcome, ended.total_ms)
        if answer is not None:
            self._metrics.answered(answer, "here")
            self._tally.answered(answer)
        else:
            self._metrics.failed(ended.bundle, "here", outcome)
            if outcome == "internal":
                self._evidence.failed(ended.bundle)
        if self._keep is not None and not ended.cancelled:
            self._keep(self._own_record(ended, outcome, answer))

    def _own_record(self, ended: Ended, outcome: str, answer: wire.Answer | None) -> wire.OwnRecord:
        assert ended.bundle is not None
        served = self._known()[ended.bundle]
        return wire.OwnRecord(
            device=self._device,
            id=ended.id,
            bundle=served.bundle,
            model=served.model,
            task=served.task,
            outcome=outcome,  # type: ignore[arg-type]  # "answered" or one of wire.Code
            ago_ms=0.0,
            total_ms=round(ended.total_ms, 3),
            question_bytes=ended.question.size_chars,
            tokens=answer.tokens if answer is not None else wire.Tokens(),
            timing_ms=answer.timing_ms if answer is not None else wire.Timing(),
        )
