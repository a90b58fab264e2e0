"""Options that take a number of a range."""

from __future__ import annotations

import click
import pytest

from hub.real_range import RealRange


@pytest.mark.parametrize("text", ["nan", "-NaN", "inf", "1e999", "-1", "0", "x"])
def test_what_is_no_number_of_the_range_is_refused(text: str) -> None:
    """Neither is what compares with nothing, nor what has no end."""
    with pytest.raises(click.BadParameter, match=r"finite|range|valid"):
        RealRange(min=0, min_open=True).convert(text, None, None)


def test_numbers_of_the_range_are_taken() -> None:
    """As floats."""
    assert RealRange(0, 2).convert("2", None, None) == 2.0
