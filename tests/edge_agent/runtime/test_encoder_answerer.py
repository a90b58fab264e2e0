"""What an encoder bundle answers to questions of the fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import RequestError
from edge_agent.runtime.encoder_answerer import EncoderAnswerer
from edge_agent.runtime.encoder_engine import open_encoder
from edge_agent.runtime.encoding import MOST_WINDOWS
from edge_agent.runtime.generation import Generation
from hub import wire
from tests.edge_agent.encoder_bundles import encoder_bundle


def answerer(folder: Path, task: str, rows: dict[str, Any], **options: Any) -> EncoderAnswerer:
    return EncoderAnswerer(open_encoder(encoder_bundle(folder, task, rows, **options), threads=1))


def ask(node: EncoderAnswerer, **question: Any) -> Generation:
    return node.answer(wire.Question(**question), should_stop=lambda: False)


def test_labels(tmp_path: Path) -> None:
    """Every label with its probability; the same for a question and for a text."""
    node = answerer(tmp_path, "text-classification", {"good": (2.0, 0.0), "bad": (0.0, 2.0)}, labels=("yes", "no"))
    given = ask(node, text="good")
    assert given.labels is not None
    assert given.labels["yes"] > 0.5 > given.labels["no"]
    assert sum(given.labels.values()) == pytest.approx(1)
    assert (given.text, given.finish) == (None, "stop")
    assert given.tokens.prompt > 0
    assert ask(node, question="good").labels == given.labels


def test_spans(tmp_path: Path) -> None:
    """Characters of the text."""
    node = answerer(tmp_path, "token-classification", {"good": (0.0, 5.0)}, labels=("O", "B-GOOD"))
    (span,) = ask(node, text="so good").spans or ()
    assert (span.label, span.start, span.end, span.text) == ("GOOD", 3, 7, "good")


def test_vectors(tmp_path: Path) -> None:
    """As many numbers as the model is wide."""
    node = answerer(tmp_path, "feature-extraction", {"good": (3.0, 4.0)})
    embedding = ask(node, text="good").embedding
    assert embedding is not None
    assert len(embedding) == 2


def test_an_answer_in_a_context(tmp_path: Path) -> None:
    """The text and where it stands; without a context, or with one that is not wanted, the question is refused."""
    node = answerer(tmp_path, "question-answering", {"good": (5.0, 5.0)})
    given = ask(node, question="so", context="so good so")
    assert given.text == "good"
    assert given.spans is not None
    assert (given.spans[0].start, given.spans[0].end) == (3, 7)
    with pytest.raises(RequestError, match="takes a context"):
        ask(node, question="so")
    vectors = answerer(tmp_path / "v", "feature-extraction", {"good": (3.0, 4.0)})
    with pytest.raises(RequestError, match="takes no context"):
        ask(vectors, question="so", context="so")


def test_a_long_passage_is_read_in_windows_and_can_be_left(tmp_path: Path) -> None:
    """Between two windows it is asked whether the answer is still wanted; what would take too many is refused."""
    node = answerer(tmp_path, "question-answering", {"good": (5.0, 5.0)}, max_tokens=16)
    passage = "so " * 40 + "good " + "so " * 40
    assert ask(node, question="so", context=passage).text == "good"
    asked = iter([False, False, False, True])
    question = wire.Question(question="so", context=passage)
    assert node.answer(question, should_stop=lambda: next(asked)).finish == "cancelled"
    with pytest.raises(RequestError, match=r"the text has 5000 tokens, at most \d+ are read"):
        ask(node, question="so", context="so " * 5000)
    with pytest.raises(RequestError, match="of 16 tokens to the text"):
        ask(node, question="so " * 11, context="good")


def test_what_it_does_not_take(tmp_path: Path) -> None:
    """Another task, or a conversation."""
    node = answerer(tmp_path, "feature-extraction", {"good": (3.0, 4.0)})
    with pytest.raises(RequestError, match="does feature-extraction, not text-generation"):
        ask(node, text="good", task="text-generation")
    with pytest.raises(RequestError, match="not messages"):
        ask(node, messages=(wire.ChatMessage(role="user", content="good"),))


def test_it_is_measured_where_it_runs(tmp_path: Path) -> None:
    """The hub hears what a text costs here; nothing is decoded."""
    node = answerer(tmp_path, "feature-extraction", {"good": (3.0, 4.0)})
    before = node.served
    node.warm_up()
    assert node.served.fixed_ms != before.fixed_ms
    assert node.served.decode_ms_per_token == 0
    assert (node.served.task, node.served.context) == ("feature-extraction", 16 * MOST_WINDOWS)
