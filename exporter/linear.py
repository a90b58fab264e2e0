"""How are a linear layer's rows and columns read, replaced and removed, whichever way round its weight lies?

`torch.nn.Linear` stores (outputs, inputs), GPT-2's `Conv1D` the transpose; here a matrix is always (outputs, inputs).
Does not know what a row or a column means to the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def is_linear(module: Any) -> bool:
    """Whether `module` is a linear layer that the functions below can read."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def matrix(linear: Any) -> torch.Tensor:
    """The weight as (outputs, inputs): a view without gradient, so that writing into it changes the layer."""
    weight = linear.weight.detach()
    return weight if _is_plain(linear) else weight.T


def keep_outputs(linear: Any, rows: torch.Tensor) -> None:
    """Keep these output features (int64 indices, in this order) of weight and bias; the others are gone."""
    _replace(linear, matrix(linear)[rows])
    if linear.bias is not None:
        linear.bias = _parameter(linear.bias.detach()[rows], linear.bias)


def keep_inputs(linear: Any, columns: torch.Tensor) -> None:
    """Keep these input features (int64 indices, in this order); the bias stays."""
    _replace(linear, matrix(linear)[:, columns])


def _replace(linear: Any, weight: torch.Tensor) -> None:
    outputs, inputs = weight.shape
    stored = weight if _is_plain(linear) else weight.T
    linear.weight = _parameter(stored, linear.weight)
    if _is_plain(linear):
        linear.out_features, linear.in_features = outputs, inputs
    else:
        linear.nf, linear.nx = outputs, inputs


def _parameter(value: torch.Tensor, before: Any) -> torch.nn.Parameter:
    """A contiguous copy, so that the old storage can go."""
    import torch

    return torch.nn.Parameter(value.clone(memory_format=torch.contiguous_format), requires_grad=before.requires_grad)


def _is_plain(linear: Any) -> bool:
    import torch

    return isinstance(linear, torch.nn.Linear)
