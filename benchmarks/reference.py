"""The text that accuracy is measured on, and what PyTorch says of it in fp32; how far a contender is from that.

The text is sampled from the model itself, by another seed than the one by which the exporter calibrates and judges, so
that nobody has seen it. A contender reads the beginning of each row at once and the rest token by token, as it decodes,
because a quantized graph runs other kernels there than over a prompt; the agent's bundles read it once more as guesses
are checked, several tokens a run. Made once and kept in bundles/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from contenders import CONTENDERS, Logits
from numpy.typing import NDArray

SEED: Final = 20_261_125
GIVEN_TOKENS: Final = 16  # of a row, read at once
CHECKED_TOKENS: Final = 5  # of one run that checks a guess
_TOKENS: Final = 1200  # at least so many are scored


class Distance(NamedTuple):
    """From the reference, over `tokens`: the mean KL divergence in nats, and how often the top token is the same."""

    tokens: int
    kl: float
    same_top_percent: float


class Reference(NamedTuple):
    """`rows` int64 (rows, tokens), and the file with the log-probabilities of what follows token GIVEN_TOKENS - 1 and
    each later one but the last, float32 (rows, tokens - GIVEN_TOKENS, vocabulary).
    """

    rows: NDArray[np.int64]
    said: Path


def open_reference(folder: Path) -> Reference:
    """What `write_reference` has written there."""
    return Reference(np.load(folder / "rows.npy"), folder / "log_probabilities.npy")


def write_reference(source: Path, folder: Path) -> None:
    """Sample the text from the model in `source`, and let it say what it thinks of it."""
    import torch

    from exporter.source import open_source
    from exporter.text import texts_from_model

    opened = open_source(str(source))
    sampled = texts_from_model(opened.model, opened.tokenizer, seed=SEED).evaluation.rows
    rows = torch.tensor(sampled[: -(-_TOKENS // (len(sampled[0]) - GIVEN_TOKENS))])
    with torch.inference_mode():
        said = [opened.model(row[None]).logits[0, GIVEN_TOKENS - 1 : -1].log_softmax(-1) for row in rows]
    folder.mkdir()
    np.save(folder / "rows.npy", rows.numpy())
    np.save(folder / "log_probabilities.npy", torch.stack(said).numpy())


def distance(reference: Reference, name: str, path: Path, threads: int) -> Distance:
    """Of the contender `name`, opened from `path`."""
    contender = CONTENDERS[name](path, threads)

    def thinks(row: list[int]) -> Iterator[Logits]:
        contender.first(row[:GIVEN_TOKENS])
        yield contender.logits()
        for token_id in row[GIVEN_TOKENS:-1]:
            contender.next(token_id)
            yield contender.logits()

    return distance_of(reference, thinks)


def checked_kl(reference: Reference, path: Path, threads: int) -> float:
    """The KL divergence of the bundle in `path` where each run checks a guess that comes true."""
    from edge_agent.runtime.engine import open_engine

    decoder = open_engine(path, threads=threads).decoder

    def thinks(row: list[int]) -> Iterator[Logits]:
        decoder.reset()
        yield decoder.extend(row[:GIVEN_TOKENS])
        for at in range(GIVEN_TOKENS, len(row) - 1, CHECKED_TOKENS):
            yield from decoder.check(row[at : min(at + CHECKED_TOKENS, len(row) - 1)])

    return distance_of(reference, thinks).kl


def distance_of(reference: Reference, thinks: Callable[[list[int]], Iterator[Logits]]) -> Distance:
    """Of whatever gives logits for a row."""
    said = np.load(reference.said, mmap_mode="r")
    divergences, same = [], 0
    for row, its_said in zip(reference.rows.tolist(), said, strict=True):
        for wanted, logits in zip(its_said, thinks(row), strict=True):
            divergences.append(divergence(wanted, logits))
            same += int(wanted.argmax() == logits.argmax())
    return Distance(len(divergences), float(np.mean(divergences)), 100 * same / len(divergences))


def divergence(wanted: Logits, logits: Logits) -> float:
    """KL(p || q) in nats of the log-probabilities `wanted` and of `logits`.

    >>> even, sure = np.log(np.array([0.5, 0.5])), np.array([0.0, np.log(3.0)])
    >>> round(divergence(even, even + 7), 6), round(divergence(even, sure), 6)
    (0.0, 0.143841)
    """
    p, q = wanted.astype(np.float64), logits.astype(np.float64)
    q = q - q.max()
    q -= np.log(np.exp(q).sum())
    return float(np.exp(p) @ (p - q))
