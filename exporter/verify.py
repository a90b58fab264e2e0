"""How truthful is a candidate, against the untouched reference, on text?

A candidate runs in the runtime that will serve it, over the windows that the reference saw in PyTorch (`reference.py`),
and what is kept of each window are sums. A candidate passes if the upper end of the paired 95% interval of its accuracy
drop is inside the budget, so that luck on this text is not enough.

Does not know what was done to a candidate, nor how fast it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from edge_agent.evaluate import WINDOW_TOKENS
from edge_agent.manifest import Accuracy, Graph
from exporter.interval import interval_of_counts
from exporter.reference import Reference, Said

if TYPE_CHECKING:
    import numpy as np
    import torch

METRIC: Final = "next_token_accuracy"


class Tally(msgspec.Struct):
    """Sums over scored tokens. `lost`: the reference foresaw the token, the candidate did not; `won`: the reverse."""

    tokens: int = 0
    reference_right: int = 0
    right: int = 0
    lost: int = 0
    won: int = 0
    agreed: int = 0
    reference_nll: float = 0.0
    nll: float = 0.0
    kl: float = 0.0

    def accuracy(self, *, budget_points: float, text: str) -> Accuracy:
        """What the sums say, in percent and points."""
        n = self.tokens
        drop = interval_of_counts(self.lost, self.won, n)
        return Accuracy(
            metric=METRIC,
            reference=100 * self.reference_right / n,
            value=100 * self.right / n,
            drop_points=100 * drop.mean,
            drop_low_points=100 * drop.low,
            drop_bound_points=100 * drop.high,
            budget_points=budget_points,
            count=n,
            text=text,
            agreement=100 * self.agreed / n,
            next_token_accuracy=100 * self.right / n,
            reference_next_token_accuracy=100 * self.reference_right / n,
            kl=0.0 if self.kl < 0 else self.kl / n,  # not max(), which takes NaN for 0
            perplexity=math.exp(min(self.nll / n, 700.0)),
            reference_perplexity=math.exp(min(self.reference_nll / n, 700.0)),
        )


def verify(
    reference: Reference,
    path: Path,
    graph: Graph,
    *,
    budget_points: float,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Accuracy:
    """Score the decoder graph in `path` against what the reference said. `on_progress` gets the tokens just scored."""
    from edge_agent.runtime.decoder import Decoder

    longest = max(len(row) for row in reference.text.rows)
    decoder = Decoder(path, graph, context=min(longest, WINDOW_TOKENS))
    try:
        return score(decoder.logits, reference, budget_points=budget_points, on_progress=on_progress)
    finally:
        decoder.close()


def score(
    logits: Callable[[list[int]], np.ndarray],
    reference: Reference,
    *,
    budget_points: float,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Accuracy:
    """Score whatever gives `logits` float32 (n, vocabulary) for n ids."""
    import torch

    tally = Tally()
    for said in reference.said():
        got = torch.from_numpy(logits(said.ids)[said.scored]).log_softmax(-1)
        _add(tally, said, got)
        on_progress(len(said.targets))
    return tally.accuracy(budget_points=budget_points, text=reference.text.origin)


def _add(tally: Tally, said: Said, candidate: torch.Tensor) -> None:
    """Add one window; `candidate` holds log-probabilities (scored, vocabulary)."""
    import torch

    ours = candidate.argmax(-1)
    right, reference_right = ours == said.targets, said.top == said.targets
    tally.tokens += len(said.targets)
    tally.right += int(right.sum())
    tally.reference_right += int(reference_right.sum())
    tally.lost += int((reference_right & ~right).sum())
    tally.won += int((right & ~reference_right).sum())
    tally.agreed += int((ours == said.top).sum())
    tally.nll -= float(candidate.gather(1, said.targets[:, None]).sum(dtype=torch.float64))
    tally.reference_nll -= float(said.likelihood.sum())
    divergence = said.log_probabilities.exp() * (said.log_probabilities - candidate)
    tally.kl += float(divergence.sum(dtype=torch.float64))
