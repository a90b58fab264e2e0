"""Which candidates an order asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter.order import Order
from exporter.recipes import recipes

ORDER = Order(model="m", profile="p", output=Path("o"))
CPU, GPU = ("int4", "int8", "fp32"), ("int4", "int8", "fp16", "fp32")


def names(precisions: tuple[str, ...], *, on_grid: bool = False, **changes: Any) -> list[str]:
    order = msgspec.structs.replace(ORDER, **changes)
    return [one.name for one in recipes(order, precisions, on_grid=on_grid)]


def test_auto_goes_from_the_smallest_to_the_largest() -> None:
    """One of each precision; half floats only where the device gains from them."""
    assert names(CPU) == ["int4-gptq", "mixed-gptq", "int8", "fp32"]
    assert names(GPU) == ["int4-gptq", "mixed-gptq", "int8", "fp16", "fp32"]


def test_what_was_stored_in_4_bits_is_not_rounded_again() -> None:
    """A checkpoint on a grid keeps its own codes."""
    assert names(CPU, on_grid=True)[:2] == ["int4-source", "mixed-source"]
    assert "int4-source" in names(CPU, on_grid=True, precision="int4")
    assert "int4-source" not in names(CPU, precision="int4")


def test_a_fixed_precision_tries_every_method_of_it() -> None:
    """Round to nearest is among int4, as the yardstick of the others; mixed is made by the better ones."""
    assert names(CPU, precision="int4") == ["int4-round-to-nearest", "int4-k-quant", "int4-gptq"]
    assert names(CPU, precision="mixed") == ["mixed-k-quant", "mixed-gptq"]
    assert names(CPU, precision="int8") == ["int8"]


def test_a_method_that_was_named_is_the_only_one() -> None:
    """--quantizer is not a hint."""
    assert names(CPU, precision="int4", quantizer="k-quant") == ["int4-k-quant"]
    assert names(CPU, quantizer="round-to-nearest")[0] == "int4-round-to-nearest"


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_what_the_device_does_not_run_is_not_tried(precision: str) -> None:
    """No candidate of a precision that the profile does not list."""
    assert names(CPU, precision=precision) == []
