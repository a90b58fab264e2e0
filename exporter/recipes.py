"""Which candidates are tried, and in which order?

From smallest to largest: 4 bits, 4 and 8 mixed, 8, half and full floats, as far as the order asks for them and the
device runs them. Does not know how any of them is made.
"""

from __future__ import annotations

from typing import Final

import msgspec

from exporter.order import Order

INT4_METHODS: Final = ("round-to-nearest", "k-quant", "gptq", "source")


class Recipe(msgspec.Struct, frozen=True):
    """One candidate: its precision, and by which method its 4-bit codes are found (None where there are none)."""

    precision: str
    method: str | None = None

    @property
    def name(self) -> str:
        """For example `int4-gptq`, or `int8`.

        >>> Recipe("mixed", "k-quant").name
        'mixed-k-quant'
        """
        return self.precision if self.method is None else f"{self.precision}-{self.method}"


def recipes(order: Order, precisions: tuple[str, ...], *, on_grid: bool) -> tuple[Recipe, ...]:
    """The candidates for `order` on a device that runs `precisions`, smallest first.

    `on_grid` tells that the checkpoint was stored in 4 bits: then its own codes are the best there are, and what was
    rounded once is not rounded again. A fixed `int4` or `mixed` tries every method, `auto` the best one of each.

    >>> from pathlib import Path
    >>> order = Order(model="m", profile="desktop-cpu", output=Path("bundles/m"))
    >>> [one.name for one in recipes(order, ("int4", "int8", "fp32"), on_grid=False)]
    ['int4-gptq', 'mixed-gptq', 'int8', 'fp32']
    """
    runs = {*precisions, "mixed"} if {"int4", "int8"} <= set(precisions) else set(precisions)
    wanted = ("int4", "mixed", "int8", "fp16", "fp32") if order.precision == "auto" else (order.precision,)
    found: list[Recipe] = []
    for precision in wanted:
        if precision not in runs:
            continue
        if precision in ("int4", "mixed"):
            found += [Recipe(precision, method) for method in _methods(order, precision, on_grid=on_grid)]
        else:
            found.append(Recipe(precision))
    return tuple(found)


def encoder_recipes(order: Order, precisions: tuple[str, ...]) -> tuple[Recipe, ...]:
    """The candidates of an encoder: `int8` is dynamic, with activations in 8 bits too, and so for CPUs only.

    `auto` also tries weights alone in 8 bits, which loses less and gains less.
    """
    found: list[Recipe] = []
    for one in recipes(order, precisions, on_grid=False):
        if one.precision == "int8":
            found.append(Recipe("int8", "dynamic"))
            found += [Recipe("int8", "weights")] if order.precision == "auto" else []
        else:
            found.append(one)
    return tuple(found)


def no_source(name: str, block: int) -> str:
    """Why `--quantizer source` cannot be had: other codes under that name would be what nobody asked for."""
    return (
        f"--quantizer source: the weights of {name} do not lie on 4-bit grids in blocks of {block}, so it has no codes "
        "to keep: take gptq"
    )


def _methods(order: Order, precision: str, *, on_grid: bool) -> tuple[str, ...]:
    if order.quantizer != "auto":
        return (order.quantizer,)
    if order.precision == "auto":
        return ("source",) if on_grid else ("gptq",)
    known = INT4_METHODS if on_grid else INT4_METHODS[:-1]
    return known if precision == "int4" else known[1:]
