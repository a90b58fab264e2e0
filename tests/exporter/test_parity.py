"""A graph that does not compute what PyTorch computes is never exported."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from exporter.errors import ConversionError
from exporter.half import halve
from exporter.parity import TOLERANCE, check_parity
from tests.exporter.conftest import Exported, derived


def test_a_faithful_graph_passes_with_its_difference(tiny_llama: Exported) -> None:
    """The largest difference is returned, and is small."""
    assert 0 < check_parity(tiny_llama.model, tiny_llama.path, tiny_llama.graph) < TOLERANCE


def test_a_wrong_graph_is_refused_with_the_difference(tiny_llama: Exported) -> None:
    """One changed weight, or one that is not a number, is enough to be refused."""
    for wrong in (0.05, float("nan")):
        other = copy.deepcopy(tiny_llama.model)
        other.model.norm.weight.data[0] += wrong
        with pytest.raises(ConversionError, match="differ from PyTorch's by"):
            check_parity(other, tiny_llama.path, tiny_llama.graph)


def test_a_model_that_blows_rounding_up_is_held_against_its_own(tiny_mistral: Exported, tmp_path: Path) -> None:
    """Logits of ten thousand times the size differ by as much more; a wrong weight still differs by more than that."""

    def louder(graph: ir.Model) -> None:
        value = next(one for one in graph.graph.initializers.values() if one.shape == (64, 300))  # the head
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1e4), name=value.name)

    loud = derived(tiny_mistral, tmp_path, louder)
    model = copy.deepcopy(tiny_mistral.model)
    model.lm_head.weight.data *= 1e4
    assert TOLERANCE < check_parity(model, loud.path, loud.graph) < 1
    assert next(model.parameters()).dtype == torch.float32
    model.model.norm.weight.data[0] += 0.05
    with pytest.raises(ConversionError, match="differ from PyTorch's by"):
        check_parity(model, loud.path, loud.graph)


def test_other_dialects_and_half_floats_are_held_against_pytorch_too(standard_llama: Exported, tmp_path: Path) -> None:
    """The surrogate runs a graph for TensorRT; one in fp16 may differ by rounding and not by a wrong weight."""
    assert check_parity(standard_llama.model, standard_llama.path, standard_llama.graph) < TOLERANCE
    half = derived(standard_llama, tmp_path, halve)
    assert TOLERANCE < check_parity(half.model, half.path, half.graph) < 0.1
    other = copy.deepcopy(half.model)
    other.model.layers[0].self_attn.v_proj.weight.data[:16] *= -1
    with pytest.raises(ConversionError, match="differ from PyTorch's by"):
        check_parity(other, half.path, half.graph)
