"""The channels and heads that go are those that say least, and no amount rounds to nothing in silence."""

from __future__ import annotations

import pytest

from exporter.errors import ConversionError
from exporter.linear import matrix
from exporter.prune_width import channel_energy, channels, group_energy, heads
from exporter.structure import attentions_of, feed_forwards_of
from tests.exporter.conftest import random_model
from tests.exporter.families import FAMILIES, ignore, outputs, random_text


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_without_effect_go_first(family: str) -> None:
    """Where a third of the down columns is zero, just those channels go and nothing changes."""
    import torch

    model = FAMILIES[family]()
    for one, start in zip(feed_forwards_of(model), (0, 40), strict=True):
        matrix(one.down)[:, start : start + 32] = 0
    wanted = outputs(model)
    done = channels(model, 0.33, random_text(), ignore)
    assert torch.allclose(outputs(model), wanted, atol=1e-4)
    assert (done["channels_before"], done["channels_after"]) == (96, 64)
    assert done["rounded_to_multiples_of"] == 32


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_without_effect_go_first(family: str) -> None:
    """Where the output columns of half of the key-value groups are zero, just those go and nothing changes."""
    import torch

    model = FAMILIES[family]()
    for one, start in zip(attentions_of(model), (0, 1), strict=True):
        half = one.heads * one.head_dim // 2
        matrix(one.output)[:, start * half : (start + 1) * half] = 0
    wanted = outputs(model)
    done = heads(model, 0.5, random_text(), ignore)
    assert torch.allclose(outputs(model), wanted, atol=1e-4)
    assert (done["heads_before"], done["heads_after"]) == (4, 2)


def test_the_width_is_a_multiple_of_32_only_where_it_was() -> None:
    """Of 100 channels a quarter are 25, of 96 they are 32."""
    odd = random_model("Llama", intermediate_size=100)
    done = channels(odd, 0.25, random_text(), ignore)
    assert (done["channels_after"], odd.config.intermediate_size) == (75, 75)
    assert "rounded_to_multiples_of" not in done
    assert channels(random_model("Llama"), 0.25, random_text(), ignore)["channels_after"] == 64


def test_amounts_that_round_to_nothing_or_all_are_refused() -> None:
    """The arithmetic is in the message, and the model is as it was."""
    model = random_model("Llama")
    with pytest.raises(
        ConversionError, match=r"0.1 of 96 feed-forward channels leaves 86.4: in steps of 32 .* 96 of 96"
    ):
        channels(model, 0.1, random_text(), ignore)
    with pytest.raises(ConversionError, match="0 of 96"):
        channels(model, 0.9, random_text(), ignore)
    with pytest.raises(ConversionError, match=r"0.2 of 2 key-value groups is 0.4, which rounds to none"):
        heads(model, 0.2, random_text(), ignore)
    with pytest.raises(ConversionError, match="rounds to all"):
        heads(model, 0.8, random_text(), ignore)
    assert bool((outputs(model) == outputs(random_model("Llama"))).all())


def test_energy_is_that_of_the_output() -> None:
    """Energies of channels and groups are E||W_g x_g||^2, computed token by token."""
    import torch

    torch.manual_seed(0)
    x, weight = torch.randn(50, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    singles = torch.stack([(x[:, [j]] @ weight[:, [j]].T).pow(2).sum() for j in range(6)])
    assert torch.allclose(channel_energy(weight, x.pow(2).sum(0)), singles)
    grouped = x.reshape(50, 2, 3)
    moments = torch.einsum("tgi,tgj->gij", grouped, grouped) / 50
    pairs = torch.stack([(x[:, s] @ weight[:, s].T).pow(2).sum(1).mean() for s in (slice(0, 3), slice(3, 6))])
    assert torch.allclose(group_energy(weight, moments), pairs)
