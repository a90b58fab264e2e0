"""The graph that quantized weights leave behind: its nodes, its files, and what it computes."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_agent.runtime.decoder import Decoder
from exporter.blocks import Blocks
from exporter.errors import ConversionError
from exporter.graph_file import write_graph
from exporter.grid import find_grid
from exporter.quantize import matrices, rewrite
from exporter.rounding import round_to_nearest
from tests.exporter.conftest import Exported, exported, random_model


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        logits: np.ndarray = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits


def test_every_matrix_is_found_with_what_feeds_it(tiny_llama: Exported) -> None:
    """Two layers of five products, and the embedding, which is the head as well."""
    import onnx_ir as ir

    found = matrices(ir.load(tiny_llama.path))
    assert len(found) == 11
    (ends,) = [one for one in found.values() if one.embeds]
    assert ends.rows.shape == (300, 64)
    assert len(ends.inputs) == 1
    assert sorted({one.rows.shape for one in found.values() if not one.embeds}) == [
        (64, 64),
        (64, 96),
        (96, 64),
        (128, 64),
    ]


@pytest.mark.parametrize("bits", [4, 8])
def test_all_weights_are_quantized_and_the_tied_ones_stored_once(
    bits: int, tiny_llama: Exported, tmp_path: Path
) -> None:
    """No fp32 matrix is left, head and embedding included, and both point to the same bytes of the data file."""
    import onnx_ir as ir

    model = ir.load(tiny_llama.path)
    rewrite(model, {name: round_to_nearest(one.rows, bits) for name, one in matrices(model).items()})
    path = tmp_path / "decoder.onnx"
    write_graph(model, path)
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


@pytest.mark.parametrize(("bits", "block"), [(4, 32), (4, 64), (8, 32)])
def test_the_graph_computes_with_the_dequantized_weights(
    bits: int, block: int, tiny_llama: Exported, tmp_path: Path
) -> None:
    """The quantized graph's logits are PyTorch's with the dequantized weights, but for rounded activations."""
    import onnx_ir as ir
    import torch

    twin = copy.deepcopy(tiny_llama.model)
    for module in twin.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            rounded = round_to_nearest(module.weight.detach().numpy(), bits, block).dequantized()
            module.weight.data = torch.from_numpy(rounded)

    model = ir.load(tiny_llama.path)
    rewrite(model, {name: round_to_nearest(one.rows, bits, block) for name, one in matrices(model).items()})
    path = tmp_path / "decoder.onnx"
    write_graph(model, path)
    ids = np.random.default_rng(0).integers(0, 256, 40).tolist()
    wanted = logits_of(twin, ids)
    got = Decoder(path, tiny_llama.graph, context=64, threads=1).logits(ids)
    assert np.abs(got - wanted).mean() / np.abs(wanted).mean() < 0.04


def test_offsets_are_computed(tmp_path: Path) -> None:
    """Weights on grids with minima of their own, as Q4_1 has them, keep their values: prefill and one-token steps."""
    import onnx_ir as ir
    import torch

    model = random_model("Llama", tie_word_embeddings=False)
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                rows, columns = module.weight.shape
                low, step = (draw.uniform(a, b, (rows, columns // 32, 1)) for a, b in ((-0.4, 0.1), (0.01, 0.03)))
                grid = low + step * draw.integers(0, 16, (rows, columns // 32, 32))
                module.weight.copy_(torch.from_numpy(grid.reshape(rows, columns)))
    case = exported(model, tmp_path / "fp32")
    graph = ir.load(case.path)
    found = {name: find_grid(one.rows, 4) for name, one in matrices(graph).items() if not one.embeds}
    assert all(blocks is not None and blocks.offsets is not None for blocks in found.values())
    ids = draw.integers(0, 256, 40).tolist()
    wanted = logits_of(model, ids)

    def error(name: str, blocks: dict[str, Blocks]) -> float:
        changed = ir.load(case.path)
        rewrite(changed, blocks)
        path = tmp_path / f"{name}.onnx"
        write_graph(changed, path)
        decoder = Decoder(path, case.graph, context=64, threads=1)
        decoder.prefill(ids[:20])
        steps = np.array([decoder.step(token).copy() for token in ids[20:]])
        errors = np.abs(decoder.logits(ids) - wanted).mean(), np.abs(steps - wanted[20:]).mean()
        return float(max(errors) / np.abs(wanted).mean())

    blocks = {name: one for name, one in found.items() if one is not None}
    assert error("kept", blocks) < 0.08
    assert error("kept", blocks) < 0.3 * error(
        "left out", {name: msgspec.structs.replace(one, offsets=None) for name, one in blocks.items()}
    )


def test_an_embedding_with_offsets_is_refused(tiny_llama: Exported) -> None:
    """A lookup of rows has no inputs to add them by."""
    import onnx_ir as ir

    model = ir.load(tiny_llama.path)
    (name,) = [name for name, one in matrices(model).items() if one.embeds]
    blocks = round_to_nearest(matrices(model)[name].rows, 4)
    odd = Blocks(bits=4, block=32, columns=64, codes=blocks.codes, scales=blocks.scales,
                 zero_points=blocks.zero_points, offsets=blocks.scales)  # fmt: skip
    with pytest.raises(ConversionError, match="looked up by rows"):
        rewrite(model, {name: odd})


def test_a_graph_without_weights_is_refused() -> None:
    """Quantizing nothing is an error, not a success."""
    import onnx_ir as ir

    x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Identity", [x])
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 21})
    with pytest.raises(ConversionError, match="nothing to quantize"):
        matrices(ir.Model(graph, ir_version=10))
