"""Each end of a question is in the books that it belongs in, once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge_agent import events
from edge_agent.answer_spans import AnswerSpans
from edge_agent.books import Books
from edge_agent.evidence import Evidence
from edge_agent.metrics import Metrics
from edge_agent.own_questions import Ended
from edge_agent.telemetry import Tally
from hub import wire
from tests.edge_agent.test_evidence import ANSWER, SERVED, Heard

WORK = wire.Work(
    hub="h", device="kitchen", question=wire.Question(id="1", question="why?"), attempt=1, budget_ms=1000.0, bundle="b",
    reply_to="edge/v1/answer/kitchen",
)  # fmt: skip
HERE = wire.Route(where="here", why="it is sooner", margin_ms=50.0, here_ms=1.0)


class Scene:
    def __init__(self) -> None:
        self.kept: list[wire.OwnRecord] = []
        self.heard = Heard()
        self.metrics = Metrics(lambda: wire.NodeState(epoch=1, status="ready"), lambda: (0, 0))
        evidence, known = Evidence({"b": SERVED}), {"b": SERVED}
        evidence.deployments = self.heard
        self.books = Books(
            "kitchen", metrics=self.metrics, spans=AnswerSpans("n", known.get), tally=Tally(), evidence=evidence,
            known=lambda: known, keep=self.kept.append,
        )  # fmt: skip

    def count(self, bundle: str, origin: str, outcome: str) -> float:
        line = f'edge_questions_total{{bundle="{bundle}",origin="{origin}",outcome="{outcome}"}} '
        text = self.metrics.exposition().decode()
        return float(text.split(line)[1].split()[0]) if line in text else 0.0


def ended(**changes: Any) -> Ended:
    given: dict[str, Any] = {
        "id": "1", "question": WORK.question, "bundle": "b", "route": HERE, "outcome": ANSWER, "total_ms": 60.0,
        "cancelled": False,
    }  # fmt: skip
    return Ended(**{**given, **changes})


def test_an_answer_to_the_fleet_is_counted_once() -> None:
    """A repeat of it is not."""
    scene = Scene()
    effect = events.PublishAnswer(WORK, ANSWER, until=9.0)
    scene.books.answered(effect, 1.0)
    scene.books.answered(msgspec.structs.replace(effect, again=True), 2.0)
    assert scene.count("b", "fleet", "answered") == 1
    assert scene.kept == [], "a hub has seen it"


@pytest.mark.parametrize(("outcome", "blamed"), [("internal", True), ("overloaded", False), ("too_large", False)])
def test_only_an_internal_failure_is_the_bundles_fault(outcome: Any, blamed: bool) -> None:
    """The others are the asker's, or the node's."""
    scene = Scene()
    scene.books.failed(wire.Done(hub="h", device="d", id="1", attempt=1, bundle="b", outcome=outcome), 1.0)
    assert scene.count("b", "fleet", outcome) == 1
    assert scene.heard.ended == ([("b", True, 0.0, 0.0, 0.0)] if blamed else [])


def test_a_bundle_that_is_not_known_makes_no_label() -> None:
    """Whoever sends Work could make as many as there are names."""
    scene = Scene()
    scene.books.failed(wire.Done(hub="h", device="d", id="1", attempt=1, bundle="x", outcome="unsupported"), 1.0)
    assert (scene.count("unknown", "fleet", "unsupported"), scene.count("x", "fleet", "unsupported")) == (1, 0)


def test_a_question_of_this_device_is_kept_for_a_hub() -> None:
    """With what it took; one that the fleet answered is not, and neither is one that nobody wants any more."""
    scene = Scene()
    scene.books.own_ended(ended())
    scene.books.own_ended(ended(outcome=events.Refusal("internal", "the graph died")))
    scene.books.own_ended(ended(outcome=events.Refusal("internal", "cancelled"), cancelled=True))
    scene.books.own_ended(ended(route=msgspec.structs.replace(HERE, where="fleet"), bundle=None))
    assert [(one.device, one.outcome, one.total_ms) for one in scene.kept] == [
        ("kitchen", "answered", 60.0),
        ("kitchen", "internal", 60.0),
    ]
    assert [scene.count("b", "here", outcome) for outcome in ("answered", "internal", "cancelled")] == [1, 1, 1]
    assert scene.count("", "sent", "answered") == 1
    assert scene.heard.ended == [("b", True, 0.0, 0.0, 0.0)]
