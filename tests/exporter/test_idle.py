"""An option that would do nothing is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.errors import OrderError
from exporter.idle import refuse_idle
from exporter.order import Order

TEXT = Path("c.jsonl")


def refusal(given: Any, *, is_encoder: bool, has_engine: bool) -> str | None:
    """What is said of an order with the options `given`, for a model of 512 positions; None where it is taken."""
    order = Order(model="m", profile="p", output=Path("o"), **given)
    try:
        refuse_idle(order, is_encoder=is_encoder, has_engine=has_engine, positions=512)
    except OrderError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("given", "is_encoder", "has_engine", "named"),
    [
        ({"recover": 30}, False, False, "--recover 30 has no loss to make good: give --prune or --compress"),
        ({"quantizer": "gptq", "precision": "int8"}, False, False, "--quantizer gptq finds 4-bit codes"),
        ({"quantizer": "k-quant", "precision": "fp16"}, True, True, "--precision fp16 has none"),
        ({"block": 64, "precision": "fp32"}, False, False, "--block-size 64: nothing shares a scale"),
        ({"block": 64, "precision": "int8"}, True, False, "in --precision int8"),
        ({"static_method": "minmax"}, False, True, "--static-calibration minmax is for the int8 engine of an encoder"),
        ({"static_method": "minmax"}, True, False, "this export makes none"),
        ({"static_method": "minmax", "precision": "fp16"}, True, True, "this export makes none"),
        ({"context": 513}, False, False, "--context 513: the model takes 512 positions"),
        (
            {"calibration": TEXT, "precision": "int8"},
            True,
            False,
            "--calibration c.jsonl: nothing in this export learns",
        ),
        ({"calibration": TEXT, "evaluation": TEXT, "precision": "fp32"}, False, False, "nothing in this export learns"),
    ],
)
def test_what_would_do_nothing_is_refused(given: Any, is_encoder: bool, has_engine: bool, named: str) -> None:
    """Each names the option, and what is missing for it to matter."""
    assert named in (refusal(given, is_encoder=is_encoder, has_engine=has_engine) or "nothing was refused")


@pytest.mark.parametrize(
    ("given", "is_encoder"),
    [
        ({}, False),
        ({"recover": 30, "prune": ("ffn:0.2",)}, False),
        ({"recover": 30, "compress": 1.5}, False),
        ({"quantizer": "gptq", "block": 128, "precision": "mixed"}, False),
        ({"block": 64, "precision": "int8"}, False),
        ({"static_method": "percentile", "precision": "int8"}, True),
        ({"calibration": TEXT, "precision": "int8"}, True),
        ({"calibration": TEXT, "precision": "int8"}, False),
        ({"calibration": TEXT, "evaluation": TEXT, "precision": "mixed"}, False),
        ({"context": 512}, False),
    ],
)
def test_what_matters_is_let_through(given: Any, is_encoder: bool) -> None:
    """The same options where they change something."""
    assert refusal(given, is_encoder=is_encoder, has_engine=is_encoder) is None
