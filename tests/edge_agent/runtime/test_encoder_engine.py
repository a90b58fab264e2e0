"""Each task's own results, from bundles whose answers can be computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_agent.bundle import open_bundle, write_bundle
from edge_agent.errors import BundleError, RequestError, RuntimeUnavailable
from edge_agent.manifest import EncoderInfo
from edge_agent.runtime.encoder_engine import Span, merge, open_encoder, softmax
from edge_agent.runtime.encoding import Row
from tests.edge_agent.encoder_bundles import build_encoder, build_word_tokenizer, encoder_bundle, encoder_manifest

CLASSES = {"good": (5.0, 0.0), "bad": (0.0, 5.0)}
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NAMES = {
    "ada": (0, 9, 0, 0, 0), "lovelace": (0, 0, 9, 0, 0), "london": (0, 0, 0, 9, 0), "met": (9, 0, 0, 0, 0),
    "in": (9, 0, 0, 0, 0),
}  # fmt: skip


def test_labels_come_with_their_probabilities(tmp_path: Path) -> None:
    """The most likely first; together they are certain."""
    engine = open_encoder(encoder_bundle(tmp_path, "text-classification", CLASSES, labels=("pos", "neg")), threads=1)
    scores = engine.classify("bad bad good")
    assert [one.label for one in scores] == ["neg", "pos"]
    assert sum(one.score for one in scores) == pytest.approx(1)
    wanted = softmax(np.array([5 / 5, 10 / 5], np.float32))  # [CLS] and [SEP] count, and say nothing
    assert scores[0].score == pytest.approx(wanted[1])
    engine.close()


def test_spans_are_characters_of_the_text(tmp_path: Path) -> None:
    """Neighbours of one kind are one span, a new beginning is another, and the rest is none."""
    bundle = encoder_bundle(tmp_path, "token-classification", {**NAMES, "good": (0, 0, 0, 0, 0)}, labels=TAGS)
    text = "Ada Lovelace met  Ada in London"
    spans = open_encoder(bundle, threads=1).spans(text)
    assert [(span.label, span.text) for span in spans] == [("PER", "Ada Lovelace"), ("PER", "Ada"), ("LOC", "London")]
    assert [text[span.start : span.end] for span in spans] == [span.text for span in spans]
    assert all(0.99 < span.score <= 1 for span in spans)
    [both] = open_encoder(bundle, threads=1).spans("ada lovelace")
    assert (both.start, both.end) == (0, 12)


def spans_of(choices: list[int], words: list[int]) -> list[Span]:
    """The spans of a text of one letter a token, of which two may be one word."""
    text = "abcdefgh"[: len(choices)]
    row = Row(
        ids=(1,) * len(choices),
        types=(0,) * len(choices),
        offsets=tuple((i, i + 1) for i in range(len(choices))),
        texts=(0,) * len(choices),
        words=tuple(words),
        is_cut=False,
    )
    return list(merge(text, row, np.eye(len(TAGS))[choices], TAGS))


@pytest.mark.parametrize(
    ("choices", "words", "wanted"),
    [
        ([1, 1], [0, 1], ["a", "b"]),  # two beginnings
        ([1, 1], [0, 0], ["ab"]),  # two pieces of one word
        ([2, 2, 4], [0, 1, 2], ["ab", "c"]),  # goes on without having begun
        ([0, 0], [0, 1], []),
        ([1, 0, 2], [0, 1, 2], ["a", "c"]),
    ],
)
def test_pieces_are_merged_by_their_prefixes(choices: list[int], words: list[int], wanted: list[str]) -> None:
    """B- begins a span except inside a word, I- goes on with one of its kind."""
    assert [span.text for span in spans_of(choices, words)] == wanted


def test_labels_without_prefixes_are_merged_too(tmp_path: Path) -> None:
    """Neighbours of equal labels are one span."""
    rows = {"ada": (0, 9), "lovelace": (0, 9), "met": (9, 0)}
    engine = open_encoder(encoder_bundle(tmp_path, "token-classification", rows, labels=("O", "NAME")), threads=1)
    assert [span.text for span in engine.spans("ada lovelace met lovelace")] == ["ada lovelace", "lovelace"]


def test_the_best_answer_lies_in_the_text(tmp_path: Path) -> None:
    """Never in the question, whose words would fit better, and found wherever in a long text it stands."""
    rows = {"who": (9.0, 9.0), "ada": (8.0, 0.0), "lovelace": (0.0, 8.0), "met": (1.0, 0.0)}
    engine = open_encoder(encoder_bundle(tmp_path, "question-answering", rows, max_tokens=12), threads=1)
    text = " ".join([*["met in london"] * 10, "met Ada Lovelace in London", *["met in london"] * 10])
    answer = engine.answer("who met", text)
    assert answer.text == text[answer.start : answer.end] == "Ada Lovelace"
    assert 0 < answer.score < 1  # "who" of the question has its share


def test_embeddings_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Many texts give what each gives alone."""
    engine = open_encoder(encoder_bundle(tmp_path, "feature-extraction", CLASSES), threads=1)
    texts = ["good", "bad bad good", "in london"] * 7
    vectors = engine.embed(texts)
    assert vectors.shape == (21, 2)
    np.testing.assert_array_equal(vectors, np.concatenate([engine.embed([text]) for text in texts]))
    np.testing.assert_array_equal(engine.sample("bad bad good"), vectors[1])


