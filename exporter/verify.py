"""How truthful is a candidate, against the untouched reference, on text?

The candidates run in the runtime that will serve them, the reference in PyTorch; both see the same windows, and what is
kept of each window are sums. A candidate passes if the upper end of the paired 95% interval of its accuracy drop is
inside the budget, so that luck on this text is not enough.

Does not know what was done to a candidate, nor how fast it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.manifest import Accuracy, Graph
from exporter.interval import interval_of_counts
from exporter.text import Text

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
            kl=max(0.0, self.kl / n),
            perplexity=math.exp(min(self.nll / n, 700.0)),
            reference_perplexity=math.exp(min(self.reference_nll / n, 700.0)),
        )


def verify(
    model: Any,
    candidates: Mapping[str, tuple[Path, Graph]],
    text: Text,
    *,
    budget_points: float,
    on_progress: Callable[[int], None],
) -> dict[str, Accuracy]:
    """Score every candidate (name to graph file and description) beside `model`, the fp32 torch reference.

    Each window's reference logits are computed once. `on_progress` gets the number of tokens just scored.
    """
    import torch

    from edge_agent.evaluate import windows
    from edge_agent.runtime.decoder import Decoder

    longest = max(len(row) for row in text.rows)
    decoders = {name: Decoder(path, graph, context=min(longest, 512)) for name, (path, graph) in candidates.items()}
    tallies = {name: Tally() for name in candidates}
    for row in text.rows:
        for window in windows(row):
            ids = list(window.ids)
            scored = slice(window.first_scored - 1, len(ids) - 1)
            targets = torch.tensor(ids[window.first_scored :])
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids])).logits[0, scored]
                reference = torch.log_softmax(logits, dim=-1)
            for name, decoder in decoders.items():
                got = torch.from_numpy(decoder.logits(ids)[scored])
                _add(tallies[name], reference, torch.log_softmax(got, dim=-1), targets)
            on_progress(len(targets))
    for decoder in decoders.values():
        decoder.close()
    return {name: tally.accuracy(budget_points=budget_points, text=text.origin) for name, tally in tallies.items()}


def accepted(accuracy: Accuracy) -> bool:
    """The gate: even the upper end of the interval must be inside the budget (NaN is not)."""
    return accuracy.drop_bound_points <= accuracy.budget_points


def _add(tally: Tally, reference: Any, candidate: Any, targets: Any) -> None:
    """Add one window: log-probabilities (scored, vocabulary) of both, and the tokens that came (scored,)."""
    import torch

    ours, theirs = candidate.argmax(-1), reference.argmax(-1)
    right, reference_right = ours == targets, theirs == targets
    column = targets[:, None]
    tally.tokens += len(targets)
    tally.right += int(right.sum())
    tally.reference_right += int(reference_right.sum())
    tally.lost += int((reference_right & ~right).sum())
    tally.won += int((right & ~reference_right).sum())
    tally.agreed += int((ours == theirs).sum())
    tally.nll -= float(candidate.gather(1, column).sum(dtype=torch.float64))
    tally.reference_nll -= float(reference.gather(1, column).sum(dtype=torch.float64))
    tally.kl += float((reference.exp() * (reference - candidate)).sum(dtype=torch.float64))
