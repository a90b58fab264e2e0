"""What the hooks add up is what the layers were given."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.activations import batches, run, second_moments, squared_sums, windows_of
from exporter.errors import CalibrationError
from exporter.structure import feed_forwards_of
from exporter.text import Text
from tests.exporter.families import FAMILIES, ignore, random_text


def inputs_of_down(model: Any, text: Text) -> Any:
    """(tokens, channels) that the first block's down projection is given, row by row."""
    import torch

    seen: list[Any] = []
    down = feed_forwards_of(model)[0].down
    handle = down.register_forward_pre_hook(lambda module, args: seen.append(args[0].reshape(-1, 96).double()))
    for row in text.rows:
        with torch.no_grad():
            model(input_ids=torch.tensor([row]))
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Bert"])
def test_sums_are_those_of_all_tokens(family: str) -> None:
    """Squares and products over batches of rows of unequal length equal those computed row by row."""
    import torch

    model, text = FAMILIES[family](), random_text()
    seen = inputs_of_down(model, text)
    layers = {"down": feed_forwards_of(model)[0].down}
    squares = squared_sums(model, text, layers, ignore)["down"]
    assert torch.allclose(squares, seen.pow(2).sum(0), rtol=1e-4)
    wanted = (seen.T @ seen / len(seen)).float()
    whole = second_moments(model, text, layers, None, ignore)["down"]
    assert torch.allclose(whole, wanted[None], atol=1e-5)
    grouped = second_moments(model, text, layers, 32, ignore)["down"]
    assert grouped.shape == (3, 32, 32)
    assert torch.allclose(grouped[1], wanted[32:64, 32:64], atol=1e-5)


def test_progress_ends_at_one_and_hooks_are_gone() -> None:
    """Progress rises to 1, all tokens are counted, and the model keeps no hook."""
    model, told = FAMILIES["Llama"](), list[float]()
    layer = feed_forwards_of(model)[0].down
    squared_sums(model, random_text(), {"down": layer}, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert not layer._forward_pre_hooks
    assert run(model, random_text(), ignore) == 3 * 40 + 33


def test_rows_are_cut_to_the_model() -> None:
    """A row longer than the model's positions is cut, what is left of one token is dropped."""
    model = FAMILIES["Llama"]()  # 64 positions
    assert [len(piece) for piece in windows_of(model, Text((tuple(range(65)), tuple(range(70))), "t"))] == [64, 64, 6]
    with pytest.raises(CalibrationError, match="no row has two tokens"):
        windows_of(model, Text(((1,),), "t"))


def test_batches_have_one_length_each() -> None:
    """Nothing is padded, and a batch holds about as many tokens as asked for."""
    windows = [(1, 2), (3, 4, 5), (6, 7), (8, 9)]
    assert [batch.tolist() for batch in batches(windows, 4)] == [[[1, 2], [6, 7]], [[8, 9]], [[3, 4, 5]]]
