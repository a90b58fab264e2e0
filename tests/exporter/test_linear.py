"""Rows and columns mean the same in `Linear` and in GPT-2's `Conv1D`."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.linear import is_linear, keep_inputs, keep_outputs, matrix


def pair() -> tuple[Any, Any]:
    """A Linear and a Conv1D with the same 3 outputs of 5 inputs."""
    import torch
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    linear, conv = torch.nn.Linear(5, 3), Conv1D(3, 5)
    conv.weight.data = linear.weight.data.T.clone()
    conv.bias.data = linear.bias.data.clone()
    return linear, conv


@pytest.mark.parametrize("which", [0, 1])
def test_kept_rows_and_columns_compute_what_they_computed(which: int) -> None:
    """A layer cut to outputs 2 and 0 of inputs 1, 3, 4 gives those outputs of an input that is zero elsewhere."""
    import torch

    layer = pair()[which]
    x = torch.randn(7, 3)
    whole = torch.zeros(7, 5)
    whole[:, [1, 3, 4]] = x
    wanted = layer(whole)[:, [2, 0]]
    keep_outputs(layer, torch.tensor([2, 0]))
    keep_inputs(layer, torch.tensor([1, 3, 4]))
    assert torch.allclose(layer(x), wanted, atol=1e-6)
    assert matrix(layer).shape == (2, 3)
    assert layer.weight.is_contiguous()
    assert "2" in repr(layer)


def test_writing_into_the_matrix_changes_the_layer() -> None:
    """`matrix` is a view of (outputs, inputs) of both kinds of layer."""
    for layer in pair():
        matrix(layer)[1, 4] = 7
        assert float((layer.weight == 7).sum()) == 1
        assert matrix(layer).shape == (3, 5)


def test_other_modules_are_no_linear_layers() -> None:
    """An embedding has a matrix, but its rows are tokens."""
    import torch

    assert all(is_linear(layer) for layer in pair())
    assert not is_linear(torch.nn.Embedding(3, 5))
    assert not is_linear(None)
