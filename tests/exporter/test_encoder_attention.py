"""What of an encoder's attention becomes one node, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from exporter.encoder_attention import emitting_encoder
from exporter.errors import ConversionError
from tests.exporter.encoder_models import random_encoder


def test_the_model_attends_as_before_afterwards() -> None:
    """What was set for tracing is undone, also for a family that is traced as it is."""
    for family in ("Bert", "MPNet"):
        model = random_encoder(family, "feature-extraction")
        before = model.config._attn_implementation
        with emitting_encoder(model):
            model(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=torch.ones((1, 3), dtype=torch.long))
            assert model.config._attn_implementation != "sdpa"
        assert model.config._attn_implementation == before


def test_a_model_that_says_so_and_does_not_use_the_interface_is_refused() -> None:
    """No layer called: what was traced would not be what was announced."""
    with (
        pytest.raises(ConversionError, match="does not call it"),
        emitting_encoder(random_encoder("Bert", "feature-extraction")),
    ):
        pass


@pytest.mark.parametrize(
    ("keys", "asked", "words"), [(4, {"softcap": 3.0}, "softcap"), (2, {}, "4 query heads share 2 key heads")]
)
def test_attention_that_the_node_lacks_is_refused_by_name(keys: int, asked: dict[str, Any], words: str) -> None:
    """Soft caps, and fewer heads of keys than of queries."""
    from exporter.encoder_attention import _Emitter

    query, key = torch.zeros((1, 4, 3, 8)), torch.zeros((1, keys, 3, 8))
    with pytest.raises(ConversionError, match=f"BertModel: .*{words}"):
        _Emitter("BertModel").attend(torch.nn.Identity(), query, key, key, None, **asked)
