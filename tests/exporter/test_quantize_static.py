"""Static int8: ranges from calibration text, symmetric, in the form that TensorRT reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edge_agent.runtime.encoder import Encoder
from exporter.errors import CalibrationError
from exporter.quantize_static import METHODS, Method, quantize_static
from tests.exporter.encoder_models import ExportedEncoder, exported_encoder

DRAW = np.random.default_rng(0)
BATCHES = [
    {
        "input_ids": DRAW.integers(0, 300, (1, length)),
        "attention_mask": np.ones((1, length), np.int64),
        "token_type_ids": np.zeros((1, length), np.int64),
    }
    for length in (5, 9, 9, 14, 3, 20)
]


@pytest.fixture
def bert() -> ExportedEncoder:
    return exported_encoder("Bert", "feature-extraction")


def test_the_form_is_that_of_tensorrt(bert: ExportedEncoder, tmp_path: Path) -> None:
    """Pairs before each product, zero points of 0, one scale for each output channel, none behind the product."""
    precision = quantize_static(bert.path, tmp_path / "encoder.onnx", BATCHES, method="minmax")
    assert precision == {"linear": "int8", "activations": "int8", "embedding": "fp32", "norm": "fp32"}
    model = ir.load(tmp_path / "encoder.onnx")
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["MatMul"] == 6
    assert kinds["DequantizeLinear"] > kinds["QuantizeLinear"] > 0  # weights are stored in int8
    for node in model.graph:
        if node.op_type == "MatMul":
            sources = [value.producer() for value in node.inputs]
            assert [source.op_type for source in sources] == ["DequantizeLinear"] * 2
            weight = sources[1]
            assert weight.inputs[0].const_value.dtype == ir.DataType.INT8
            assert weight.inputs[1].const_value.shape == (weight.inputs[0].const_value.shape[1],)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not node.inputs[2].const_value.numpy().any()
            assert not any(user.op_type == "QuantizeLinear" for user in node.outputs[0].consumers())


@pytest.mark.parametrize("method", METHODS)
def test_texts_of_any_length_calibrate(
    method: Method, bert: ExportedEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each method takes texts of unlike lengths, says nothing, and stays close to fp32."""
    quantize_static(bert.path, tmp_path / "encoder.onnx", BATCHES, method=method)
    ours, theirs = (Encoder(path, bert.graph, threads=1) for path in (tmp_path / "encoder.onnx", bert.path))
    row = BATCHES[3]["input_ids"].tolist()
    cosine = float((ours.run(row)["embedding"] * theirs.run(row)["embedding"]).sum())
    assert 0.98 < cosine < 1 - 1e-7
    assert capsys.readouterr() == ("", "")


def test_methods_find_different_ranges(bert: ExportedEncoder, tmp_path: Path) -> None:
    """The extremes of all texts are the widest range that any method gives."""
    scales = {}
    for method in METHODS:
        target = tmp_path / f"{method}.onnx"
        quantize_static(bert.path, target, BATCHES, method=method)
        nodes = [node for node in ir.load(target).graph if node.op_type == "QuantizeLinear"]
        scales[method] = np.array([float(node.inputs[1].const_value.numpy()) for node in nodes])
    assert (scales["entropy"] <= scales["minmax"] * 1.001).all()
    assert (scales["percentile"] <= scales["minmax"] * 1.001).all()
    assert (scales["percentile"] < scales["minmax"]).all()
    assert (scales["entropy"] != scales["percentile"]).any()


def test_without_texts_there_are_no_ranges(bert: ExportedEncoder, tmp_path: Path) -> None:
    """It is said before anything is written."""
    with pytest.raises(CalibrationError, match="needs calibration text"):
        quantize_static(bert.path, tmp_path / "encoder.onnx", [], method="minmax")
    assert list(tmp_path.iterdir()) == []
