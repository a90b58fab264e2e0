"""Percentiles within their error, whatever is merged with what; beside the library's own sketch."""

from __future__ import annotations

import numpy as np
import pytest
from ddsketch import DDSketch
from hypothesis import given
from hypothesis import strategies as st

from hub.report import sketch
from hub.report.sketch import ACCURACY, SMALLEST, Sketches, buckets_of, values_of

SIZES = st.floats(SMALLEST, 1e9)
VALUES = st.one_of(SIZES, SIZES.map(lambda value: -value), st.just(0.0))
SHARES = (0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 1.0)


def whole(values: list[float]) -> Sketches:
    return Sketches.of(buckets_of(np.array(values)), np.zeros(len(values), np.int64), 1)


@given(st.lists(VALUES, min_size=1, max_size=200))
def test_percentiles_are_within_the_error(values: list[float]) -> None:
    """Each is as near to numpy's own, exact one as was promised."""
    found = whole(values).percentiles(SHARES)[0]
    for share, value in zip(SHARES, found, strict=True):
        ordered, rank = np.sort(values), share * (len(values) - 1)
        ends = np.abs(ordered[[int(np.floor(rank)), min(int(np.floor(rank)) + 1, len(values) - 1)]])
        exact = np.percentile(values, share * 100)
        assert abs(value - exact) <= ACCURACY * ends.max() * 1.000001 + SMALLEST


@given(st.lists(VALUES, min_size=1, max_size=100))
def test_counting_in_bulk_is_the_librarys_own_counting(values: list[float]) -> None:
    """The value of every rank is what ddsketch says after adding each value by itself, but on a bucket's very edge."""
    own = DDSketch(ACCURACY)
    for value in values:
        own.add(value)
    ours = whole(values)
    for rank in range(len(values)):
        theirs = own.get_quantile_value(rank / (len(values) - 1) if len(values) > 1 else 0.0)
        if len(values) > 1 and (rank / (len(values) - 1)) * (own.count - 1) != rank:
            continue  # the library's rank is not a whole number then
        mine = ours.at(np.array([[rank]]))[0, 0]
        assert mine == pytest.approx(theirs, rel=2.1 * ACCURACY)
        if not _is_on_an_edge(float(np.sort(values)[rank])):
            assert mine == pytest.approx(theirs, rel=1e-9)


def _is_on_an_edge(value: float) -> bool:
    near = buckets_of(np.array([value * (1 - 1e-12), value * (1 + 1e-12)]))
    return bool(near[0] != near[1])


@given(st.lists(st.tuples(VALUES, st.integers(0, 4)), max_size=200), st.booleans())
def test_merged_sketches_are_the_sketch_of_all(values: list[tuple[float, int]], sparse: bool) -> None:
    """Merging loses nothing: as if all values had been counted together; also where most cells are empty."""
    numbers = np.array([value for value, _ in values])
    codes = np.array([code for _, code in values], np.int64)
    with pytest.MonkeyPatch.context() as patch:
        if sparse:
            patch.setattr(sketch, "_DENSE_CELLS", 0)
        apart = Sketches.of(buckets_of(numbers), codes, 5)
        merged, together = apart.merged(np.array([0, 1, 0, 1, 0]), 2), Sketches.of(buckets_of(numbers), codes % 2, 2)
    assert apart.sizes().tolist() == np.bincount(codes, minlength=5).tolist()
    for name in ("group", "bucket", "count"):
        assert getattr(merged, name).tolist() == getattr(together, name).tolist()


def test_groups_do_not_mix() -> None:
    """Each group has its own percentiles; one without values has none."""
    values = np.array([1.0, 100.0, 2.0, 200.0, 3.0, 300.0])
    found = Sketches.of(buckets_of(values), np.array([0, 2, 0, 2, 0, 2]), 3).percentiles((0.5,))
    assert found[0, 0] == pytest.approx(2.0, rel=ACCURACY)
    assert np.isnan(found[1, 0])
    assert found[2, 0] == pytest.approx(200.0, rel=ACCURACY)


def test_nothing_counted() -> None:
    """Sketches without any value have no percentile."""
    nothing = Sketches.of(buckets_of(np.zeros(0)), np.zeros(0, np.int64), 2)
    assert np.isnan(nothing.percentiles(SHARES)).all()
    assert nothing.merged(np.array([0, 0]), 1).sizes().tolist() == [0]


@given(SIZES)
def test_a_bucket_stands_for_all_it_holds(value: float) -> None:
    """Its value is within the error of each; order is kept, and signs are."""
    (bucket,) = buckets_of(np.array([value]))
    assert values_of(np.array([bucket]))[0] == pytest.approx(value, rel=ACCURACY * 1.000001)
    assert buckets_of(np.array([-value]))[0] == -bucket < 0 < bucket
