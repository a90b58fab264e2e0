"""What a recipe may say."""

from __future__ import annotations

import msgspec
import pytest

from edge_agent.recipe import CACHE_KEY, Recipe, ShapeProfile, ShapeRange, ShapeRanges
from tests.edge_agent.runtime.engine_bundles import recipe

ROWS = ShapeRanges(
    profiles=(ShapeProfile(name="rows", inputs={"x": ShapeRange(minimum=(1,), optimum=(4,), maximum=(8,))}),)
)


def test_a_recipe_survives_the_manifest() -> None:
    """As JSON, for either runtime, with the whole key."""
    for runtime in ("tensorrt", "tensorrt-rtx"):
        made = recipe(runtime, ROWS)  # type: ignore[arg-type]
        assert msgspec.json.decode(msgspec.json.encode(made), type=Recipe) == made
        assert made.cache_key == CACHE_KEY


@pytest.mark.parametrize(
    "change", [{"runtime": "cuda"}, {"shapes": {"profiles": [{"name": "x"}]}}, {"unknown": 1}, {"flags": "FP16"}]
)
def test_what_is_no_recipe_is_refused(change: dict[str, object]) -> None:
    """Another runtime, half a profile, a field that is not known, a text for a list."""
    table = msgspec.to_builtins(recipe("tensorrt", ROWS)) | change
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, Recipe)


def test_shapes_do_not_shrink() -> None:
    """From minimum over optimum to maximum."""
    with pytest.raises(ValueError, match="must not shrink"):
        ShapeRange(minimum=(2,), optimum=(1,), maximum=(3,))
