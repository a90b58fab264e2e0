"""Where the marks and labels of the plot stand."""

from __future__ import annotations

import math
from itertools import combinations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.plot import LARGEST, Dot, Plot, overlap, plot, shortened, text_width

SIZES = ((860, 460), (360, 400))


def dot(name: str, x: float, y: float, half: float = 0.5, *, chosen: bool = False, stage: bool = False) -> Dot:
    return Dot(name=name, x=x, y=y, low=y - half, high=y + half, chosen=chosen, stage=stage)


def numbers(drawing: Plot) -> list[float]:
    """Every coordinate of the drawing."""
    found = [drawing.floor_y, *drawing.floor_label.box]
    found += [tick.at for tick in (*drawing.x_ticks, *drawing.y_ticks)]
    for mark in drawing.marks:
        found += [mark.x, mark.y, mark.y_low, mark.y_high, *(mark.label.box if mark.label else ())]
    return found


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_labels_keep_off_each_other_and_off_the_marks(width: int, height: int) -> None:
    """A crowd of nearby candidates gets labels that overlap nothing, and the chosen one has one whatever the crowd."""
    crowd = [dot(f"mixed-method-{n}", 700 + 9 * n % 50, 44 + 0.07 * n, chosen=n == 9) for n in range(10)]
    drawing = plot([*crowd, dot("fp32", 2000, 45)], 44.0, width=width, height=height)
    boxes = [mark.label.box for mark in drawing.marks if mark.label] + [drawing.floor_label.box]
    assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]
    assert not [
        1 for box in boxes[:-1] for mark in drawing.marks if box[0] < mark.x < box[2] and box[1] < mark.y < box[3]
    ]
    assert drawing.marks[9].label is not None
    assert sum(mark.label is not None for mark in drawing.marks) >= 6


def test_a_label_stands_inside_the_frame() -> None:
    """Marks at the edges have their names on the inner side."""
    drawing = plot([dot("left", 1, 20), dot("a-much-longer-name", 1000, 80)], 50, width=860, height=460)
    left, top, right, bottom = drawing.frame
    for mark in drawing.marks:
        assert mark.label is not None
        assert left <= mark.label.box[0] <= mark.label.box[2] <= right
        assert top <= mark.label.box[1] <= mark.label.box[3] <= bottom


def test_what_is_said_already_is_not_said_twice() -> None:
    """A candidate that is a stage unchanged has one label with it; both marks stay."""
    drawing = plot([dot("fp32", 9, 45, stage=True), dot("fp32", 9, 45), dot("int8", 3, 45)], 44, width=860, height=460)
    assert [mark.label is not None for mark in drawing.marks] == [False, True, True]


def test_faster_is_left_and_better_is_up() -> None:
    """The axes point as they are labelled, and the marks lie in the ticks' scale."""
    slow, fast = plot([dot("slow", 100, 50), dot("fast", 25, 40)], 45, width=860, height=460).marks
    assert fast.x < slow.x
    assert slow.y < fast.y
    drawing = plot([dot("one", 100, 50), dot("half", 50, 50)], 45, width=860, height=460)
    one, half = drawing.marks
    at = {tick.text: tick.at for tick in drawing.x_ticks}
    assert (at["100"], at["0"]) == (one.x, drawing.frame[0])
    assert half.x - at["0"] == pytest.approx((one.x - at["0"]) / 2, abs=0.11)


def test_equal_values_still_have_an_axis() -> None:
    """One candidate, or several at one place, are drawn with ticks around them."""
    for dots in ([dot("one", 5, 50, 0)], [dot("a", 5, 50, 0), dot("b", 5, 50, 0)]):
        drawing = plot(dots, 50, width=860, height=460)
        assert len(drawing.x_ticks) > 1
        assert len(drawing.y_ticks) > 1
        assert all(drawing.frame[0] < mark.x < drawing.frame[2] for mark in drawing.marks)


EXTREMES = st.floats(min_value=-LARGEST, max_value=LARGEST) | st.sampled_from([0.0, 5e-324, 1e-300, LARGEST])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(EXTREMES.map(abs), EXTREMES), min_size=1, max_size=4), EXTREMES)
def test_any_finite_values_give_a_drawing(values: list[tuple[float, float]], floor: float) -> None:
    """Whatever has a place gives finite coordinates inside the frame and a handful of ticks."""
    drawing = plot([dot(str(n), x, y, 0) for n, (x, y) in enumerate(values)], floor, width=860, height=460)
    assert all(math.isfinite(number) for number in numbers(drawing))
    left, top, right, bottom = drawing.frame
    assert all(left <= mark.x <= right and top <= mark.y <= bottom for mark in drawing.marks)
    assert len(drawing.x_ticks) <= 20
    assert len(drawing.y_ticks) <= 20


def test_what_is_not_a_number_has_no_place() -> None:
    """NaN, infinity and the absurd are told apart from what can be drawn."""
    assert dot("a", 5, 50).has_place
    for wrong in (math.nan, math.inf, 2 * LARGEST):
        assert not msgspec.structs.replace(dot("a", 5, 50), x=wrong).has_place


@given(st.text("ab \u8a9e\u00e9", max_size=40), st.integers(min_value=3, max_value=30))
def test_a_shortened_text_fits(text: str, columns: int) -> None:
    """It is never wider than asked."""
    assert text_width(shortened(text, columns), 10) <= columns * 6.0 + 0.1
