"""A graph that is not what its manifest says is refused before it is run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edge_agent.errors import BundleError
from edge_agent.manifest import CacheLayout, Graph
from edge_agent.runtime.contract import decoder_contract, encoder_contract
from edge_agent.runtime.session import open_session
from tests.edge_agent.encoder_bundles import build_encoder

MODEL = Path("model/decoder.onnx")


class Session:
    """What ONNX Runtime reports of a graph, to be changed."""

    def __init__(self, graph: Path) -> None:
        real = open_session(graph, threads=1)
        self.inputs, self.outputs = (
            [self.copy(value) for value in side()] for side in (real.get_inputs, real.get_outputs)
        )

    @staticmethod
    def copy(value: Any) -> SimpleNamespace:
        return SimpleNamespace(name=value.name, type=value.type, shape=list(value.shape))

    def get_inputs(self) -> list[SimpleNamespace]:
        return self.inputs

    def get_outputs(self) -> list[SimpleNamespace]:
        return self.outputs

    def value(self, name: str) -> SimpleNamespace:
        return next(value for value in self.inputs + self.outputs if value.name == name)


@pytest.fixture
def session(tiny_graph: tuple[Path, Graph]) -> Session:
    return Session(tiny_graph[0])


def test_a_graph_that_keeps_the_contract_passes(session: Session, tiny_graph: tuple[Path, Graph]) -> None:
    """Layout and vocabulary come back."""
    assert decoder_contract(MODEL, session, tiny_graph[1]) == (tiny_graph[1].cache, 384)


@pytest.mark.parametrize(
    ("name", "field", "value", "words"),
    [
        ("input_ids", "type", "tensor(int32)", r"input_ids is tensor\(int32\)"),
        ("input_ids", "shape", ["batch"], "input_ids is"),
        ("input_ids", "shape", ["batch", 1], r"it must be tensor\(int64\) \[any, free\]"),
        ("seqlens_k", "type", "tensor(int64)", "seqlens_k is"),
        ("logits_to_keep", "shape", [1], "logits_to_keep is"),
        (
            "past_key_values.1.key",
            "shape",
            ["batch", 3, "past", 16],
            r"it must be tensor\(float\) \[any, 2, free, 16\]",
        ),
        ("past_key_values.1.value", "shape", ["batch", 2, "past", 32], "past_key_values.1.value is"),
        ("present.0.key", "type", "tensor(float16)", "present.0.key is"),
        ("present.1.value", "shape", ["batch", 2, 128, 16], "present.1.value is"),
        ("logits", "type", "tensor(float16)", "logits is"),
        ("logits", "shape", ["batch", "kept", "vocabulary"], "it must be a fixed number"),
    ],
)
def test_a_tensor_of_another_kind_is_refused(
    name: str, field: str, value: object, words: str, session: Session, tiny_graph: tuple[Path, Graph]
) -> None:
    """Type, rank and each dimension that must be fixed or free are compared, and the message names the tensor."""
    setattr(session.value(name), field, value)
    with pytest.raises(BundleError, match=words):
        decoder_contract(MODEL, session, tiny_graph[1])


def without(names: tuple[str, ...], gone: str) -> tuple[str, ...]:
    return tuple(name for name in names if name != gone)


def test_names_must_agree(session: Session, tiny_graph: tuple[Path, Graph]) -> None:
    """Graph, manifest and contract name the same inputs and outputs."""
    graph = tiny_graph[1]
    for changed, words in (
        (
            msgspec.structs.replace(graph, inputs=without(graph.inputs, "seqlens_k")),
            "inputs of graph and manifest .* seqlens_k",
        ),
        (msgspec.structs.replace(graph, outputs=(*graph.outputs, "hidden")), "outputs of graph and manifest .* hidden"),
    ):
        with pytest.raises(BundleError, match=words):
            decoder_contract(MODEL, session, changed)
    layers = CacheLayout(layers=3, kv_heads=2, head_dim=16, dtype="float32")
    with pytest.raises(BundleError, match=r"inputs of graph and contract .* past_key_values\.2\.key"):
        decoder_contract(MODEL, session, msgspec.structs.replace(graph, cache=layers))
    session.outputs = [value for value in session.outputs if value.name != "logits"]
    short = msgspec.structs.replace(graph, outputs=without(graph.outputs, "logits"))
    with pytest.raises(BundleError, match="outputs of graph and contract differ in logits"):
        decoder_contract(MODEL, session, short)


@pytest.mark.parametrize("change", [{"cache": None}, {"dialect": "plain"}])
def test_other_kinds_of_graph_are_refused(
    change: dict[str, Any], session: Session, tiny_graph: tuple[Path, Graph]
) -> None:
    """An encoder, or a decoder of another dialect, is not run as one of this."""
    with pytest.raises(BundleError, match="a decoder of dialect 'ort'"):
        decoder_contract(MODEL, session, msgspec.structs.replace(tiny_graph[1], **change))


@pytest.fixture
def words(tmp_path: Path) -> tuple[Session, Graph]:
    graph = build_encoder(tmp_path / "encoder.onnx", "token-classification", {"good": (1.0, 0.0)})
    return Session(tmp_path / "encoder.onnx"), graph


def test_an_encoder_that_keeps_the_contract_says_whether_it_answers_by_token(
    words: tuple[Session, Graph], tmp_path: Path
) -> None:
    """True for labels of tokens, False for one vector a text."""
    assert encoder_contract(MODEL, *words) is True
    graph = build_encoder(tmp_path / "other.onnx", "feature-extraction", {"good": (1.0, 0.0)})
    assert encoder_contract(MODEL, Session(tmp_path / "other.onnx"), graph) is False


@pytest.mark.parametrize(
    ("name", "field", "value", "said"),
    [
        ("input_ids", "type", "tensor(int32)", r"input_ids is tensor\(int32\)"),
        ("attention_mask", "shape", [1, "sequence"], r"it must be tensor\(int64\) \[free, free\]"),
        ("logits", "type", "tensor(float16)", r"logits is tensor\(float16\)"),
        ("logits", "shape", ["batch", "sequence", "labels"], r"\[any, free, width\]"),
        ("logits", "shape", ["batch"], "logits is"),
    ],
)
def test_an_encoder_tensor_of_another_kind_is_refused(
    words: tuple[Session, Graph], name: str, field: str, value: Any, said: str
) -> None:
    """Its name, what it is and what it must be are said."""
    session, graph = words
    setattr(session.value(name), field, value)
    with pytest.raises(BundleError, match=said):
        encoder_contract(MODEL, session, graph)


def test_an_encoder_with_other_tensors_is_refused(
    words: tuple[Session, Graph], session: Session, tiny_graph: tuple[Path, Graph]
) -> None:
    """Outputs of no task, inputs that nobody feeds, a decoder."""
    theirs, graph = words
    theirs.value("logits").name = "scores"
    with pytest.raises(BundleError, match="outputs scores are those of no task"):
        encoder_contract(MODEL, theirs, msgspec.structs.replace(graph, outputs=("scores",)))
    theirs.value("attention_mask").name = "mask"
    inputs = ("input_ids", "mask", "token_type_ids")
    with pytest.raises(BundleError, match="inputs of graph and contract differ in attention_mask, mask"):
        encoder_contract(MODEL, theirs, msgspec.structs.replace(graph, outputs=("scores",), inputs=inputs))
    with pytest.raises(BundleError, match="this graph has a cache as decoders do"):
        encoder_contract(MODEL, session, tiny_graph[1])
