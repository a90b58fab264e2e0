"""Scoring text and questions: each token once, and the numbers of a naive computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import InputError
from edge_agent.evaluate import (
    QA_MAX_TOKENS,
    LabelledRow,
    QaRow,
    evaluate_labelled,
    evaluate_passages,
    evaluate_qa,
    evaluate_text,
    is_right,
    log_likelihood,
    read_labelled,
    read_qa,
    windows,
)
from edge_agent.manifest import Graph
from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.encoder_engine import open_encoder
from edge_agent.runtime.generation import Generation
from hub import wire
from tests.edge_agent.encoder_bundles import encoder_bundle


@given(st.integers(0, 80), st.integers(2, 20), st.data())
def test_each_token_but_the_first_is_scored_once(length: int, size: int, data: st.DataObject) -> None:
    """Windows cover the text, score each token once, and give all but the first window enough context."""
    stride = data.draw(st.integers(1, size - 1))
    scored: list[int] = []
    for number, window in enumerate(windows(range(length), size, stride)):
        assert len(window.ids) <= size
        assert window.first_scored >= (size - stride if number else 1)
        scored += window.ids[window.first_scored :]
    assert scored == list(range(1, length))


@pytest.mark.parametrize(("size", "stride"), [(4, 0), (4, 4), (4, 5), (4, -1)])
def test_windows_without_context_are_refused(size: int, stride: int) -> None:
    """A stride as long as the window would score tokens out of the blue."""
    with pytest.raises(ValueError, match="leaves no context"):
        list(windows(range(10), size, stride))


def test_log_likelihood_is_the_log_of_softmax() -> None:
    """It equals the naive formula, also over more rows than are taken at once and for large logits."""
    draw = np.random.default_rng(0)
    logits = draw.standard_normal((150, 11)).astype(np.float32) * 5
    targets = draw.integers(0, 11, 150)
    naive = np.log(np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True))
    np.testing.assert_allclose(log_likelihood(logits, targets), naive[np.arange(150), targets], rtol=1e-6)
    np.testing.assert_allclose(log_likelihood(logits + 1000, targets), naive[np.arange(150), targets], rtol=1e-3)


def test_a_text_is_scored_as_its_logits_say(tiny_graph: tuple[Path, Graph]) -> None:
    """Tokens, accuracy and perplexity equal those counted from the logits of each window by hand."""
    decoder = Decoder(*tiny_graph, context=1024, threads=1)
    ids = np.random.default_rng(0).integers(0, 384, 700).tolist()
    seen: list[int] = []
    score = evaluate_text(decoder, ids, seen.append)
    hits, losses = [], []
    for start, first in ((0, 1), (256, 256)):  # 700 tokens are the windows 0 to 512 and 256 to 700
        logits = decoder.logits(ids[start : start + 512]).astype(float)
        for position in range(first, len(logits)):
            row, target = logits[position - 1], ids[start + position]
            hits.append(row.argmax() == target)
            losses.append(np.log(np.exp(row).sum()) - row[target])
    assert score.tokens == len(hits) == 699 == sum(seen)
    assert score.next_token_accuracy == pytest.approx(100 * np.mean(hits))
    assert score.perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-6)
    with pytest.raises(InputError, match="no next token"):
        evaluate_text(decoder, [1])


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        ("The capital is Paris.", ["Paris"], True),
        ("the capital is PARIS", ["paris"], True),
        ("It is Sao Tome", ["São Tomé"], True),
        ("It is São Tomé", ["Sao Tome"], True),
        ("Straße", ["STRASSE"], True),
        ("Reykjavi\u0301k", ["Reykjavík"], True),
        ("London", ["Paris", "London"], True),
        ("London", ["Paris"], False),
        ("", ["Paris"], False),
    ],
)
def test_an_answer_counts_ignoring_case_and_accents(text: str, answers: list[str], right: bool) -> None:
    """Right if any of the answers occurs in the text."""
    assert is_right(text, answers) is right


class Parrot:
    """Answers with the question."""

    served = wire.ServedBundle(
        bundle="b", model="m", task="t", context=1, fixed_ms=0, prefill_ms_per_token=0, decode_ms_per_token=0
    )

    def __init__(self) -> None:
        self.asked: list[wire.Question] = []

    def answer(self, question: wire.Question, *, should_stop: object, on_text: object = None) -> Generation:
        self.asked.append(question)
        return Generation(
            text=question.question or "",
            token_ids=(),
            finish="stop",
            tokens=wire.Tokens(),
            prefill_ms=0,
            decode_ms=0,
            compute_ms=0,
        )


def test_questions_are_counted() -> None:
    """Accuracy is in percent; questions are asked greedily and shortly."""
    parrot, seen = Parrot(), []
    rows = [QaRow("I say Paris", ("Paris", "x")), QaRow("I say nothing", ("Rome",)), QaRow("Rome", ("rome",))]
    score = evaluate_qa(parrot, rows, seen.append)
    assert (score.questions, score.correct, round(score.accuracy, 3)) == (3, 2, 66.667)
    assert seen == [True, False, True]
    assert {(question.temperature, question.max_tokens) for question in parrot.asked} == {(0.0, QA_MAX_TOKENS)}
    with pytest.raises(InputError, match="no questions"):
        evaluate_qa(parrot, [])
    with pytest.raises(InputError, match="a row has a context"):
        evaluate_qa(parrot, [QaRow("Who?", ("Ann",), "Ann did.")])


def test_answers_are_found_in_passages(tmp_path: Path) -> None:
    """An encoder reads the context of each row; one without is refused before the first is asked."""
    numbers = {"ada": (8.0, 0.0), "lovelace": (0.0, 8.0), "met": (1.0, 0.0)}
    engine = open_encoder(encoder_bundle(tmp_path, "question-answering", numbers, max_tokens=16), threads=1)
    asked = QaRow("who met", ("ada lovelace",), "met Ada Lovelace in London")
    score = evaluate_passages(engine, [asked, QaRow("who", ("bad",), "Ada Lovelace met bad")])
    assert (score.questions, score.correct) == (2, 1)
    with pytest.raises(InputError, match="a row has no context"):
        evaluate_passages(engine, [asked, QaRow("who", ("bad",))])


def test_rows_are_read_from_jsonl(tmp_path: Path) -> None:
    """Empty lines are skipped."""
    path = tmp_path / "qa.jsonl"
    path.write_text('{"question": "Q?", "answers": ["A", "B"]}\n\n{"question": "R?", "answers": ["C"]}\n')
    assert read_qa(path) == [QaRow("Q?", ("A", "B")), QaRow("R?", ("C",))]


def test_what_made_a_bundle_judges_it_again(tmp_path: Path) -> None:
    """As the exporter reads: a byte order mark, keys that mean nothing here, what only looks like the end of a line."""
    path = tmp_path / "qa.jsonl"
    path.write_text('\ufeff{"id": 7, "question": "Q\u2028?", "answers": ["A"]}\n', "utf-8")
    assert read_qa(path) == [QaRow("Q\u2028?", ("A",))]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "{}",
        "[" * 5000,
        '{"question": "Q", "answers": []}',
        '{"question": "Q", "answers": [""]}',
        '{"question": "", "answers": ["A"]}',
    ],
)
def test_a_bad_row_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    """An empty answer would make every text right; a typo would hide a field."""
    path = tmp_path / "qa.jsonl"
    path.write_text('{"question": "Q?", "answers": ["A"]}\n' + line + "\n")
    with pytest.raises(InputError, match=r"qa\.jsonl, line 2: "):
        read_qa(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Missing, or not UTF-8: one line names it."""
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for name in ("latin", "missing"):
        with pytest.raises(InputError, match=name):
            read_qa(tmp_path / name)


