"""How do feed-forward channels share weights, so that a layer becomes R times as narrow and changes least?

Channels with similar weights are clustered (k-means on their normalized rows, from those that give most on calibration
text, each weighing what it gives, so that important channels share only with their like). Each cluster keeps the
channel with the most activation energy and gives it the columns of the others, each scaled by the least squares fit of
that channel by the kept one. Then all kept columns are fitted together: with a the channels' activations on
calibration text, G = E[a a^T], k the kept ones and W0 the merged columns,

    W' = argmin E||W a - W' a_k||^2 + lambda ||W' - W0||^2 = (W G_ak + lambda W0) (G_kk + lambda I)^-1.

The ridge pulls towards the merge instead of zero: with fewer tokens than channels it is the merge that decides. How
much of it is right is asked of the text: each half judges what was fitted to the other (two-fold cross-validation).

Does not know how channels are taken out (`shrink.py`), nor what the answer loses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge_agent.manifest import Pass
from exporter.activations import second_moments, windows_of
from exporter.errors import ConversionError
from exporter.linear import matrix
from exporter.prune import reload_note
from exporter.prune_width import WIDTH_STEP, channel_energy, kept_width
from exporter.shrink import remove_channels
from exporter.structure import FeedForward, feed_forwards_of
from exporter.text import Text

if TYPE_CHECKING:
    import torch

RIDGES: Final = (0.01, 0.1, 1.0, 10.0, 100.0)  # times the mean energy of a kept channel
_KMEANS_ROUNDS: Final = 10
_MOMENTS_BYTES: Final = 512_000_000  # of all layers that are measured in one pass over the text


def compress(model: Any, factor: float, calibration: Text, *, on_progress: Callable[[float], None]) -> Pass:
    """Make each feed-forward of `model` narrower by `factor` (more than 1), in place, and return the record.

    Raises ConversionError where the layout is not known or the factor comes to no or all channels.
    """

    if not 1 < factor < float("inf"):
        raise ConversionError(f"a compression by {factor:g} does not make anything smaller: use a factor above 1")
    layers = feed_forwards_of(model)
    width = layers[0].width
    keep = kept_width(width, width / factor, f"compressing by {factor:g}")
    before = sum(parameter.numel() for parameter in model.parameters())
    halves = _halves(model, calibration)
    sizes = [sum(map(len, half.rows)) for half in halves]
    shared: list[_Shared] = []
    for part in _parts(layers):
        start = len(shared) / len(layers)

        def told(share: float, start: float = start, size: int = len(part)) -> None:
            on_progress(start + share * size / len(layers) / 4)

        downs = {one.name: one.down for one in part}
        moments = [second_moments(model, half, downs, None, told) for half in halves]
        for one in part:
            shared.append(_shared(one, [half.pop(one.name)[0].double() for half in moments], sizes, keep))
            on_progress(len(shared) / len(layers))
    remove_channels(model, [one.kept for one in shared])
    errors, unseen = [one.error for one in shared], [one.unseen_error for one in shared]
    return Pass(
        name="compress",
        parameters={
            "method": "feed-forward channels clustered by their weights, outputs merged by least squares",
            "factor": factor,
            "channels_before": width,
            "channels_after": keep,
            **({"rounded_to_multiples_of": WIDTH_STEP} if width % WIDTH_STEP == 0 else {}),
            "relative_output_error_mean": float(f"{sum(errors) / len(errors):.4g}"),
            "relative_output_error_worst": float(f"{max(errors):.4g}"),
            "relative_output_error_unseen_mean": float(f"{sum(unseen) / len(unseen):.4g}"),
            "ridge": "by two-fold cross-validation, " + _counted([one.ridge for one in shared]),
            "calibration": calibration.origin,
            "parameters_before": before,
            "parameters_after": sum(parameter.numel() for parameter in model.parameters()),
            **reload_note(model),
        },
    )


def clusters(rows: torch.Tensor, weights: torch.Tensor, count: int) -> torch.Tensor:
    """k-means on float32 (n, features), each row of a weight in float32 (n,), above 0: the cluster of each row, int64
    (n,), none of the `count` clusters empty.
    """
    import torch

    centres = rows[weights.argsort(descending=True, stable=True)[:count]]
    squares = rows.pow(2).sum(1)
    chosen = torch.zeros(len(rows), dtype=torch.int64)
    for _ in range(_KMEANS_ROUNDS):
        distances = squares[:, None] - 2 * rows @ centres.T + centres.pow(2).sum(1)
        nearest = distances.argmin(1)
        _fill_empty(nearest, distances * weights[:, None], count)
        if torch.equal(nearest, chosen):
            break
        chosen = nearest
        sums = torch.zeros_like(centres).index_add_(0, chosen, rows * weights[:, None])
        centres = sums / torch.zeros(count).index_add_(0, chosen, weights)[:, None]
    return chosen


def merged(
    down: torch.Tensor, moments: torch.Tensor, cluster: torch.Tensor, kept: torch.Tensor, ridge: float
) -> torch.Tensor:
    """The kept columns for `down` (outputs, channels), by E[a a^T], each channel's cluster and each cluster's channel.

    All float64; `kept` (clusters,) holds channel indices, `ridge` is times the mean energy of those. Returns
    (outputs, clusters).
    """
    import torch

    heads = kept[cluster]  # the channel that stands for each channel
    energy = moments.diagonal()
    scale = moments[torch.arange(len(heads)), heads] / energy[heads].clamp_min(torch.finfo(torch.float64).tiny)
    scale[kept] = 1
    start = torch.zeros(len(down), len(kept), dtype=torch.float64).index_add_(1, cluster, down * scale)
    pull = ridge * float(energy[kept].mean()) + torch.finfo(torch.float64).tiny
    inner = moments[kept][:, kept] + pull * torch.eye(len(kept), dtype=torch.float64)
    wanted = down @ moments[:, kept] + pull * start
    fitted: torch.Tensor = torch.linalg.solve(inner, wanted.T).T
    return fitted


class _Shared(NamedTuple):
    """The channels that a layer keeps, int64 (keep,), and how its outputs change: on all calibration text, and on the
    half to which its columns were not fitted (the clusters were made with all).
    """

    kept: torch.Tensor
    ridge: float
    error: float
    unseen_error: float


def _shared(one: FeedForward, halves: Sequence[torch.Tensor], sizes: Sequence[int], keep: int) -> _Shared:
    """Give the kept channels' columns what all gave, and the others nothing. `halves` are E[a a^T] of each half,
    `sizes` their tokens.
    """
    import torch

    weight = matrix(one.down)
    down = weight.double()
    moments = sum(half * size for half, size in zip(halves, sizes, strict=True)) / sum(sizes)
    energy = channel_energy(down, moments.diagonal())
    floor = float(energy.mean()) * 1e-6 + torch.finfo(torch.float32).tiny  # channels that say nothing lie somewhere too
    cluster = clusters(_channel_rows(one), energy.clamp_min(floor).float(), keep)
    order = energy.argsort(stable=True)
    rank = order.argsort()
    kept = order[torch.zeros(keep, dtype=torch.int64).scatter_reduce(0, cluster, rank, "amax")]

    def unseen(ridge: float) -> float:
        """Mean of both halves, each with the columns that were fitted to the other."""
        fits = (merged(down, half, cluster, kept, ridge) for half in halves)
        return sum(_error(down, fit, kept, half) for fit, half in zip(fits, reversed(halves), strict=True)) / 2

    unseen_error, ridge = min((unseen(ridge), ridge) for ridge in RIDGES)
    columns = merged(down, moments, cluster, kept, ridge)
    weight.zero_()  # layers behind are measured with what this one will give
    weight[:, kept] = columns.float()
    return _Shared(kept.sort().values, ridge, _error(down, columns, kept, moments), unseen_error)


def _error(down: torch.Tensor, columns: torch.Tensor, kept: torch.Tensor, moments: torch.Tensor) -> float:
    """How much the outputs change, relative to them, when only `kept` channels speak, through `columns`."""
    change = down.clone()
    change[:, kept] -= columns
    whole, lost = (float(((side @ moments) * side).sum()) for side in (down, change))
    return float((max(lost, 0.0) / whole) ** 0.5) if whole > 0 else 0.0


def _halves(model: Any, calibration: Text) -> tuple[Text, Text]:
    """The text's windows, the longest first to the half with fewer tokens; a single window is cut in two."""
    windows = windows_of(model, calibration)
    if len(windows) < 2:
        windows = windows_of(model, calibration, max(2, len(windows[0]) // 2))
    halves: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
    for window in sorted(windows, key=len, reverse=True):
        min(halves, key=lambda half: sum(map(len, half))).append(window)
    one, other = (Text(tuple(half or windows), calibration.origin) for half in halves)
    return one, other


def _counted(ridges: Sequence[float]) -> str:
    """How many layers took which.

    >>> _counted([1.0, 0.1, 1.0])
    '0.1 in 1, 1 in 2 layers'
    """
    return ", ".join(f"{ridge:g} in {ridges.count(ridge)}" for ridge in sorted(set(ridges))) + " layers"


def _channel_rows(one: FeedForward) -> torch.Tensor:
    """What makes each channel, (channels, features): its rows of every inner layer, each of length one."""
    import torch

    rows = [matrix(inner) for inner in one.inner]
    if one.packed:
        rows = [rows[0][: one.width], rows[0][one.width :]]
    return torch.cat([torch.nn.functional.normalize(part, dim=1) for part in rows], dim=1)


def _fill_empty(nearest: torch.Tensor, distances: torch.Tensor, count: int) -> None:
    """Give each empty cluster the row that is furthest from its centre, of clusters with more than one."""
    sizes = nearest.bincount(minlength=count)
    for empty in (sizes == 0).nonzero()[:, 0].tolist():
        own = distances.gather(1, nearest[:, None])[:, 0].clone()
        own[sizes[nearest] < 2] = -float("inf")
        row = int(own.argmax())
        sizes[nearest[row]] -= 1
        nearest[row], sizes[empty] = empty, 1


def _parts(layers: Sequence[FeedForward]) -> Iterator[Sequence[FeedForward]]:
    """Runs of layers whose float32 moments fit the bound together; at least one layer each."""
    at_once = max(1, _MOMENTS_BYTES // (4 * layers[0].width ** 2))
    for start in range(0, len(layers), at_once):
        yield layers[start : start + at_once]
