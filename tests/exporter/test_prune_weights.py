"""Which single weights become zero is what each method's formula says."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import ConversionError
from exporter.linear import matrix
from exporter.prune_weights import magnitude, smaller_two_of_four, smallest_of_all, smallest_of_row, two_of_four, wanda
from exporter.structure import linears_of
from tests.exporter.families import FAMILIES, ignore, random_text


def test_the_smallest_of_a_matrix() -> None:
    """Exactly the asked share goes, over the whole matrix, also among equal scores."""
    import torch

    scores = torch.tensor([[5.0, 1.0, 1.0], [1.0, 4.0, 3.0]])
    assert smallest_of_all(scores, 1 / 3).tolist() == [[False, True, True], [False, False, False]]
    assert smallest_of_all(scores, 2 / 3).tolist() == [[False, True, True], [True, False, True]]


def test_the_smallest_of_each_row() -> None:
    """Each row loses its own smallest, however large they are beside those of other rows."""
    import torch

    scores = torch.tensor([[8.0, 7.0, 9.0, 6.0], [1.0, 2.0, 3.0, 4.0]])
    assert smallest_of_row(scores, 0.5).tolist() == [[False, True, False, True], [True, True, False, False]]


def test_two_of_each_four() -> None:
    """Of each four neighbours two stay, and a rest of less than four stays whole."""
    import torch

    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0]])
    assert smaller_two_of_four(scores).tolist() == [[True, True, False, False, False, False, True, True, False, False]]


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Bert"])
def test_wanda_weighs_with_the_norms_of_inputs(family: str) -> None:
    """In each row the zeros are the smallest |weight| * ||input||, with inputs as a plain run over the rows gives."""
    import torch

    model, untouched, text = FAMILIES[family](), FAMILIES[family](), random_text()
    name = next(name for name in linears_of(model) if "down_proj" in name or "mlp.c_proj" in name or "output" in name)
    layer = linears_of(untouched)[name]
    seen: list[Any] = []
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    for row in text.rows:
        with torch.no_grad():
            untouched(input_ids=torch.tensor([row]))
    scores = matrix(layer).abs() * torch.cat(seen).norm(dim=0)
    wanda(model, 0.25, text, ignore)
    zeros = matrix(linears_of(model)[name]) == 0
    assert zeros.sum(1).unique().tolist() == [round(0.25 * scores.shape[1])]
    highest_gone = torch.where(zeros, scores, -1.0).amax(1)
    lowest_kept = torch.where(zeros, float("inf"), scores).amin(1)
    assert bool((highest_gone <= lowest_kept * 1.001).all())
    assert not torch.equal(zeros, smallest_of_row(matrix(layer).abs(), 0.25))  # magnitudes alone say otherwise


def test_magnitude_takes_the_smallest_of_each_layer() -> None:
    """In every layer the largest weight that went is no larger than the smallest that stayed."""
    model, untouched = FAMILIES["Llama"](), linears_of(FAMILIES["Llama"]())
    magnitude(model, 0.3, ignore)
    for name, layer in linears_of(model).items():
        zeros, before = matrix(layer) == 0, matrix(untouched[name]).abs()
        assert int(zeros.sum()) == round(0.3 * before.numel())
        assert float(before[zeros].max()) <= float(before[~zeros].min())


def test_two_of_four_with_and_without_text() -> None:
    """Each four inputs of a row keep two; text changes which, because inputs are not equally large."""
    import torch

    masks = []
    for text in (None, random_text()):
        model = FAMILIES["Llama"]()
        two_of_four(model, text, ignore)
        masks.append(matrix(linears_of(model)["model.layers.1.mlp.down_proj"]) == 0)
        assert masks[-1].reshape(64, -1, 4).sum(2).unique().tolist() == [2]
    assert not torch.equal(*masks)


def test_amounts_that_come_to_nothing_are_refused() -> None:
    """A share of less than half a weight is refused with the arithmetic."""
    with pytest.raises(ConversionError, match=r"0.001 of 64 inputs of .* is 0.064, which rounds to none"):
        wanda(FAMILIES["Llama"](), 0.001, random_text(), ignore)
    with pytest.raises(ConversionError, match="rounds to all"):
        magnitude(FAMILIES["Llama"](), 0.9999, ignore)
