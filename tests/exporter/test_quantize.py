"""Block-wise quantization: its error, its layout, and the graph it leaves behind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.runtime.decoder import Decoder
from exporter.errors import ConversionError
from exporter.graph_file import write_graph
from exporter.quantize import BLOCK, quantize, quantize_matrix
from tests.exporter.conftest import Exported


@given(
    bits=st.sampled_from([4, 8]),
    rows=st.integers(1, 5),
    columns=st.integers(1, 100),
    scale=st.floats(1e-6, 1e6),
    shift=st.floats(-3, 3),
    seed=st.integers(0, 1000),
)
def test_no_weight_moves_by_more_than_its_step(
    bits: int, rows: int, columns: int, scale: float, shift: float, seed: int
) -> None:
    """A weight comes back within one step of its block: half for rounding it, half for the zero point's rounding."""
    weights = ((np.random.default_rng(seed).standard_normal((rows, columns)) + shift) * scale).astype(np.float32)
    blocks = quantize_matrix(weights, bits)
    steps = np.repeat(blocks.scales, BLOCK, axis=1)[:, :columns]
    assert np.all(np.abs(blocks.dequantized() - weights) <= steps * 1.001)


@given(bits=st.sampled_from([4, 8]), seed=st.integers(0, 1000))
def test_zero_stays_zero(bits: int, seed: int) -> None:
    """Zero is representable in every block, whatever else is in it."""
    weights = np.random.default_rng(seed).uniform(1, 2, (2, 64)).astype(np.float32)
    weights[:, ::7] = 0
    assert np.all(quantize_matrix(weights, bits).dequantized()[:, ::7] == 0)


def test_many_rows_quantize_as_few_do() -> None:
    """The matrix is worked on in pieces; where they are cut does not matter."""
    weights = np.random.default_rng(0).standard_normal((9000, 64)).astype(np.float32)
    whole, part = quantize_matrix(weights, 4), quantize_matrix(weights[8100:], 4)
    assert np.array_equal(whole.codes[8100:], part.codes)
    assert np.array_equal(whole.zero_points[8100:], part.zero_points)


@pytest.mark.parametrize("bits", [4, 8])
def test_all_weights_are_quantized_and_the_tied_ones_stored_once(
    bits: int, tiny_llama: Exported, tmp_path: Path
) -> None:
    """No fp32 matrix is left, head and embedding included, and both point to the same bytes of the data file."""
    import onnx_ir as ir

    model = ir.load(tiny_llama.path)
    precision = quantize(model, bits)
    path = tmp_path / "decoder.onnx"
    write_graph(model, path)
    assert precision["embedding"] == precision["linear"] == f"int{bits}"
    loaded = ir.load(path)
    counts = Counter(node.op_type for node in loaded.graph)
    assert counts["MatMulNBits"] == 11
    assert counts["GatherBlockQuantized"] == 1
    assert not counts.keys() & {"MatMul", "FusedMatMul", "Gemm"}
    head, gather = (
        next(node for node in loaded.graph if node.op_type == op and node.outputs[0].name == name)
        for op, name in (("MatMulNBits", "logits"), ("GatherBlockQuantized", "embedding"))
    )
    stored = [node.const_value for node in (head.inputs[1], gather.inputs[0]) if node is not None]
    assert len({(tensor.offset, tensor.length) for tensor in stored}) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("bits", [4, 8])
def test_the_graph_computes_with_the_dequantized_weights(bits: int, tiny_llama: Exported, tmp_path: Path) -> None:
    """The quantized graph's logits are PyTorch's with the dequantized weights, but for rounded activations."""
    import copy

    import onnx_ir as ir
    import torch

    twin = copy.deepcopy(tiny_llama.model)
    for module in twin.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            rounded = quantize_matrix(module.weight.detach().numpy(), bits).dequantized()
            module.weight.data = torch.from_numpy(rounded)

    model = ir.load(tiny_llama.path)
    quantize(model, bits)
    path = tmp_path / "decoder.onnx"
    write_graph(model, path)
    ids = np.random.default_rng(0).integers(0, 256, 40).tolist()
    with torch.inference_mode():
        wanted = twin(input_ids=torch.tensor([ids])).logits[0].numpy()
    got = Decoder(path, tiny_llama.graph, context=64, threads=1).logits(ids)
    error = np.abs(got - wanted).mean() / np.abs(wanted).mean()
    assert error < 0.04


def test_a_graph_without_weights_is_refused() -> None:
    """Quantizing nothing is an error, not a success."""
    import onnx_ir as ir

    x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Identity", [x])
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 21})
    with pytest.raises(ConversionError, match="nothing to quantize"):
        quantize(ir.Model(graph, ir_version=10), 4)