CLASSES = {"good": (3.0, 0.0), "bad": (0.0, 3.0)}


def test_labels_are_counted(tmp_path: Path) -> None:
    """Two of three texts have the label that is said to be theirs."""
    bundle = encoder_bundle(tmp_path, "text-classification", CLASSES, labels=("pos", "neg"))
    rows = [LabelledRow("good", "pos"), LabelledRow("bad good bad", "neg"), LabelledRow("good", "neg")]
    seen: list[bool] = []
    score = evaluate_labelled(open_encoder(bundle, threads=1), rows, seen.append)
    assert (score.texts, score.correct, seen) == (3, 2, [True, True, False])
    assert score.accuracy == pytest.approx(200 / 3)


def test_labels_that_the_bundle_lacks_are_refused(tmp_path: Path) -> None:
    """A file for another classifier would score 0; so does none of it, and no file at all."""
    engine = open_encoder(encoder_bundle(tmp_path, "text-classification", CLASSES, labels=("pos", "neg")), threads=1)
    with pytest.raises(InputError, match="'Positive' is none of the bundle's: pos, neg"):
        evaluate_labelled(engine, [LabelledRow("good", "Positive")])
    with pytest.raises(InputError, match="no texts"):
        evaluate_labelled(engine, [])


def test_labelled_rows_are_read_with_their_line(tmp_path: Path) -> None:
    """Another shape is refused with its line and the shape that is wanted."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good", "label": "pos"}\n\n{"text": "good"}\n')
    with pytest.raises(InputError, match=r'line 3: .*a row is {"text", "label"}'):
        read_labelled(path)
    path.write_text('{"text": "good", "label": "pos"}\n')
    assert read_labelled(path) == [LabelledRow("good", "pos")]
