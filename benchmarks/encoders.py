"""One sentence to its vector: the int8 bundle of all-MiniLM-L6-v2 in the agent's engine, and the model in PyTorch.

Both get text and give a pooled, normalized vector. A sample is the median of a burst, the first few left out. Knows
nothing of who else is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

SENTENCE: Final = "The museum is free on the first Sunday of every month."
_BURST: Final = 60
_WARM_UP: Final = 10

Embed = Callable[[], list[float]]


class Embedded(NamedTuple):
    """The milliseconds of one sentence, and its vector."""

    p50_ms: float
    vector: list[float]


def job(open_encoder: Callable[[Path, int], Embed], path: Path, threads: int) -> Callable[[], Embedded]:
    """Open it; what measures one round."""
    embed = open_encoder(path, threads)

    def measure() -> Embedded:
        took_ms = []
        for _ in range(_WARM_UP + _BURST):
            started = time.perf_counter()
            vector = embed()
            took_ms.append(1e3 * (time.perf_counter() - started))
        return Embedded(median(took_ms[_WARM_UP:]), vector)

    return measure


def open_agent(path: Path, threads: int) -> Embed:
    """The bundle in `path`."""
    from edge_agent.runtime.encoder_engine import open_encoder

    engine = open_encoder(path, threads=threads)
    return lambda: [float(value) for value in engine.embed([SENTENCE])[0]]


def open_pytorch(path: Path, threads: int) -> Embed:
    """The checkpoint in `path`, with the mean over tokens and the norm that its authors give."""
    import torch
    from transformers import AutoModel, AutoTokenizer, logging

    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModel.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()

    def embed() -> list[float]:
        given = tokenizer(SENTENCE, return_tensors="pt")
        pooled = model(**given).last_hidden_state[0].mean(0)
        values: list[float] = torch.nn.functional.normalize(pooled, dim=0).tolist()
        return values

    return embed


ENCODERS: Final = {"agent_minilm_int8": open_agent, "pytorch_minilm_fp32": open_pytorch}
