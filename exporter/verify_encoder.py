"""How truthful is an encoder candidate, against the untouched reference, on texts?

The reference's outputs were computed in PyTorch once (`encoder_reference.py`); the candidate runs here, in the runtime
that will serve it, one text at a time as it is served (dynamic int8 scales a whole batch at once). Vectors are compared
by their cosine, labels and answers by whether they are the reference's own, or, where the right ones are known, by how
many of them each gets right.

Does not know what was done to a candidate, nor how fast it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_agent.manifest import Accuracy, EncoderInfo, Graph
from exporter.encoder_reference import Outputs
from exporter.encoder_texts import Item
from exporter.interval import Interval, interval_of_counts, interval_of_differences

if TYPE_CHECKING:
    import numpy as np

    from edge_agent.runtime.encoder_engine import BestAnswer


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
    items: Sequence[Item],
    *,
    task: str,
    encoder: EncoderInfo,
    is_graded: bool,
    budget_points: float,
    text: str,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Accuracy:
    """Score the graph in `path` on the rows of `items`, of which `reference_outputs` gave `reference`, row by row.

    Metrics: `cosine` for feature-extraction; where `is_graded`, `accuracy` for text-classification and `qa_accuracy`
    for question-answering, the share of items with a right answer; else `agreement` of texts, of tokens (the special
    ones too) or of answers. `text` says where the items come from, `on_progress` gets the rows just scored.
    """
    from edge_agent.runtime.encoder import Encoder

    runtime = Encoder(path, graph)
    outputs: list[Outputs] = []
    for item in items:
        for row in item.rows:
            outputs.append({name: values[0] for name, values in runtime.run([row.ids], [row.types]).items()})
            on_progress(1)
    runtime.close()
    if task == "feature-extraction":
        verdict = _cosine(_stacked(reference, "embedding"), _stacked(outputs, "embedding"))
    elif task == "question-answering":
        verdict = _answers(items, reference, outputs, is_graded=is_graded)
    else:
        ours, theirs = (_logits(side, len(encoder.labels)) for side in (outputs, reference))
        verdict = _choices(theirs, ours, [encoder.labels.index(one.answers[0]) for one in items] if is_graded else None)
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
    agreement = float(agreed.mean())
    if right is None:
        return _of_agreement(agreed, kl)
    hits, reference_hits = _top(ours) == np.asarray(right), _top(reference) == np.asarray(right)
    return _of_hits("accuracy", reference_hits, hits, agreement, kl)


def _answers(
    items: Sequence[Item], reference: Sequence[Outputs], ours: Sequence[Outputs], *, is_graded: bool
) -> _Verdict:
    """The answer to each item, chosen from all its windows as it is served."""
    import numpy as np

    from edge_agent.evaluate import is_right

    theirs, mine = _chosen(items, reference), _chosen(items, ours)
    agreed = np.array(
        [_place(one) is not None and _place(one) == _place(other) for one, other in zip(theirs, mine, strict=True)]
    )
    if not is_graded:
        return _of_agreement(agreed, None)
    reference_hits, hits = (
        np.array([one is not None and is_right(one.text, item.answers) for one, item in zip(side, items, strict=True)])
        for side in (theirs, mine)
    )
    return _of_hits("qa_accuracy", reference_hits, hits, float(agreed.mean()), None)


def _chosen(items: Sequence[Item], outputs: Sequence[Outputs]) -> list[BestAnswer | None]:
    """The answer to each item from the outputs of its rows; None where a number is none."""
    rest = iter(outputs)
    return [_answer(item, [next(rest) for _ in item.rows]) for item in items]


def _place(answer: BestAnswer | None) -> tuple[int, int] | None:
    return None if answer is None else (answer.start, answer.end)


def _answer(item: Item, outputs: Sequence[Outputs]) -> BestAnswer | None:
    import numpy as np

    from edge_agent.runtime.encoder_engine import best_answer

    logits = [(one["start_logits"], one["end_logits"]) for one in outputs]
    if not all(np.isfinite(side).all() for pair in logits for side in pair):
        return None
    return best_answer(item.text, item.rows, logits)


def _of_hits(metric: str, reference: np.ndarray, ours: np.ndarray, agreement: float, kl: float | None) -> _Verdict:
    """Of what each got right, bool (items)."""
    lost, won = int((reference & ~ours).sum()), int((ours & ~reference).sum())
    return _Verdict(
        metric=metric,
        reference=float(reference.mean()),
        value=float(ours.mean()),
        drop=interval_of_counts(lost, won, len(ours)),
        count=len(ours),
        agreement=agreement,
        kl=kl,
    )


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
