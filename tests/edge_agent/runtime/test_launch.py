"""A bundle is opened with the best runtime that is here, and it is known why not with a better one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.bundle import open_bundle
from edge_agent.errors import RuntimeUnavailable
from edge_agent.manifest import Graph, Sample
from edge_agent.runtime import launch
from edge_agent.runtime.engine_build import key_of
from edge_agent.runtime.engine_cache import cache_folder, keeping
from edge_agent.runtime.gpu import Gpu
from edge_agent.runtime.launch import BEING_BUILT, Opening, open_answerer
from edge_agent.runtime.switching import Switching
from exporter.engine import engine_runtimes
from hub import wire
from tests.edge_agent.encoder_bundles import encoder_bundle
from tests.edge_agent.runtime.engine_bundles import engine_bundle, entry, recipe, samples_of
from tests.edge_agent.runtime.stand_ins import HostDriver, decoder_profiles, tensorrt_over
from tests.exporter.test_engine import SHAPES, matmul_file

POSITIONS = 128
MATMUL = Graph(path="", dialect="onnx", inputs=("x",), outputs=("y",))
OPENING = Opening(context=None, threads=1, parallel=2, prefix_bytes=1_000_000)
needs_wheel = pytest.mark.skipif(not engine_runtimes(), reason="TensorRT-RTX is not installed (x86-64 Linux only)")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """An Orin's GPU, as far as its driver can be stood in for."""
    found = Gpu(HostDriver())
    monkeypatch.setattr(launch, "open_gpu", lambda: found)
    return found


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Gpu:
        raise RuntimeUnavailable("no NVIDIA driver is here")

    monkeypatch.setattr(launch, "open_gpu", none)


def ask(answerer: Switching) -> str:
    ticket = answerer.begin(wire.Question(question="?", max_tokens=3), should_stop=lambda: False)
    while True:
        for ended, outcome in answerer.advance():
            assert ended is ticket
            return outcome.text or ""  # type: ignore[union-attr]


@needs_wheel
@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_cpu_answers_and_each_better_one_has_a_reason(
    make_bundle: Callable[..., Path], tiny_graph: tuple[Path, Graph], tmp_path: Path
) -> None:
    """In what the hub and Prometheus are told."""
    made, product = recipe("tensorrt-rtx", SHAPES), matmul_file(tmp_path / "m.onnx")
    path = engine_bundle(make_bundle, product, MATMUL, tiny_graph[1], made, profile="desktop-rtx-4060")
    answerer = open_answerer(open_bundle(path), OPENING)
    served = answerer.served
    assert (served.runtime, served.progress, answerer.parallel) == ("cpu", None, 2)
    assert served.why.startswith("tensorrt-rtx: no NVIDIA driver is here; cuda: the graph's caches are float32")
    assert ask(answerer)
    answerer.close()


def test_a_bundle_for_the_cpu_has_nothing_to_explain(tiny_bundle: Path) -> None:
    """No better runtime, no reason; its cost is measured."""
    answerer = open_answerer(open_bundle(tiny_bundle), OPENING)
    assert (answerer.served.runtime, answerer.served.why) == ("cpu", "")
    assert answerer.served.decode_ms_per_token != 2.0  # what the manifest says
    answerer.close()


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        (
            "tensorrt",
            "does not run on tensorrt: the bundle, for desktop-cpu, has no engine and no recipe for it: export",
        ),
        ("cuda", "does not run on cuda: the graph's caches are float32"),
    ],
)
def test_a_runtime_that_is_named_is_had_or_refused(runtime: Any, reason: str, tiny_bundle: Path) -> None:
    """There is no falling back from it."""
    with pytest.raises(RuntimeUnavailable, match=f"tiny-desktop-cpu-.* {reason}"):
        open_answerer(open_bundle(tiny_bundle), msgspec.structs.replace(OPENING, runtime=runtime))


def test_other_tokens_than_where_it_was_made_are_refused(tiny_bundle: Path, make_bundle: Callable[..., Path]) -> None:
    """On the CPU, too: fewer than 90% of them equal, with the numbers. One in 48 may differ."""
    samples = samples_of(tiny_bundle)
    other = [(token + 1) % 300 for token in samples[0].token_ids]
    one = Sample(prompt=samples[0].prompt, token_ids=(*samples[0].token_ids[:-1], other[-1]))
    path = make_bundle(samples=(one, *samples[1:]))
    open_answerer(open_bundle(path), OPENING).close()
    for file in (path.parent / "staging", path):
        if file.exists():
            file.rename(file.with_name(f"{file.name}-before"))
    wrong = Sample(prompt=samples[0].prompt, token_ids=tuple(other))
    path = make_bundle(samples=(wrong, *samples[1:]))
    with pytest.raises(RuntimeUnavailable, match=r"this machine gives other tokens .*: \d\d of 48 tokens equal, 90%"):
        open_answerer(open_bundle(path), OPENING)


