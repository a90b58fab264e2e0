"""The lengths that an engine is built for: from names of dimensions to ranges."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.manifest import CacheLayout, Graph
from exporter.errors import ConversionError
from exporter.shapes import KEPT_AT_MOST, PROMPT_TOKENS, ShapeRange, default_shapes, input_dimensions
from tests.exporter.conftest import Exported

ENCODER = Graph(path="model/encoder.onnx", dialect="plain", inputs=("input_ids",), outputs=("logits",))
DECODER = Graph(
    path="model/decoder.onnx",
    dialect="plain",
    inputs=("input_ids", "logits_to_keep", "past_key_values.0.key"),
    outputs=("logits",),
    cache=CacheLayout(layers=1, kv_heads=2, head_dim=16, dtype="float16"),
)


def test_decoder_gets_one_profile_for_a_token_and_one_for_a_prompt() -> None:
    """Decoding is tuned for one token, prefill for a question, both over the whole context."""
    dimensions = {
        "input_ids": ("batch", "sequence"),
        "logits_to_keep": ("kept",),
        "past_key_values.0.key": ("batch", 2, "positions", 16),
    }
    decode, prefill = default_shapes(DECODER, dimensions, context=1024, prefill_apart=True).profiles
    assert (decode.name, prefill.name) == ("decode", "prefill")
    assert decode.inputs["input_ids"] == ShapeRange(minimum=(1, 1), optimum=(1, 1), maximum=(1, 1))
    assert prefill.inputs["input_ids"] == ShapeRange(minimum=(1, 1), optimum=(1, PROMPT_TOKENS), maximum=(1, 1024))
    assert prefill.inputs["logits_to_keep"].maximum == (KEPT_AT_MOST,)
    for profile in (decode, prefill):
        assert profile.inputs["past_key_values.0.key"].minimum == (1, 2, 1, 16)
        assert profile.inputs["past_key_values.0.key"].maximum == (1, 2, 1024, 16)


def test_decoder_in_one_profile_is_tuned_for_a_token() -> None:
    """Where prefill is not apart, one profile takes every length and is tuned for decoding."""
    (both,) = default_shapes(DECODER, {"input_ids": ("batch", "sequence")}, context=1024, prefill_apart=False).profiles
    assert both.inputs["input_ids"] == ShapeRange(minimum=(1, 1), optimum=(1, 1), maximum=(1, 1024))


def test_fixed_cache_stays_fixed() -> None:
    """A size that the graph fixes is the same in minimum, optimum and maximum."""
    dimensions = {"past_key_values.0.key": ("batch", 2, 512, 16)}
    shape = (
        default_shapes(DECODER, dimensions, context=512, prefill_apart=True).profiles[0].inputs["past_key_values.0.key"]
    )
    assert shape.minimum == shape.optimum == shape.maximum == (1, 2, 512, 16)


def test_encoder_takes_several_texts() -> None:
    """An encoder gets one profile, from one short text to eight of full length."""
    (profile,) = default_shapes(ENCODER, {"input_ids": ("batch", "sequence")}, context=64, prefill_apart=True).profiles
    assert profile.inputs["input_ids"] == ShapeRange(minimum=(1, 1), optimum=(1, 64), maximum=(8, 64))


def test_unknown_dimension_is_refused_by_name() -> None:
    """A dimension that nobody explained is no reason to guess a length."""
    with pytest.raises(ConversionError, match=r"input pixels has a dimension 'height'; lengths are known for batch"):
        default_shapes(ENCODER, {"pixels": ("batch", 3, "height")}, context=64, prefill_apart=True)


def test_range_that_shrinks_is_refused() -> None:
    """A maximum below its minimum is an error where it is written, not in the builder."""
    with pytest.raises(ValueError, match="must not shrink"):
        ShapeRange(minimum=(2,), optimum=(1,), maximum=(4,))


def test_dimensions_are_read_from_the_file(tiny_llama: Exported) -> None:
    """The names of a real graph's dimensions are those that default ranges know."""
    dimensions = input_dimensions(tiny_llama.path)
    assert tuple(dimensions) == tiny_llama.graph.inputs
    assert dimensions["input_ids"] == ("batch", "sequence")
    assert dimensions["past_key_values.0.key"] == ("batch", 2, "positions", 16)
    shapes = default_shapes(tiny_llama.graph, dimensions, context=64, prefill_apart=True)
    assert [profile.name for profile in shapes.profiles] == ["decode", "prefill"]


def test_dimension_without_a_name_is_refused(tmp_path: Path) -> None:
    """An input whose size nobody knows cannot be given a range."""
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph), tmp_path / "nameless.onnx")
    with pytest.raises(ConversionError, match="input x has a dimension without size or name"):
        input_dimensions(tmp_path / "nameless.onnx")
