"""A graph that does not compute what PyTorch computes is never exported."""

from __future__ import annotations

import copy

import pytest

from exporter.errors import ConversionError
from exporter.parity import TOLERANCE, check_parity
from tests.exporter.conftest import Exported


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
