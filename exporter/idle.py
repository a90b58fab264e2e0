"""Which options would do nothing? Whoever gives one expects something of it, so it is refused with the reason.

Does not know what else may be wrong with an order.
"""

from __future__ import annotations

from exporter.errors import OrderError
from exporter.order import Order


def refuse_idle(order: Order, *, is_encoder: bool, has_engine: bool, positions: int) -> None:
    """Raises OrderError for the first option that would change nothing; `has_engine` tells that one is asked for,
    `positions` how many the model takes.
    """
    whole = order.precision in ("fp32", "fp16", "fp8")
    if order.recover and not order.prune and order.compress is None:
        raise OrderError(f"--recover {order.recover} has no loss to make good: give --prune or --compress as well")
    if order.quantizer != "auto" and (whole or order.precision == "int8"):
        raise OrderError(
            f"--quantizer {order.quantizer} finds 4-bit codes, of which --precision {order.precision} has none"
        )
    if order.block is not None and (whole or (is_encoder and order.precision == "int8")):
        raise OrderError(
            f"--block-size {order.block}: nothing shares a scale in blocks in --precision {order.precision}"
        )
    if order.context is not None and order.context > positions:
        raise OrderError(f"--context {order.context}: the model takes {positions} positions")
    if order.calibration is not None and not _learns(order, is_encoder=is_encoder, has_engine=has_engine):
        raise OrderError(f"--calibration {order.calibration}: nothing in this export learns from it")
    if order.static_method is not None and not (is_encoder and has_engine and order.precision in ("auto", "int8")):
        raise OrderError(
            f"--static-calibration {order.static_method} is for the int8 engine of an encoder: this export makes none"
        )


def _learns(order: Order, *, is_encoder: bool, has_engine: bool) -> bool:
    """Whether calibration text is used: by a pass, by 4-bit codes, for ranges; by halves it judges a generator too."""
    if order.prune or order.compress is not None or (not is_encoder and order.evaluation is None):
        return True
    if is_encoder and has_engine and order.precision in ("auto", "int8"):
        return True
    return order.precision in ("auto", "mixed") or (order.precision == "int4" and order.quantizer != "round-to-nearest")
