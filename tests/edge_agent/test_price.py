"""What an answer may cost: as much as with the bundle before, and more only by what the maker measured."""

from __future__ import annotations

import pytest

from edge_agent.manifest import Measured
from edge_agent.price import Priced, expected, predicted_ms
from hub import wire


def priced(here_ms: float, said_ms: float, where: str = "its maker", *, estimated: bool = False) -> Priced:
    """A bundle with this cost of a token."""
    here = wire.ServedBundle(
        bundle="b", model="m", task="text-generation", context=64,
        fixed_ms=here_ms, prefill_ms_per_token=here_ms, decode_ms_per_token=here_ms,
    )  # fmt: skip
    said = Measured(
        where=where, runtime="onnxruntime", threads=1, fixed_ms=said_ms, prefill_ms_per_token=said_ms,
        decode_ms_per_token=said_ms, load_ms=1.0, peak_rss_bytes=1, estimated=estimated,
    )  # fmt: skip
    return Priced(here, said)


@pytest.mark.parametrize(
    ("said_ms", "old", "due_ms"),
    [
        (1.0, priced(2.0, 1.0), 2.0),
        (2.0, priced(2.0, 1.0), 4.0),  # its maker said so
        (0.5, priced(2.0, 1.0), 2.0),  # said to be faster: it goes back for being slower alone
        (1.0, priced(2.0, 0.0), 2.0),
    ],
)
def test_what_it_may_cost(said_ms: float, old: Priced, due_ms: float) -> None:
    """As much as the one before, times what it was said to cost more."""
    price = expected(priced(9.0, said_ms).said, old)
    assert price is not None
    assert price.decode_ms_per_token == price.fixed_ms == pytest.approx(due_ms)


def test_figures_of_two_machines_say_nothing() -> None:
    """Nor do those that were estimated."""
    assert expected(priced(1.0, 1.0, "elsewhere").said, priced(2.0, 1.0)) is None
    assert expected(priced(1.0, 1.0, estimated=True).said, priced(2.0, 1.0, estimated=True)) is None


def test_the_compute_of_an_answer() -> None:
    """Fixed, eight prompt tokens that were not cached, three of the answer."""
    assert predicted_ms(priced(2.0, 1.0).here, wire.Tokens(prompt=12, cached=4, completion=3)) == 24.0
