"""An encoder's graph that does not compute what PyTorch computes is never exported."""

from __future__ import annotations

import copy
from pathlib import Path

import msgspec
import onnx_ir as ir
import pytest

from exporter.encoder_parity import TOLERANCE, check_encoder_parity
from exporter.errors import ConversionError
from tests.exporter.encoder_models import exported_encoder


def test_a_faithful_graph_passes_with_its_difference() -> None:
    """The largest difference is returned, and is small."""
    model, task, info, path, graph = exported_encoder("Bert", "feature-extraction")
    assert 0 < check_encoder_parity(model, task, info, path, graph) < TOLERANCE


def test_a_wrong_graph_is_refused_with_the_difference() -> None:
    """One changed weight, or one that is not a number, is enough to be refused."""
    model, task, info, path, graph = exported_encoder("Bert", "feature-extraction")
    for wrong in (0.5, float("nan")):
        other = copy.deepcopy(model)
        other.encoder.layer[0].output.LayerNorm.weight.data[0] += wrong
        with pytest.raises(ConversionError, match="BertModel is not carried faithfully"):
            check_encoder_parity(other, task, info, path, graph)


def test_other_pooling_than_the_manifest_says_is_refused() -> None:
    """The reference pools as the manifest says, whatever the graph does."""
    model, task, info, path, graph = exported_encoder("Bert", "feature-extraction")
    with pytest.raises(ConversionError, match="differ from PyTorch's by"):
        check_encoder_parity(model, task, msgspec.structs.replace(info, pooling="cls"), path, graph)


def test_a_graph_that_looks_at_padding_is_refused(tmp_path: Path) -> None:
    """Attention without its mask is right for rows alone, and wrong in a padded batch."""
    model, task, info, path, graph = exported_encoder("Roberta", "text-classification")
    loaded = ir.load(path)
    for node in loaded.graph:
        if node.op_type == "MultiHeadAttention":
            node.replace_input_with(4, None)
    ir.save(loaded, tmp_path / "blind.onnx", external_data="blind.data")
    with pytest.raises(ConversionError, match="differ from PyTorch's by"):
        check_encoder_parity(model, task, info, tmp_path / "blind.onnx", graph)
