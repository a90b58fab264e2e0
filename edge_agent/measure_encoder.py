"""What does one text cost an encoder graph on this very machine? Measured in a process of its own, as decoders are.

Knows nothing of text: rows of ids, one at a time.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from edge_agent.bench import Cost, in_fresh_process, line_through, peak_rss_bytes
from edge_agent.manifest import Graph

REPEATS: Final = 9
_LENGTHS: Final = (0.25, 0.5, 1, 2, 4)  # times the tokens that were asked for


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the measuring process is told."""

    model_path: str
    graph: Graph
    threads: int | None
    tokens: int
    longest: int


def measure_encoder(
    model_path: Path, graph: Graph, *, tokens: int, longest: int | None = None, threads: int | None = None
) -> Cost:
    """Measure texts of around `tokens` tokens, of at most `longest` (default: four times as many).

    `ttft_ms` is the time of a text of `tokens`, `fixed_ms` and `prefill_ms_per_token` the line through several
    lengths; nothing is decoded, so `decode_ms_per_token` is 0. Raises RuntimeUnavailable.
    """
    order = _Order(
        model_path=str(model_path.resolve()),
        graph=graph,
        threads=threads,
        tokens=tokens,
        longest=4 * tokens if longest is None else longest,
    )
    answer = in_fresh_process("edge_agent.measure_encoder", msgspec.json.encode(order), str(model_path))
    return msgspec.json.decode(answer, type=Cost)


# --- in the measuring process ---------------------------------------------------------------------------


def _measure_here(order: _Order) -> Cost:
    import onnxruntime  # noqa: F401  # importing it is no part of loading a model

    from edge_agent.runtime.encoder import Encoder
    from edge_agent.runtime.session import runtime_name

    started = time.perf_counter()
    encoder = Encoder(Path(order.model_path), order.graph, threads=order.threads)
    load_ms = _since_ms(started)
    lengths = sorted({min(order.longest, max(2, round(order.tokens * times))) for times in _LENGTHS})
    rows = {length: [1] * length for length in {*lengths, order.tokens}}  # which ids they are costs nothing

    def text_ms(length: int) -> float:
        started = time.perf_counter()
        encoder.run([rows[length]])
        return _since_ms(started)

    for length in rows:  # the first run of each shape plans its memory
        text_ms(length)
    ttft_ms = median(text_ms(order.tokens) for _ in range(2 * REPEATS + 1))
    times_ms = [median(text_ms(length) for _ in range(REPEATS)) for length in lengths]
    fixed_ms, per_token_ms = line_through(lengths, times_ms) if len(lengths) > 1 else (times_ms[0], 0.0)
    return Cost(
        load_ms=load_ms,
        ttft_ms=ttft_ms,
        fixed_ms=fixed_ms,
        prefill_ms_per_token=per_token_ms,
        decode_ms_per_token=0.0,
        peak_rss_bytes=peak_rss_bytes(),
        threads=encoder.threads,
        runtime=runtime_name(),
    )


def _since_ms(started: float) -> float:
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    sys.stdout.buffer.write(
        msgspec.json.encode(_measure_here(msgspec.json.decode(sys.stdin.buffer.read(), type=_Order)))
    )
