"""Dynamic int8: integers in every product and lookup, and numbers close to those of fp32."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edge_agent.runtime.encoder import Encoder
from exporter.errors import ConversionError
from exporter.quantize_dynamic import constant_products, quantize_dynamic
from tests.exporter.encoder_models import exported_encoder

ROWS = [[5, 6, 7, 8, 9], [11, 12]]


def test_products_and_lookups_become_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every linear layer multiplies integers, the attention stays one node, the file shrinks, and nothing is said."""
    case = exported_encoder("Bert", "feature-extraction")
    target = tmp_path / "encoder.onnx"
    precision = quantize_dynamic(case.path, target)
    assert precision == {"linear": "int8", "activations": "int8", "embedding": "int8", "norm": "fp32"}
    model = ir.load(target)
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["MatMulInteger"] == 6
    assert not kinds["MatMul"]
    assert kinds["MultiHeadAttention"] == 1
    tables = [n.inputs[0].const_value for n in model.graph if n.op_type == "Gather" and n.inputs[0].const_value]
    assert {table.dtype for table in tables if table.nbytes > 100} == {ir.DataType.UINT8}
    data = [path.with_name(path.name + ".data").stat().st_size for path in (case.path, target)]
    assert data[1] < 0.5 * data[0]  # alignment of small tensors takes its share
    assert capsys.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.onnx", "encoder.onnx.data"]


def test_the_numbers_stay_close(tmp_path: Path) -> None:
    """Vectors point where those of fp32 point, within what 8 bits allow."""
    case = exported_encoder("Bert", "feature-extraction")
    quantize_dynamic(case.path, tmp_path / "encoder.onnx")
    ours, theirs = (Encoder(path, case.graph, threads=1) for path in (tmp_path / "encoder.onnx", case.path))
    for row in ROWS:
        cosine = float((ours.run([row])["embedding"] * theirs.run([row])["embedding"]).sum())
        assert 0.99 < cosine < 1 - 1e-7


def test_two_quantizations_are_the_same_bytes(tmp_path: Path) -> None:
    """The content hash of a bundle must not depend on when it was made."""
    case = exported_encoder("Bert", "feature-extraction")
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        quantize_dynamic(case.path, tmp_path / name / "encoder.onnx")
        written.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert written[0] == written[1]


def test_a_graph_without_products_is_refused(tmp_path: Path) -> None:
    """Nothing to quantize is said, and nothing written."""
    value = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Identity", [value])
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 21})
    with pytest.raises(ConversionError, match="nothing to quantize"):
        constant_products(ir.Model(graph, ir_version=10))
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "source.onnx")
    with pytest.raises(ConversionError, match="nothing to quantize"):
        quantize_dynamic(tmp_path / "source.onnx", tmp_path / "target.onnx")
    assert not (tmp_path / "target.onnx").exists()


def test_the_class_is_computed_like_the_rest(tmp_path: Path) -> None:
    """The head of a classifier is a linear layer too, and gives the same label."""
    case = exported_encoder("Roberta", "text-classification")
    quantize_dynamic(case.path, tmp_path / "encoder.onnx")
    ours, theirs = (Encoder(path, case.graph, threads=1) for path in (tmp_path / "encoder.onnx", case.path))
    for row in ROWS:
        both = [one.run([row])["logits"][0] for one in (ours, theirs)]
        assert both[0].argmax() == both[1].argmax()
        assert np.abs(both[0] - both[1]).max() < 0.5
