"""Caches bound once, as past and present of one buffer: run on the CPU provider, which binds the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import RuntimeUnavailable
from edge_agent.manifest import Graph
from edge_agent.runtime.cuda_decoder import CudaDecoder
from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.session import CPU_PROVIDER

CLOSE = {"atol": 2e-4, "rtol": 0}


def test_it_gives_what_the_cpus_decoder_gives(tiny_graph: tuple[Path, Graph]) -> None:
    """Prompt, steps, a check and its taking back; every run reads what the runs before have left in the caches."""
    decoder = CudaDecoder(*tiny_graph, context=600, provider=CPU_PROVIDER, device="cpu")
    other = Decoder(*tiny_graph, context=600, threads=1)
    ids = np.random.default_rng(0).integers(0, decoder.vocabulary, 600).tolist()
    np.testing.assert_allclose(decoder.prefill(ids[:530]), other.prefill(ids[:530]), **CLOSE)
    for token in ids[530:540]:
        np.testing.assert_allclose(decoder.step(token), other.step(token), **CLOSE)
    np.testing.assert_allclose(decoder.check(ids[540:560]), other.check(ids[540:560]), **CLOSE)
    for one in (decoder, other):
        one.rewind(550)
    np.testing.assert_allclose(decoder.extend(ids[100:110]), other.extend(ids[100:110]), **CLOSE)
    np.testing.assert_allclose(decoder.prefill(ids[:5]), other.prefill(ids[:5]), **CLOSE)
    assert (decoder.rows, decoder.runtime, decoder.length) == (1, "cuda", 5)
    decoder.close()


def test_without_cuda_it_is_not_opened(tiny_graph: tuple[Path, Graph]) -> None:
    """It is not run on the CPU under CUDA's name."""
    with pytest.raises(RuntimeUnavailable, match="built without CUDAExecutionProvider"):
        CudaDecoder(*tiny_graph, context=8)


def test_caches_without_room_are_told_with_their_size(tiny_graph: tuple[Path, Graph]) -> None:
    """A device that cannot be had is such a place."""
    with pytest.raises(RuntimeUnavailable, match=r"no room for 0 MB of caches on cuda .*--context"):
        CudaDecoder(*tiny_graph, context=8, provider=CPU_PROVIDER, device="cuda")