def test_a_bundle_does_its_own_task_only(tmp_path: Path) -> None:
    """Others are refused by name."""
    engine = open_encoder(encoder_bundle(tmp_path, "feature-extraction", CLASSES), threads=1)
    for ask in (engine.classify, engine.spans, lambda text: engine.answer(text, text)):
        with pytest.raises(RequestError, match="does feature-extraction, not"):
            ask("good")
    with pytest.raises(RequestError, match="does text-classification, not feature-extraction"):
        open_encoder(
            encoder_bundle(tmp_path / "other", "text-classification", CLASSES, labels=("a", "b")), threads=1
        ).embed(["good"])


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        ("text-classification", {"labels": ("a", "b", "c")}, "2 scores for 3 labels"),
        ("text-classification", {"labels": ("a", "b"), "vocabulary": 9}, "does not take the tokenizer's ids"),
        ("feature-extraction", {"rows": {"who": (np.nan, 1.0)}}, "not finite"),
    ],
)
def test_what_does_not_fit_together_is_refused_when_opened(
    task: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """Too few labels, ids that the table lacks, numbers that are none."""
    rows = settings.pop("rows", CLASSES)
    if "vocabulary" in settings:
        rows = {"good": (1.0, 0.0)}
    if words == "not finite":
        rows = {"where": (np.nan, 1.0)}  # the highest id
    with pytest.raises(BundleError, match=words):
        open_encoder(encoder_bundle(tmp_path, task, rows, **settings), threads=1)


@pytest.mark.parametrize(
    ("made_for", "said", "words"),
    [
        ("token-classification", "text-classification", "does not do text-classification"),
        ("feature-extraction", "question-answering", "a graph that gives embedding does not do question-answering"),
    ],
)
def test_a_graph_of_another_task_is_refused(made_for: str, said: str, words: str, tmp_path: Path) -> None:
    """The manifest's task must be the graph's."""
    staging = tmp_path / "staging"
    (staging / "model").mkdir(parents=True)
    (staging / "tokenizer").mkdir()
    graph = build_encoder(staging / "model" / "encoder.onnx", made_for, CLASSES)
    build_word_tokenizer(staging / "tokenizer" / "tokenizer.json")
    info = EncoderInfo(max_tokens=16, labels=("a", "b"))
    write_bundle(staging, tmp_path / "bundle", encoder_manifest(graph, said, info))
    with pytest.raises(BundleError, match=words):
        open_encoder(tmp_path / "bundle", threads=1)


def test_a_decoder_bundle_is_no_encoder(tiny_bundle: Path) -> None:
    """It is refused with its task."""
    with pytest.raises(RuntimeUnavailable, match="text-generation is not an encoder's"):
        open_encoder(tiny_bundle)


def test_the_manifest_survives_its_file(tmp_path: Path) -> None:
    """What an encoder bundle says of itself is read back as it was written."""
    bundle = encoder_bundle(tmp_path, "text-classification", CLASSES, labels=("pos", "neg"))
    manifest = open_bundle(bundle).manifest
    assert manifest.encoder == EncoderInfo(max_tokens=16, labels=("pos", "neg"))
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=type(manifest)) == manifest
