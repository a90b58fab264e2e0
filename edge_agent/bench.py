"""What does an answer of this bundle cost on this very machine?

`measure_decoder` measures a graph in a process of its own, so that memory and load time are the runtime's and not
those of whoever asks (`measure_encoder.py` does so for encoders); `bench_bundle` sets the decode speed beside what the
machine's memory allows. Warms up, repeats, takes medians. Knows nothing of text.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.bundle import Bundle
from edge_agent.errors import RuntimeUnavailable
from edge_agent.manifest import CacheLayout, Graph
from edge_agent.memory import available_bytes
from edge_agent.onnx_file import read_onnx
from edge_agent.runtime.engine import decoder_graph, served_graph

REPEATS: Final = 3
ENOUGH_S: Final = 6.0  # after this long no further answer is timed
READ_BYTES: Final = 2**30  # read at least this much: far above any cache
_SMALL_READ_BYTES: Final = 2**28  # where memory is short, a quarter of it four times
_TIMEOUT_S: Final = 900


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What loading, prefill and decode of one graph cost, and where.

    `ttft_ms` is the time to the first token of the prompt asked for; `fixed_ms` and `prefill_ms_per_token` are
    the line through prefills of several lengths; `decode_ms_per_token` is the mean over an answer.
    """

    load_ms: float
    ttft_ms: float
    fixed_ms: float
    prefill_ms_per_token: float
    decode_ms_per_token: float
    peak_rss_bytes: int
    threads: int
    runtime: str


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """The `--json` of `edge-agent bench`.

    Encoders answer with their first and only run: `ttft_ms` is the time of the whole answer, `prefill_tokens_per_s`
    how many tokens of text a second that is, and what speaks of decoding is None.
    """

    load_ms: float
    ttft_ms: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float | None
    decode_ms_per_token: float | None
    peak_rss_bytes: int
    weights_bytes: int
    roofline_fraction: float | None
    runtime: str
    threads: int


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the measuring process is told."""

    model_path: str
    graph: Graph
    threads: int | None
    prompt_tokens: int
    new_tokens: int


def bench_bundle(bundle: Bundle, *, threads: int | None, prompt_tokens: int, new_tokens: int) -> BenchReport:
    """Measure the `ort` graph of an open bundle; an encoder with texts of `prompt_tokens`, or of all it takes if that
    is less. Raises what `measure_decoder` raises.
    """
    if bundle.manifest.encoder is not None:
        return _bench_encoder(bundle, min(prompt_tokens, bundle.manifest.encoder.max_tokens), threads)
    graph = decoder_graph(bundle)
    path = bundle.file(graph.path)
    weights = read_onnx(path)
    cost = measure_decoder(path, graph, threads=threads, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    assert graph.cache is not None
    read_bytes = weights.bytes_per_token + cache_bytes(graph.cache, prompt_tokens + new_tokens // 2)
    floor_ms = 1e3 * read_bytes / read_bandwidth(cost.threads)
    return BenchReport(
        load_ms=cost.load_ms,
        ttft_ms=cost.ttft_ms,
        prefill_tokens_per_s=1e3 * prompt_tokens / cost.ttft_ms,
        decode_tokens_per_s=1e3 / cost.decode_ms_per_token,
        decode_ms_per_token=cost.decode_ms_per_token,
        peak_rss_bytes=cost.peak_rss_bytes,
        weights_bytes=weights.weights_bytes,
        roofline_fraction=floor_ms / cost.decode_ms_per_token,
        runtime=cost.runtime,
        threads=cost.threads,
    )


def _bench_encoder(bundle: Bundle, tokens: int, threads: int | None) -> BenchReport:
    from edge_agent.measure_encoder import measure_encoder

    graph = served_graph(bundle)
    path = bundle.file(graph.path)
    assert bundle.manifest.encoder is not None
    cost = measure_encoder(path, graph, tokens=tokens, longest=bundle.manifest.encoder.max_tokens, threads=threads)
    return BenchReport(
        load_ms=cost.load_ms,
        ttft_ms=cost.ttft_ms,
        prefill_tokens_per_s=1e3 * tokens / cost.ttft_ms,
        decode_tokens_per_s=None,
        decode_ms_per_token=None,
        peak_rss_bytes=cost.peak_rss_bytes,
        weights_bytes=read_onnx(path).weights_bytes,
        roofline_fraction=None,
        runtime=cost.runtime,
        threads=cost.threads,
    )


def measure_decoder(
    model_path: Path, graph: Graph, *, threads: int | None = None, prompt_tokens: int = 37, new_tokens: int = 96
) -> Cost:
    """Measure one decoder graph in a fresh process, with `threads` (default: one for each physical core).

    Raises RuntimeUnavailable with the process's own last words if it fails.
    """
    order = _Order(
        model_path=str(model_path.resolve()),
        graph=graph,
        threads=threads,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
    )
    answer = in_fresh_process("edge_agent.bench", msgspec.json.encode(order), str(model_path))
    return msgspec.json.decode(answer, type=Cost)


def in_fresh_process(module: str, order: bytes, what: str) -> bytes:
    """What `python -m module` writes to stdout, given `order` on stdin.

    Raises RuntimeUnavailable, which names `what` was measured, with the process's own last words if it fails.
    """
    root = str(Path(__file__).resolve().parent.parent)
    search = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=order,
            capture_output=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, "PYTHONPATH": search},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeUnavailable(f"{what}: measuring took more than {_TIMEOUT_S} s: ask for fewer tokens") from None
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RuntimeUnavailable(f"{what}: measuring ended with {done.returncode}: {' '.join(words[-1:])}")
    return done.stdout


def cache_bytes(layout: CacheLayout, positions: int) -> int:
    """Bytes of keys and values that attention reads at this length."""
    return positions * layout.bytes_per_position


def line_through(lengths: list[int], times_ms: list[float]) -> tuple[float, float]:
    """Least squares `(fixed, per_token)` with both at least 0.

    >>> [round(value, 3) for value in line_through([10, 20, 40], [15.0, 25.0, 45.0])]
    [5.0, 1.0]
    >>> [round(value, 3) for value in line_through([10, 20], [5.0, 30.0])]  # a negative start is no cost
    [0.0, 1.3]
    """
    x, y = np.asarray(lengths, float), np.asarray(times_ms, float)
    slope, start = np.polyfit(x, y, 1)
    if slope < 0:
        return float(y.mean()), 0.0
    if start < 0:
        return 0.0, float(x @ y / (x @ x))
    return float(start), float(slope)


def read_bandwidth(threads: int) -> float:
    """Bytes per second that `threads` read from memory: the best of several native reductions over 1 GiB.

    They run in NumPy, vectorized and without the interpreter's lock, each thread over its own part.
    """
    available = available_bytes()
    size_bytes = READ_BYTES if available is None or available > 2 * READ_BYTES else _SMALL_READ_BYTES
    data = np.full(size_bytes, 1, np.uint8)  # written, else all pages would be the one zero page
    rounds = READ_BYTES // size_bytes
    reads: tuple[Callable[[NDArray[np.uint8]], object], ...] = (
        np.max,
        lambda part: np.max(part.view(np.int32)),
        lambda part: np.bitwise_or.reduce(part.view(np.uint64)),
    )
    parts = np.split(data[: size_bytes - size_bytes % (8 * threads)], threads)
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for read in reads * REPEATS:
            started = time.perf_counter()
            for _ in range(rounds):
                list(pool.map(read, parts))
            best_s = min(best_s, time.perf_counter() - started)
    return sum(part.nbytes for part in parts) * rounds / best_s


# --- in the measuring process ---------------------------------------------------------------------------


def _measure_here(order: _Order) -> Cost:
    import onnxruntime  # noqa: F401  # importing it is no part of loading a model

    from edge_agent.runtime.decoder import Decoder
    from edge_agent.runtime.sampling import greedy
    from edge_agent.runtime.session import runtime_name

    lengths = sorted({max(2, round(order.prompt_tokens * times)) for times in (0.25, 0.5, 1, 2, 4)})
    context = max(lengths[-1], order.prompt_tokens + order.new_tokens)
    started = time.perf_counter()
    decoder = Decoder(Path(order.model_path), order.graph, context=context, threads=order.threads)
    load_ms = _since_ms(started)
    draw = np.random.default_rng(0)
    prompts = {n: draw.integers(0, decoder.vocabulary, n).tolist() for n in {*lengths, order.prompt_tokens}}

    def prefill_ms(length: int) -> float:
        started = time.perf_counter()
        greedy(decoder.prefill(prompts[length]))
        return _since_ms(started)

    def decode_ms() -> float:
        token_id = greedy(decoder.prefill(prompts[order.prompt_tokens]))
        started = time.perf_counter()
        for _ in range(order.new_tokens - 1):
            token_id = greedy(decoder.step(token_id))
        return _since_ms(started) / (order.new_tokens - 1)

    for length in prompts:  # the first run of each shape plans its memory
        prefill_ms(length)
    ttft_ms = median(prefill_ms(order.prompt_tokens) for _ in range(2 * REPEATS + 1))
    times_ms = [median(prefill_ms(length) for _ in range(REPEATS)) for length in lengths]
    decode_ms_per_token = median(_within(ENOUGH_S, decode_ms))
    fixed_ms, prefill_ms_per_token = line_through(lengths, times_ms)
    return Cost(
        load_ms=load_ms,
        ttft_ms=ttft_ms,
        fixed_ms=fixed_ms,
        prefill_ms_per_token=prefill_ms_per_token,
        decode_ms_per_token=decode_ms_per_token,
        peak_rss_bytes=peak_rss_bytes(),
        threads=decoder.threads,
        runtime=runtime_name(),
    )


def _within(limit_s: float, measure: Callable[[], float]) -> Iterator[float]:
    """REPEATS measurements; fewer where they take long, since a slow graph's step is steady for its length."""
    started = time.perf_counter()
    for _ in range(REPEATS):
        yield measure()
        if time.perf_counter() - started > limit_s:
            return


def _since_ms(started: float) -> float:
    return 1e3 * (time.perf_counter() - started)


def peak_rss_bytes() -> int:
    """This process's own peak. `ru_maxrss` would do elsewhere, but on Linux it survives exec from the parent."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.stdout.buffer.write(
        msgspec.json.encode(_measure_here(msgspec.json.decode(sys.stdin.buffer.read(), type=_Order)))
    )
