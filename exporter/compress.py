"""How do feed-forward channels share weights, so that a layer becomes R times as narrow and changes least?

Channels with similar weights are clustered (k-means, seeded as k-means++, on their normalized rows). Each cluster keeps
the channel with the most activation energy and gives it the columns of the others, each scaled by the least squares fit
of that channel by the kept one. Then all kept columns are fitted together: with a the channels' activations on
calibration text, G = E[a a^T], k the kept ones and W0 the merged columns,

    W' = argmin E||W a - W' a_k||^2 + lambda ||W' - W0||^2 = (W G_ak + lambda W0) (G_kk + lambda I)^-1.

The ridge pulls towards the merge instead of zero: with fewer tokens than channels it is the merge that decides.

Does not know how channels are taken out (`shrink.py`), nor what the answer loses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from edge_agent.manifest import Pass
from exporter.activations import second_moments
from exporter.errors import ConversionError
from exporter.linear import matrix
from exporter.prune import reload_note
from exporter.prune_width import WIDTH_STEP, channel_energy, kept_width
from exporter.shrink import remove_channels
from exporter.structure import FeedForward, feed_forwards_of
from exporter.text import Text

if TYPE_CHECKING:
    import torch

RIDGE: Final = 0.01  # of the mean energy of a kept channel
_KMEANS_ROUNDS: Final = 10
_MOMENTS_BYTES: Final = 512_000_000  # of all layers that are measured in one pass over the text


def compress(model: Any, factor: float, calibration: Text, *, seed: int, on_progress: Callable[[float], None]) -> Pass:
    """Make each feed-forward of `model` narrower by `factor` (more than 1), in place, and return the record.

    Raises ConversionError where the layout is not known or the factor comes to no or all channels.
    """
    import torch

    if not 1 < factor < float("inf"):
        raise ConversionError(f"a compression by {factor:g} does not make anything smaller: use a factor above 1")
    layers = feed_forwards_of(model)
    width = layers[0].width
    keep = kept_width(width, width / factor, f"compressing by {factor:g}")
    before = sum(parameter.numel() for parameter in model.parameters())
    draw = torch.Generator().manual_seed(seed)
    kept: list[torch.Tensor] = []
    errors: list[float] = []
    for part in _parts(layers):
        start = len(kept) / len(layers)

        def told(share: float, start: float = start, size: int = len(part)) -> None:
            on_progress(start + share * size / len(layers) / 2)

        moments = second_moments(model, calibration, {one.name: one.down for one in part}, None, told)
        for one in part:
            chosen, error = _shared(one, moments.pop(one.name)[0].double(), keep, draw)
            kept.append(chosen)
            errors.append(error)
            on_progress(len(kept) / len(layers))
    remove_channels(model, kept)
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
            "ridge": RIDGE,
            "seed": seed,
            "calibration": calibration.origin,
            "parameters_before": before,
            "parameters_after": sum(parameter.numel() for parameter in model.parameters()),
            **reload_note(model),
        },
    )


def clusters(rows: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
    """k-means on float32 (n, features): the cluster of each row, int64 (n,), none of the `count` clusters empty."""
    import torch

    centres = rows[_far_apart(rows, count, draw)]
    squares = rows.pow(2).sum(1)
    chosen = torch.zeros(len(rows), dtype=torch.int64)
    for _ in range(_KMEANS_ROUNDS):
        distances = squares[:, None] - 2 * rows @ centres.T + centres.pow(2).sum(1)
        nearest = distances.argmin(1)
        _fill_empty(nearest, distances, count)
        if torch.equal(nearest, chosen):
            break
        chosen = nearest
        sums = torch.zeros_like(centres).index_add_(0, chosen, rows)
        centres = sums / chosen.bincount(minlength=count)[:, None]
    return chosen


def merged(down: torch.Tensor, moments: torch.Tensor, cluster: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The kept columns for `down` (outputs, channels), by E[a a^T], each channel's cluster and each cluster's channel.

    All float64; `kept` (clusters,) holds channel indices. Returns (outputs, clusters).
    """
    import torch

    heads = kept[cluster]  # the channel that stands for each channel
    energy = moments.diagonal()
    scale = moments[torch.arange(len(heads)), heads] / energy[heads].clamp_min(torch.finfo(torch.float64).tiny)
    scale[kept] = 1
    start = torch.zeros(len(down), len(kept), dtype=torch.float64).index_add_(1, cluster, down * scale)
    ridge = RIDGE * float(energy[kept].mean()) + torch.finfo(torch.float64).tiny
    inner = moments[kept][:, kept] + ridge * torch.eye(len(kept), dtype=torch.float64)
    wanted = down @ moments[:, kept] + ridge * start
    fitted: torch.Tensor = torch.linalg.solve(inner, wanted.T).T
    return fitted


def _shared(one: FeedForward, moments: torch.Tensor, keep: int, draw: torch.Generator) -> tuple[torch.Tensor, float]:
    """Give the kept channels' columns what all gave; returns the kept channels and the relative output error."""
    import torch

    weight = matrix(one.down)
    down = weight.double()
    cluster = clusters(_channel_rows(one), keep, draw)
    energy = channel_energy(down, moments.diagonal())
    order = energy.argsort(stable=True)
    rank = order.argsort()
    kept = order[torch.zeros(keep, dtype=torch.int64).scatter_reduce(0, cluster, rank, "amax")]
    columns = merged(down, moments, cluster, kept)
    change = down.clone()
    change[:, kept] -= columns
    weight[:, kept] = columns.float()
    whole, lost = (float(((side @ moments) * side).sum()) for side in (down, change))
    order_in_model = kept.sort().values
    return order_in_model, (max(lost, 0.0) / whole) ** 0.5 if whole > 0 else 0.0


def _channel_rows(one: FeedForward) -> torch.Tensor:
    """What makes each channel, (channels, features): its rows of every inner layer, each of length one."""
    import torch

    rows = [matrix(inner) for inner in one.inner]
    if one.packed:
        rows = [rows[0][: one.width], rows[0][one.width :]]
    return torch.cat([torch.nn.functional.normalize(part, dim=1) for part in rows], dim=1)


def _far_apart(rows: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
    """k-means++ (Arthur and Vassilvitskii, 2007): each next centre is drawn by its squared distance to the others."""
    import torch

    squares = rows.pow(2).sum(1)
    taken = [int(torch.randint(len(rows), (1,), generator=draw))]
    distances = torch.full((len(rows),), float("inf"))
    while len(taken) < count:
        new = rows[taken[-1]]
        distances = torch.minimum(distances, squares - 2 * (rows @ new) + new @ new).clamp_min(0)
        distances[taken] = 0
        weights = distances if float(distances.sum()) > 0 else _all_but(len(rows), taken)
        taken.append(int(torch.multinomial(weights, 1, generator=draw)))
    return torch.tensor(taken)


def _all_but(count: int, taken: Sequence[int]) -> torch.Tensor:
    """Equal weights for what is not taken: the rows left are duplicates of centres."""
    import torch

    weights = torch.ones(count)
    weights[list(taken)] = 0
    return weights


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
