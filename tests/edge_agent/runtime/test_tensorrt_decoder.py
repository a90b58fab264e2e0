"""A decoder on TensorRT gives what one on ONNX Runtime gives. On stand-ins for GPU and TensorRT."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from edge_agent.errors import ContextOverflow, RuntimeUnavailable
from edge_agent.manifest import Graph
from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.gpu import Gpu
from edge_agent.runtime.tensorrt_decoder import TensorRtDecoder, open_tensorrt
from tests.edge_agent.runtime.stand_ins import HostDriver, decoder_profiles, tensorrt_over

POSITIONS = 64
CLOSE = {"atol": 2e-4, "rtol": 0}


class Bench:
    """A decoder, and what it stands on."""

    def __init__(
        self,
        tiny: tuple[Path, Graph],
        folder: Path,
        patch: pytest.MonkeyPatch,
        dialect: Literal["onnx", "plain"],
        **options: Any,
    ) -> None:
        path, graph = tiny
        fixed = POSITIONS if dialect == "onnx" else None
        layout = msgspec.structs.replace(graph.cache, positions=fixed)  # type: ignore[type-var]
        self.graph = msgspec.structs.replace(graph, dialect=dialect, cache=layout)
        self.library = tensorrt_over(path, decoder_profiles(graph, POSITIONS))
        patch.setitem(sys.modules, "tensorrt", self.library)
        self.engine = folder / "a.engine"
        self.engine.write_bytes(b"engine")
        self.driver = HostDriver(**options)
        self.gpu = Gpu(self.driver)

    def open(self, context: int | None = None, graph: Graph | None = None) -> TensorRtDecoder:
        return open_tensorrt(self.engine, graph or self.graph, self.gpu, runtime="tensorrt", context=context)


@pytest.mark.parametrize("dialect", ["onnx", "plain"])
def test_it_gives_what_onnx_runtime_gives(
    dialect: Any, tiny_graph: tuple[Path, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompt, steps, a check of more tokens than logits come at once, and one that is taken back."""
    bench = Bench(tiny_graph, tmp_path, monkeypatch, dialect)
    decoder, other = bench.open(), Decoder(*tiny_graph, context=POSITIONS, threads=1)
    ids = np.random.default_rng(0).integers(0, decoder.vocabulary, 60).tolist()
    assert (decoder.runtime, decoder.rows, decoder.context) == ("tensorrt", 1, POSITIONS)
    np.testing.assert_allclose(decoder.prefill(ids[:20]), other.prefill(ids[:20]), **CLOSE)
    for token in ids[20:25]:
        np.testing.assert_allclose(decoder.step(token), other.step(token), **CLOSE)
    np.testing.assert_allclose(decoder.check(ids[25:34]), other.check(ids[25:34]), **CLOSE)
    for one in (decoder, other):
        one.rewind(30)
    np.testing.assert_allclose(decoder.extend(ids[40:50]), other.extend(ids[40:50]), **CLOSE)
    np.testing.assert_allclose(decoder.logits(ids[::-1]), other.logits(ids[::-1]), **CLOSE)
    step, prompt = bench.library.opened[0].contexts
    assert step.runs == 5 + 1  # the ninth token of the check was alone
    assert prompt.runs > 0
    decoder.close()
    assert not bench.driver.held


def test_caches_stay_where_they_are(
    tiny_graph: tuple[Path, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`onnx` has one buffer for each half of a layer, `plain` two, and neither takes memory later."""
    sizes = {}
    for dialect in ("onnx", "plain"):
        bench = Bench(tiny_graph, tmp_path, monkeypatch, dialect)  # type: ignore[arg-type]
        decoder = bench.open()
        before = set(bench.driver.held)
        decoder.prefill(range(40))
        decoder.step(1)
        assert set(bench.driver.held) == before
        sizes[dialect] = len(before)
        assert decoder.cache.bytes_per_token == bench.graph.cache.bytes_per_position  # type: ignore[union-attr]
    assert sizes["plain"] - sizes["onnx"] == 2 * 2  # layers, halves


def test_another_thread_may_go_on(
    tiny_graph: tuple[Path, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened in the thread that builds, and used in the one that answers."""
    decoder = Bench(tiny_graph, tmp_path, monkeypatch, "plain").open()
    given: list[Any] = []
    thread = threading.Thread(target=lambda: given.append(decoder.prefill([1, 2, 3])))
    thread.start()
    thread.join()
    np.testing.assert_allclose(given[0], Decoder(*tiny_graph, context=8, threads=1).prefill([1, 2, 3]), **CLOSE)


def test_what_does_not_fit_is_refused(
    tiny_graph: tuple[Path, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context beyond the engine's, tokens beyond the context, ids outside the vocabulary, another graph's engine."""
    bench = Bench(tiny_graph, tmp_path, monkeypatch, "onnx")
    with pytest.raises(RuntimeUnavailable, match="the engine has 64 positions, not 65: serve with --context 64"):
        bench.open(context=65)
    decoder = bench.open(context=10)
    with pytest.raises(ContextOverflow):
        decoder.prefill(range(11))
    with pytest.raises(ValueError, match="outside the vocabulary"):
        decoder.prefill([384])
    with pytest.raises(ValueError, match="at most 512"):
        decoder.extend(range(513))
    with pytest.raises(RuntimeUnavailable, match=r"not those of model/decoder\.onnx"):
        bench.open(graph=msgspec.structs.replace(bench.graph, outputs=("logits",)))


def test_what_the_library_refuses_is_in_its_words(
    tiny_graph: tuple[Path, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine of another version; a GPU that is full, after which nothing of it is held."""
    bench = Bench(tiny_graph, tmp_path, monkeypatch, "onnx", memory_bytes=30_000)
    with pytest.raises(RuntimeUnavailable, match="out of memory"):
        bench.open()
    assert not bench.driver.held
    bench.engine.write_bytes(b"another")
    with pytest.raises(RuntimeUnavailable, match="tensorrt does not take this engine: magic tag does not match"):
        bench.open()
