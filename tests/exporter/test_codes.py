"""How each candidate's weights are coded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exporter.blocks import Blocks
from exporter.codes import Coder, promoted
from exporter.graph_file import write_graph
from exporter.quantize import matrices, rewrite
from exporter.recipes import Recipe
from exporter.rounding import round_to_nearest
from exporter.text import Text
from tests.exporter.conftest import Exported, exported, random_model

TEXT = Text(tuple(tuple(np.random.default_rng(seed).integers(0, 256, 60).tolist()) for seed in range(8)), "random")


@pytest.fixture
def coder(tiny_llama: Exported) -> Callable[[], Coder]:
    return lambda: Coder(tiny_llama.path, tiny_llama.graph, TEXT, block=32, tell=lambda what, part: None)


@pytest.mark.parametrize("method", ["round-to-nearest", "k-quant", "gptq"])
def test_int4_codes_everything_in_4_bits(method: str, coder: Callable[[], Coder]) -> None:
    """Head and embedding included, whatever the method."""
    made = coder()
    blocks = made.codes(Recipe("int4", method))
    assert {one.bits for one in blocks.values()} == {4}
    assert made.tensors(blocks) == {"embedding": "int4", "head": "int4", "linear": "int4"}
    assert all(one.codes.flags.c_contiguous for one in blocks.values())  # a tied head is stored once only then
    assert made.record(Recipe("int4", method), blocks).parameters["method"] == method


def test_a_block_that_does_not_divide_becomes_a_smaller_one(tiny_llama: Exported) -> None:
    """No matrix is left out for its width, nor coded by another method; the record tells."""
    made = Coder(tiny_llama.path, tiny_llama.graph, TEXT, block=128, tell=lambda what, part: None)
    widths = {name: one.rows.shape[1] for name, one in matrices(ir.load(tiny_llama.path)).items()}
    blocks = made.codes(Recipe("int4", "gptq"))
    assert blocks.keys() == widths.keys()
    wanted = {name: next(size for size in (128, 64, 32) if width % size == 0) for name, width in widths.items()}
    assert {name: one.block for name, one in blocks.items()} == wanted
    assert made.record(Recipe("int4", "gptq"), blocks).parameters["smaller_blocks"] == sorted(
        {*wanted.values()} - {128}
    )


def test_mixed_gives_8_bits_to_the_ends_and_to_what_is_most_sensitive(
    tiny_llama: Exported, coder: Callable[[], Coder]
) -> None:
    """Head and embedding, and at least one layer but not more than half of them."""
    made = coder()
    blocks = made.codes(Recipe("mixed", "k-quant"))
    body = [name for name, one in matrices(ir.load(tiny_llama.path)).items() if not one.embeds]
    eights = [name for name in body if blocks[name].bits == 8]
    assert 1 <= len(eights) <= len(body) // 2
    told = made.tensors(blocks)
    assert (told["embedding"], told["head"], told["linear"]) == ("int8", "int8", "int4+int8")
    assert set(eights) < set(made.record(Recipe("mixed", "k-quant"), blocks).parameters["int8"])


def test_the_promoted_are_those_whose_4_bits_cost_most() -> None:
    """The fewest groups whose rest costs a quarter; half of them at most; nothing where nothing costs."""
    assert promoted({"a": 1.0, "b": 10.0, "c": 8.0, "d": 1.0, "e": 1.0, "f": 1.0}) == ["b", "c"]
    assert promoted(dict.fromkeys("abcd", 1.0)) == ["a", "b"]
    assert promoted(dict.fromkeys("abcd", 0.0)) == []


def test_codes_of_the_source_are_kept(tmp_path: Path) -> None:
    """Weights that were stored in 4 bits come back exactly, embedding in 8, and the coder knows it."""
    model = random_model("Llama", tie_word_embeddings=True)
    case = exported(model, tmp_path / "fp32")
    graph = ir.load(case.path)
    bits = {name: 8 if one.embeds else 4 for name, one in matrices(graph).items()}
    stored = {name: round_to_nearest(one.rows, bits[name]).dequantized() for name, one in matrices(graph).items()}
    for name, one in matrices(graph).items():
        array = np.ascontiguousarray(stored[name].T if one.transposed else stored[name])
        graph.graph.initializers[name].const_value = ir.tensor(array, name=name)
    path = tmp_path / "stored.onnx"
    write_graph(graph, path)
    coder = Coder(path, case.graph, TEXT, block=32, tell=lambda what, part: None)
    assert coder.on_grid
    recipe = Recipe("mixed", "source")
    blocks = coder.codes(recipe)
    for name, one in blocks.items():
        assert one.bits == bits[name]
        assert np.allclose(one.dequantized(), stored[name], atol=1e-5)
    assert coder.record(recipe, blocks).parameters["kept_codes"] == len(blocks)


def test_random_weights_are_on_no_grid(coder: Callable[[], Coder]) -> None:
    """A checkpoint in floats is not taken for a quantized one."""
    assert not coder().on_grid


def test_codes_run(tiny_llama: Exported, coder: Callable[[], Coder], tmp_path: Path) -> None:
    """The mixed graph loads and errs less than the 4-bit one."""
    from edge_agent.runtime.decoder import Decoder

    ids = list(TEXT.rows[0])
    wanted = Decoder(tiny_llama.path, tiny_llama.graph, context=64, threads=1).logits(ids)
    made = coder()

    def error(blocks: dict[str, Blocks], name: str) -> float:
        graph = ir.load(tiny_llama.path)
        rewrite(graph, blocks)
        path = tmp_path / f"{name}.onnx"
        write_graph(graph, path)
        return float(np.abs(Decoder(path, tiny_llama.graph, context=64, threads=1).logits(ids) - wanted).mean())

    small = error(made.codes(Recipe("int4", "round-to-nearest")), "int4")
    assert error(made.codes(Recipe("mixed", "round-to-nearest")), "mixed") < small
    assert error(made.codes(Recipe("int8")), "int8") < 0.3 * small
