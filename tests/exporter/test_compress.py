"""Channels that say the same share their weights without loss, and the others with as little as can be."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.compress import clusters, compress, merged
from exporter.errors import ConversionError
from exporter.linear import matrix
from exporter.structure import feed_forwards_of
from tests.exporter.conftest import random_model
from tests.exporter.families import FAMILIES, ignore, outputs, random_text


def duplicate_channels(model: Any) -> None:
    """Make the last third of each feed-forward's channels copies of the first, with down columns of their own."""
    for one in feed_forwards_of(model):
        for inner in one.inner:
            weight = matrix(inner)
            for start in range(0, len(weight), 96):
                weight[start + 64 : start + 96] = weight[start : start + 32]
                if inner.bias is not None:
                    bias = inner.bias.detach()
                    bias[start + 64 : start + 96] = bias[start : start + 32]


@pytest.mark.parametrize("family", FAMILIES)
def test_duplicated_channels_are_merged_without_loss(family: str) -> None:
    """A feed-forward a third of whose channels are copies is made two thirds as wide and gives the same."""
    import torch

    model = FAMILIES[family]()
    duplicate_channels(model)
    wanted = outputs(model)
    done = compress(model, 1.5, random_text(), on_progress=ignore).parameters
    assert [one.width for one in feed_forwards_of(model)] == [64, 64]
    assert (done["channels_before"], done["channels_after"]) == (96, 64)
    assert done["relative_output_error_worst"] < 1e-4
    assert done["parameters_after"] < done["parameters_before"]
    assert torch.allclose(outputs(model), wanted, atol=1e-3)


def test_merging_loses_less_than_leaving_out() -> None:
    """On text, a layer whose outputs are merged errs less than one whose lost channels are only left out."""
    from exporter.activations import second_moments
    from exporter.shrink import remove_channels

    model, text = random_model("Llama"), random_text(rows=12)
    first = feed_forwards_of(model)[0]
    moments = second_moments(model, text, {"down": first.down}, None, ignore)["down"][0].double()
    down = matrix(first.down).double().clone()
    done = compress(model, 1.5, text, on_progress=ignore)
    left_out = random_model("Llama")
    rows = {tuple(row.tolist()): index for index, row in enumerate(matrix(feed_forwards_of(left_out)[0].inner[0]))}
    import torch

    kept = torch.tensor([rows[tuple(row.tolist())] for row in matrix(first.inner[0])])
    remove_channels(left_out, [kept, kept])
    without, shared = down.clone(), down.clone()
    without[:, kept] = 0
    shared[:, kept] -= matrix(first.down).double()
    norm = float(((down @ moments) * down).sum())
    errors = [(float(((change @ moments) * change).sum()) / norm) ** 0.5 for change in (without, shared)]
    assert errors[1] < errors[0]
    assert done.parameters["relative_output_error_worst"] >= errors[1] - 1e-3


def test_the_fit_is_least_squares() -> None:
    """With much text the merged columns are those of a plain least squares fit."""
    import torch

    torch.manual_seed(0)
    activations = torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    down = torch.randn(3, 6, dtype=torch.float64)
    kept = torch.tensor([4, 0, 2])
    cluster = torch.tensor([1, 0, 2, 2, 0, 1])
    got = merged(down, activations.T @ activations / 500, cluster, kept, 0.01)
    wanted = torch.linalg.lstsq(activations[:, kept], activations @ down.T).solution.T
    assert torch.allclose(got, wanted, atol=0.05)
    assert float((got - wanted).abs().max()) > 0  # the ridge is there


def test_a_fit_to_little_text_is_held_back() -> None:
    """With fewer tokens than channels the merge decides: on other text it errs less than a fit that trusts them."""
    import torch

    from exporter.activations import second_moments
    from exporter.compress import RIDGES, _error, _halves

    text, other = random_text(rows=2), random_text(rows=40, seed=5)
    model = random_model("Llama")
    one = feed_forwards_of(model)[0]
    down = matrix(one.down).double().clone()
    unseen = second_moments(model, other, {"down": one.down}, None, ignore)["down"][0].double()
    seen = second_moments(model, text, {"down": one.down}, None, ignore)["down"][0].double()
    done = compress(model, 1.5, text, on_progress=ignore).parameters
    rows = {
        tuple(row.tolist()): index
        for index, row in enumerate(matrix(feed_forwards_of(random_model("Llama"))[0].inner[0]))
    }
    kept = torch.tensor([rows[tuple(row.tolist())] for row in matrix(one.inner[0])])
    chosen = _error(down, matrix(one.down).double(), kept, unseen)
    nearest = torch.tensor([int((kept == index).nonzero()[0, 0]) if index in kept else 0 for index in range(96)])
    trusting = _error(down, merged(down, seen, nearest, kept, RIDGES[0] / 1000), kept, unseen)
    assert chosen < trusting
    assert "cross-validation" in done["ridge"]
    assert done["relative_output_error_unseen_mean"] > done["relative_output_error_mean"]
    assert [len(half.rows) for half in _halves(model, text)] == [1, 1]


def test_channels_never_active_keep_the_merge() -> None:
    """Without any activation the columns of a cluster are added, and nothing becomes NaN."""
    import torch

    got = merged(torch.ones(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64), *_one_cluster(), 0.01)
    assert torch.isfinite(got).all()


def _one_cluster() -> tuple[Any, Any]:
    import torch

    return torch.tensor([0, 0]), torch.tensor([1])


def test_clusters_hold_what_lies_together() -> None:
    """Rows in three tight bundles become three clusters; twice the same ones."""
    import torch

    torch.manual_seed(1)
    centres = torch.tensor([[0.0, 9.0], [9.0, 0.0], [-9.0, -9.0]])
    rows = centres.repeat(5, 1) + 0.1 * torch.randn(15, 2)
    found = [clusters(rows, torch.ones(15), 3) for _ in range(2)]
    assert torch.equal(*found)
    assert len({tuple(found[0][start::3].tolist()) for start in range(3)}) == 3
    assert all(len(set(found[0][start::3].tolist())) == 1 for start in range(3))


def test_what_matters_does_not_share() -> None:
    """Two heavy rows keep a cluster each, though they lie nearer together than the two light ones, which share."""
    import torch

    rows = torch.tensor([[0.0], [0.9], [3.0], [4.0]])
    found = clusters(rows, torch.tensor([5.0, 4.0, 0.02, 0.01]), 3).tolist()
    assert found[0] != found[1]
    assert found[2] == found[3]


def test_no_cluster_is_empty() -> None:
    """Seven equal rows still make four clusters, each with a row."""
    import torch

    found = clusters(torch.ones(7, 2), torch.ones(7), 4)
    assert set(found.tolist()) == {0, 1, 2, 3}


def test_twice_gives_the_same_model() -> None:
    """Twice the same compression gives the same weights."""
    import torch

    both = [random_model("Llama") for _ in range(2)]
    for model in both:
        compress(model, 1.5, random_text(), on_progress=ignore)
    assert torch.equal(outputs(both[0]), outputs(both[1]))


def test_factors_that_change_nothing_are_refused() -> None:
    """A factor of one, and factors that leave all channels or none, are refused with the arithmetic."""
    for factor, reason in ((1.0, "use a factor above 1"), (1.1, r"leaves 87.3.* 96 of 96"), (50.0, "0 of 96")):
        with pytest.raises(ConversionError, match=reason):
            compress(random_model("Llama"), factor, random_text(), on_progress=ignore)
