"""`METHOD:AMOUNT` is read or refused in one line, and every method leaves a true record."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import CalibrationError
from exporter.linear import matrix
from exporter.prune import METHODS, PruneSpec, parse_prune, prune, share_of_zeros
from exporter.structure import linears_of
from tests.exporter.families import FAMILIES, ignore, outputs, random_text


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_read(method: str) -> None:
    """Each method is read with an amount and written back the same."""
    assert str(parse_prune(f"{method}:0.5")) == f"{method}:0.5"
    assert parse_prune(f"{method}:0.5") == PruneSpec(method, 0.5)


def test_two_of_four_needs_no_amount() -> None:
    """2:4 can only be half."""
    assert parse_prune("2:4") == PruneSpec("2:4", 0.5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no pruning method: use METHOD:AMOUNT with one of magnitude, wanda, 2:4, ffn, heads, layers"),
        ("wand:0.5", "names no pruning method"),
        ("wandas:0.5", "names no pruning method"),
        ("wanda", "does not say how much: write wanda:AMOUNT"),
        ("wanda:", "does not say how much"),
        ("wanda:half", "'half' is not a number"),
        ("wanda:0", "more than 0 and less than 1"),
        ("wanda:1", "more than 0 and less than 1"),
        ("wanda:-0.1", "more than 0 and less than 1"),
        ("wanda:nan", "more than 0 and less than 1"),
        ("wanda:50", "more than 0 and less than 1"),
        ("2:4:0.3", "its amount can only be 0.5"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, reason: str) -> None:
    """Each mistake is named, with what was given."""
    with pytest.raises(ValueError, match=reason) as caught:
        parse_prune(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("how", ["magnitude:0.5", "wanda:0.5", "2:4", "ffn:0.33", "heads:0.5", "layers:0.5"])
@pytest.mark.parametrize("family", ["Llama", "GPT2", "Bert"])
def test_every_method_changes_the_model_and_says_how(family: str, how: str) -> None:
    """The record counts parameters and zeros as they are, and structured methods make the model smaller."""
    import msgspec

    model, untouched = FAMILIES[family](), FAMILIES[family]()
    before = sum(parameter.numel() for parameter in model.parameters())
    told: list[float] = []
    done = prune(model, parse_prune(how), random_text(), on_progress=told.append)
    given = done.parameters
    after = sum(parameter.numel() for parameter in model.parameters())
    assert (done.name, given["method"], given["amount"]) == ("prune", parse_prune(how).method, parse_prune(how).amount)
    assert (given["parameters_before"], given["parameters_after"]) == (before, after)
    assert given["zeros"] == (0.5 if how in ("magnitude:0.5", "wanda:0.5", "2:4") else 0.0)
    assert (after < before) == (given["zeros"] == 0)
    assert told[-1] == 1.0
    assert msgspec.json.decode(msgspec.json.encode(done)) == msgspec.to_builtins(done)
    assert not bool((outputs(model) == outputs(untouched)).all())


def test_zeros_are_counted_over_the_blocks() -> None:
    """One zeroed layer of fourteen gives its share of the blocks' weights."""
    model = FAMILIES["Llama"]()
    layers = linears_of(model)
    weight = matrix(layers["model.layers.0.mlp.up_proj"])
    weight[:] = 0
    every = sum(matrix(layer).numel() for layer in layers.values())
    assert share_of_zeros(model) == round(weight.numel() / every, 6)


@pytest.mark.parametrize("how", ["wanda:0.5", "ffn:0.33", "heads:0.5", "layers:0.5"])
def test_methods_that_weigh_activations_need_text(how: str) -> None:
    """Without calibration text they are refused."""
    with pytest.raises(CalibrationError, match=f"pruning by {parse_prune(how).method}"):
        prune(FAMILIES["Llama"](), parse_prune(how), None, on_progress=ignore)


def test_one_method_after_another(tmp_path: Any) -> None:
    """Several methods on one model add up: narrower, shallower, and half of what is left zero."""
    model = FAMILIES["Llama"]()
    for how in ("ffn:0.33", "layers:0.5", "wanda:0.5"):
        done = prune(model, parse_prune(how), random_text(), on_progress=ignore)
    assert done.parameters["zeros"] == 0.5
    assert model.config.num_hidden_layers == 1
    assert model.config.intermediate_size == 64
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert float((outputs(again) - outputs(model)).abs().max()) < 1e-5
