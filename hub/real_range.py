"""Which numbers does an option take? Those of a range; what is no number at all (NaN) lies in none."""

from __future__ import annotations

import math
from typing import Any

import click


class RealRange(click.FloatRange):
    """click's own range lets NaN in, for it compares with nothing, and infinity where there is no end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Raises BadParameter."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not finite.", param, ctx)
        return number
