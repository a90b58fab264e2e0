"""The surrogate runs what TensorRT will run, one sequence at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporter.errors import ConversionError
from exporter.surrogate import SurrogateDecoder
from tests.exporter.conftest import Exported


def test_the_cache_is_of_the_asked_size(standard_llama: Exported) -> None:
    """A graph whose caches have 64 positions is scored with fewer, and gives the same logits."""
    ids = list(range(12))
    narrow = SurrogateDecoder(standard_llama.path, standard_llama.graph, context=12, threads=1)
    wide = SurrogateDecoder(standard_llama.path, standard_llama.graph, context=64, threads=1)
    assert narrow.vocabulary == 300
    assert np.abs(narrow.logits(ids) - wide.logits(ids)).max() < 1e-4


def test_each_sequence_starts_over(standard_llama: Exported) -> None:
    """`prefill` and `logits` forget what came before, `extend` and `step` go on from it."""
    decoder = SurrogateDecoder(standard_llama.path, standard_llama.graph, context=16, threads=1)
    first = decoder.prefill([5, 6, 7])
    decoder.step(8)
    assert decoder.length == 4
    assert np.array_equal(decoder.prefill([5, 6, 7]), first)
    assert decoder.length == 3
    assert np.abs(decoder.extend([8, 9]) - decoder.logits([5, 6, 7, 8, 9])[-1]).max() < 1e-4


def test_more_than_the_context_is_refused(standard_llama: Exported) -> None:
    """A sequence that does not fit is refused with the numbers."""
    decoder = SurrogateDecoder(standard_llama.path, standard_llama.graph, context=4, threads=1)
    with pytest.raises(ConversionError, match="5 tokens do not fit into a context of 4"):
        decoder.prefill([1, 2, 3, 4, 5])


def test_what_is_served_needs_no_surrogate(tiny_llama: Exported) -> None:
    """Dialect `ort` is run by the runtime that serves it, never by this."""
    with pytest.raises(ConversionError, match="dialect 'ort' is served as it is"):
        SurrogateDecoder(tiny_llama.path, tiny_llama.graph, context=8)


def test_a_graph_that_the_runtime_refuses_is_one_line(standard_llama: Exported, tmp_path: Path) -> None:
    """A file whose weights are missing is refused by name, on one line."""
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(standard_llama.path.read_bytes())
    with pytest.raises(ConversionError, match=r"alone\.onnx: ONNX Runtime refuses the graph: [^\n]+$"):
        SurrogateDecoder(alone, standard_llama.graph, context=8)
