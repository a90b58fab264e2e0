"""Which operators a graph may hold. That every graph of the exporter does is held by tests/exporter/conftest.py."""

from __future__ import annotations

import pytest
from onnx import defs

from edge_agent.onnx_operators import OPERATORS, refusal

# ONNX Runtime's name for an operator that ONNX calls RMSNormalization, in the domain of ONNX.
ONLY_ONNX_RUNTIME = {"SimplifiedLayerNormalization"}


def test_listed_operators_are_operators_of_onnx() -> None:
    """A name that is misspelt would allow nothing, and nobody would see."""
    known = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    assert OPERATORS[""] - ONLY_ONNX_RUNTIME <= known


def test_no_listed_operator_holds_a_graph_or_takes_more_than_tensors() -> None:
    """By ONNX's own schemas: no graphs for attributes, no sequences, optionals or texts alone for inputs."""
    latest = {schema.name: schema for schema in defs.get_all_schemas() if schema.domain == ""}
    for name in OPERATORS[""] - ONLY_ONNX_RUNTIME:
        schema = latest[name]
        kinds = {attribute.type.name for attribute in schema.attributes.values()}
        assert not kinds & {"GRAPH", "GRAPHS"}, name
        for formal in (*schema.inputs, *schema.outputs):
            assert any(kind.startswith("tensor(") and kind != "tensor(string)" for kind in formal.types), name


@pytest.mark.parametrize(
    ("domain", "op_type"),
    [
        ("", "Loop"), ("", "If"), ("", "Scan"), ("ai.onnx", "RandomUniform"), ("", "ImageDecoder"), ("", "StringSplit"),
        ("", ""), ("", "matmul"), ("com.microsoft", "EPContext"), ("ai.onnx.ml", "Scaler"),
        ("com.microsoft.nchwc", "Conv"), ("pkg.mine", "MatMul"),
    ],
)  # fmt: skip
def test_others_are_refused(domain: str, op_type: str) -> None:
    """With the name that is refused."""
    assert repr(op_type) in (refusal(domain, op_type) or "")
