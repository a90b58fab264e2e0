"""What is removed from a model, and what does the record say of it?

`--prune METHOD:AMOUNT` is parsed here and given to the file of its method: single weights (`prune_weights.py`), whole
channels and heads (`prune_width.py`), whole blocks (`prune_depth.py`). All work in place, on an fp32 model in eval
mode, and change its configuration with it: an untouched copy needs one of its own (`copy.deepcopy` makes it).

Does not know what the removal costs in accuracy; `verify.py` finds out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from edge_agent.manifest import Pass
from exporter.errors import CalibrationError
from exporter.linear import matrix
from exporter.shrink import reload_problem
from exporter.structure import linears_of
from exporter.text import Text

UNSTRUCTURED: Final = ("magnitude", "wanda", "2:4")  # leave zeros where weights were: the graph stays as large
METHODS: Final = (*UNSTRUCTURED, "ffn", "heads", "layers")
_NEEDS_TEXT: Final = ("wanda", "ffn", "heads", "layers")
_HALF: Final = 0.5  # all that 2:4 can be


class PruneSpec(msgspec.Struct, frozen=True):
    """`amount` is the share to remove, more than 0 and less than 1: of weights, channels, heads or blocks."""

    method: str
    amount: float

    def __str__(self) -> str:
        return f"{self.method}:{self.amount:g}"


def parse_prune(text: str) -> PruneSpec:
    """Read METHOD:AMOUNT; raises ValueError with one line.

    >>> parse_prune("ffn:0.25"), parse_prune("2:4")
    (PruneSpec(method='ffn', amount=0.25), PruneSpec(method='2:4', amount=0.5))
    """
    method = next((name for name in METHODS if text == name or text.startswith(f"{name}:")), None)
    if method is None:
        raise ValueError(f"{text!r} names no pruning method: use METHOD:AMOUNT with one of {', '.join(METHODS)}")
    amount_text = text[len(method) + 1 :]
    if not amount_text:
        if method == "2:4":
            return PruneSpec(method, _HALF)
        raise ValueError(f"{text!r} does not say how much: write {method}:AMOUNT, for example {method}:0.25")
    try:
        amount = float(amount_text)
    except ValueError:
        raise ValueError(f"{text!r}: {amount_text!r} is not a number: write for example {method}:0.25") from None
    if not 0 < amount < 1:
        raise ValueError(f"{text!r}: the amount is the share to remove, more than 0 and less than 1")
    if method == "2:4" and amount != _HALF:
        raise ValueError(f"{text!r}: 2:4 keeps 2 of 4 weights, its amount can only be {_HALF}: leave it out")
    return PruneSpec(method, amount)


def prune(model: Any, spec: PruneSpec, calibration: Text | None, *, on_progress: Callable[[float], None]) -> Pass:
    """Prune `model` in place and return the record.

    `calibration` may only be None for `magnitude` and `2:4` (which then goes by magnitude). Raises CalibrationError
    without the text that a method needs, ConversionError where the layout is not known or the amount comes to nothing
    or to everything.
    """
    if calibration is None and spec.method in _NEEDS_TEXT:
        raise CalibrationError(f"pruning by {spec.method} weighs activations: it needs calibration text")
    before = _parameters(model)
    done = _method(model, spec, calibration, on_progress)
    parameters = {
        "method": spec.method,
        "amount": spec.amount,
        **done,
        "zeros": share_of_zeros(model),
        "parameters_before": before,
        "parameters_after": _parameters(model),
    }
    if spec.method not in UNSTRUCTURED:
        parameters |= reload_note(model)
    on_progress(1.0)
    return Pass(name="prune", parameters=parameters)


def share_of_zeros(model: Any) -> float:
    """How many of the weights of the blocks' linear layers are exactly zero, 0 to 1."""
    weights = [matrix(linear) for linear in linears_of(model).values()]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return round(zeros / sum(int(weight.numel()) for weight in weights), 6)


def reload_note(model: Any) -> dict[str, str]:
    """What the record says where the smaller model has no configuration: its graph is right all the same."""
    problem = reload_problem(model)
    return {} if problem is None else {"torch_checkpoint": f"cannot be saved and loaded: {problem}"}


def _method(
    model: Any, spec: PruneSpec, calibration: Text | None, on_progress: Callable[[float], None]
) -> dict[str, Any]:
    from exporter import prune_depth, prune_weights, prune_width

    if spec.method == "magnitude":
        return prune_weights.magnitude(model, spec.amount, on_progress)
    if spec.method == "2:4":
        return prune_weights.two_of_four(model, calibration, on_progress)
    assert calibration is not None
    if spec.method == "wanda":
        return prune_weights.wanda(model, spec.amount, calibration, on_progress)
    if spec.method == "ffn":
        return prune_width.channels(model, spec.amount, calibration, on_progress)
    if spec.method == "heads":
        return prune_width.heads(model, spec.amount, calibration, on_progress)
    return prune_depth.blocks(model, spec.amount, calibration, on_progress)


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
