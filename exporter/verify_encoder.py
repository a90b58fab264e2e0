"""How truthful is an encoder candidate, against the untouched reference, on texts?

The reference's outputs were computed in PyTorch once (`encoder_reference.py`); the candidate runs here, in the runtime
that will serve it, one text at a time as it is served (dynamic int8 scales a whole batch at once). Vectors are compared
by their cosine, labels and answers by whether they are the reference's own, or, where the right labels are known, by
how many of them each gets right.

Does not know what was done to a candidate, nor how fast it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_agent.manifest import Accuracy, EncoderInfo, Graph
from exporter.encoder_reference import Outputs
from exporter.interval import Interval, interval_of_counts, interval_of_differences

if TYPE_CHECKING:
    import numpy as np


class _Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Fractions (not percent): the metric of both, the drop with its interval, and of how many items."""

    metric: str
    reference: float
    value: float
    drop: Interval
    count: int
    agreement: float | None = None
    kl: float | None = None
    cosine: float | None = None


def verify_encoder(
    reference: Sequence[Outputs],
    path: Path,
    graph: Graph,
    rows: Sequence[Sequence[int]],
    *,
    task: str,
    encoder: EncoderInfo,
    labels: Sequence[str] | None,
    budget_points: float,
    text: str,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Accuracy:
    """Score the graph in `path` on `rows` of token ids, of which `reference_outputs` gave `reference`.

    Metrics: `cosine` for feature-extraction; `accuracy` for text-classification with the right `labels`, one a row;
    `agreement` elsewhere, of texts, of tokens (the special ones too) or of answers (beginning and end both the
    reference's). `text` says where the rows come from, `on_progress` gets the rows just scored.
    """
    from edge_agent.runtime.encoder import Encoder

    runtime = Encoder(path, graph)
    outputs: list[Outputs] = []
    for ids in rows:
        outputs.append({name: values[0] for name, values in runtime.run([ids]).items()})
        on_progress(1)
    runtime.close()
    if task == "feature-extraction":
        verdict = _cosine(_stacked(reference, "embedding"), _stacked(outputs, "embedding"))
    elif task == "question-answering":
        verdict = _answers(reference, outputs)
    else:
        ours, theirs = (_logits(side, len(encoder.labels)) for side in (outputs, reference))
        verdict = _choices(theirs, ours, None if labels is None else [encoder.labels.index(label) for label in labels])
    return _accuracy(verdict, budget_points, text)


def _cosine(reference: np.ndarray, ours: np.ndarray) -> _Verdict:
    """Of vectors (texts, width); one without length or with a NaN has no cosine, and passes no gate."""
    import numpy as np

    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(ours, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.minimum((reference * ours).sum(axis=1) / lengths, 1.0)  # above 1 is rounding
    mean = float(cosines.mean())
    drop = interval_of_differences(1 - cosines)
    return _Verdict(metric="cosine", reference=1.0, value=mean, drop=drop, count=len(cosines), cosine=mean)


def _choices(reference: np.ndarray, ours: np.ndarray, right: Sequence[int] | None) -> _Verdict:
    """Of logits (items, labels)."""
    import numpy as np

    agreed = _top(ours) == _top(reference)
    kl = float(np.mean(_divergence(reference, ours)))
    count = len(agreed)
    agreement = float(agreed.mean())
    if right is None:
        return _of_agreement(agreed, kl)
    hits, reference_hits = _top(ours) == np.asarray(right), _top(reference) == np.asarray(right)
    lost, won = int((reference_hits & ~hits).sum()), int((hits & ~reference_hits).sum())
    return _Verdict(
        metric="accuracy",
        reference=float(reference_hits.mean()),
        value=float(hits.mean()),
        drop=interval_of_counts(lost, won, count),
        count=count,
        agreement=agreement,
        kl=kl,
    )


def _answers(reference: Sequence[Outputs], ours: Sequence[Outputs]) -> _Verdict:
    import numpy as np

    agreed = [
        all(int(_top(one[name][None])[0]) == int(_top(theirs[name][None])[0]) for name in theirs)
        for one, theirs in zip(ours, reference, strict=True)
    ]
    return _of_agreement(np.asarray(agreed), None)


def _of_agreement(agreed: np.ndarray, kl: float | None) -> _Verdict:
    share = float(agreed.mean())
    drop = interval_of_counts(int((~agreed).sum()), 0, len(agreed))
    return _Verdict(
        metric="agreement", reference=1.0, value=share, drop=drop, count=len(agreed), agreement=share, kl=kl
    )


def _top(logits: np.ndarray) -> np.ndarray:
    """The likeliest of the last axis; -1 where a number is none, which agrees with nothing."""
    import numpy as np

    return np.where(np.isfinite(logits).all(axis=-1), logits.argmax(axis=-1), -1)


def _divergence(reference: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of (items, labels) logits, natural log, one an item."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        theirs, mine = (side - np.logaddexp.reduce(side, axis=1, keepdims=True) for side in (reference, ours))
    divergence: np.ndarray = np.maximum((np.exp(theirs) * (theirs - mine)).sum(axis=1), 0)
    return divergence


def _logits(outputs: Sequence[Outputs], labels: int) -> np.ndarray:
    """float64 (items, labels); of token logits each token is an item."""
    import numpy as np

    return np.concatenate([one["logits"].reshape(-1, labels) for one in outputs]).astype(np.float64)


def _stacked(outputs: Sequence[Outputs], name: str) -> np.ndarray:
    import numpy as np

    return np.stack([one[name] for one in outputs]).astype(np.float64)


def _accuracy(verdict: _Verdict, budget_points: float, text: str) -> Accuracy:
    return Accuracy(
        metric=verdict.metric,
        reference=100 * verdict.reference,
        value=100 * verdict.value,
        drop_points=100 * verdict.drop.mean,
        drop_low_points=100 * verdict.drop.low,
        drop_bound_points=100 * verdict.drop.high,
        budget_points=budget_points,
        count=verdict.count,
        text=text,
        agreement=None if verdict.agreement is None else 100 * verdict.agreement,
        kl=verdict.kl,
        cosine=verdict.cosine,
    )