def test_an_encoder_that_gives_other_numbers_is_refused(tmp_path: Path) -> None:
    """By the mean cosine of its samples; the same numbers are served."""
    rows = {"good": (3.0, 4.0)}
    for name, output in (("same", (3.0, 4.0)), ("other", (3.0, -4.0))):
        folder = tmp_path / name
        folder.mkdir()
        bundle = open_bundle(
            encoder_bundle(folder, "feature-extraction", rows, samples=[Sample(prompt="good", output=output)])
        )
        if name == "same":
            open_answerer(bundle, OPENING).close()
        else:
            with pytest.raises(RuntimeUnavailable, match=r"a mean cosine of -0\.280 over 1 samples, 0\.99 is needed"):
                open_answerer(bundle, OPENING)


@needs_wheel
def test_an_engine_is_built_behind_the_cpus_back_as_far_as_it_goes_without_a_gpu(
    make_bundle: Callable[..., Path], tiny_graph: tuple[Path, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real builder builds it, the real runtime then wants a GPU: the node stays on the CPU and says why."""
    monkeypatch.setattr(launch, "open_gpu", lambda: Gpu(HostDriver(capability=(8, 9))))
    made, product = recipe("tensorrt-rtx", SHAPES), matmul_file(tmp_path / "m.onnx")
    path = engine_bundle(make_bundle, product, MATMUL, tiny_graph[1], made, profile="desktop-rtx-4060")
    answerer = open_answerer(open_bundle(path), OPENING)
    assert answerer.served.why.startswith(f"tensorrt-rtx: {BEING_BUILT}; cuda: ")
    assert 0 <= (answerer.served.progress or 0.0) <= 1
    assert ask(answerer)
    preparation = answerer._preparation
    assert preparation is not None
    assert preparation.wait(60)
    assert len(list(cache_folder().glob("*/engine"))) == 1
    answerer.tend()
    served = answerer.served
    assert (served.runtime, served.progress) == ("cpu", None)
    assert served.why.startswith("tensorrt-rtx: engine: tensorrt-rtx does not take this engine: ")
    assert ask(answerer)
    answerer.close()


class Orin:
    """A bundle for a Jetson, on stand-ins for its GPU and its TensorRT."""

    def __init__(self, make_bundle: Callable[..., Path], tiny: tuple[Path, Graph], tiny_bundle: Path, gpu: Gpu) -> None:
        path, graph = tiny
        fixed = msgspec.structs.replace(graph.cache, positions=POSITIONS)  # type: ignore[type-var]
        made = recipe("tensorrt", SHAPES)
        onnx = msgspec.structs.replace(graph, cache=fixed)
        samples = samples_of(tiny_bundle)
        self.path = engine_bundle(make_bundle, path, onnx, graph, made, profile="jetson-orin", samples=samples)
        self.bundle = open_bundle(self.path)
        self.key = key_of(self.bundle, entry(made), gpu, "10.3.0")
        self.profiles = decoder_profiles(graph, POSITIONS)

    def keep(self) -> None:
        """As if it had built its engine before."""
        with keeping(cache_folder(), self.key) as engine:
            engine.write_bytes(b"engine")


def test_an_engine_that_was_built_before_answers_at_once(
    make_bundle: Callable[..., Path],
    tiny_graph: tuple[Path, Graph],
    tiny_bundle: Path,
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that gives the samples; and it answers as the CPU does."""
    orin = Orin(make_bundle, tiny_graph, tiny_bundle, gpu)
    orin.keep()
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_over(tiny_graph[0], orin.profiles))
    answerer = open_answerer(orin.bundle, OPENING)
    served = answerer.served
    assert (served.runtime, served.why, served.context, answerer.parallel) == ("tensorrt", "", POSITIONS, 1)
    cpu = open_answerer(orin.bundle, msgspec.structs.replace(OPENING, runtime="cpu"))
    assert ask(answerer) == ask(cpu) == ask(answerer)
    for one in (answerer, cpu):
        one.close()
    assert not gpu._driver.held


def test_an_engine_that_gives_other_tokens_is_not_used(
    make_bundle: Callable[..., Path], make_graph: Callable[..., Graph], tiny_graph: tuple[Path, Graph],
    tiny_bundle: Path, gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """However fast: the CPU answers, the numbers are told, and the GPU's memory is given back."""
    orin = Orin(make_bundle, tiny_graph, tiny_bundle, gpu)
    orin.keep()
    make_graph(tmp_path / "other.onnx", seed=1)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_over(tmp_path / "other.onnx", orin.profiles))
    answerer = open_answerer(orin.bundle, OPENING)
    assert answerer.served.runtime == "cpu"
    assert answerer.served.why.startswith("tensorrt: this machine gives other tokens than where it was made: ")
    assert not gpu._driver.held
    answerer.close()
    with pytest.raises(RuntimeUnavailable, match="does not run on tensorrt: this machine gives other tokens"):
        open_answerer(orin.bundle, msgspec.structs.replace(OPENING, runtime="tensorrt"))


def test_an_engine_that_cannot_be_checked_is_not_used(
    make_bundle: Callable[..., Path],
    tiny_graph: tuple[Path, Graph],
    tiny_bundle: Path,
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No sample fits into so small a context."""
    orin = Orin(make_bundle, tiny_graph, tiny_bundle, gpu)
    orin.keep()
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_over(tiny_graph[0], orin.profiles))
    answerer = open_answerer(orin.bundle, msgspec.structs.replace(OPENING, context=16))
    assert answerer.served.why.startswith(
        "tensorrt: what it gives cannot be checked: no sample fits into a context of 16"
    )
    answerer.close()
