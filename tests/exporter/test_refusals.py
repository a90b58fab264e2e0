"""Models that are refused at sight, by name and reason."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import ConversionError
from exporter.refusals import refuse_at_sight
from tests.exporter.conftest import random_model

LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        ("Mixtral", {"num_local_experts": 4}, "mixture of experts"),
        ("GptOss", {"num_local_experts": 4}, "mixture of experts.*; it has attention sinks"),
        ("Mamba", {}, "layers of type linear_attention"),
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "layers of type conv"),
        ("Bloom", {"n_head": 4}, "ALiBi"),
        ("Falcon", {"alibi": True}, "ALiBi"),
        ("Gemma4", {"config": "Gemma4Text", "num_kv_shared_layers": 1}, "last 1 layers share the keys and values"),
        ("Phi3", {"rope_parameters": LONGROPE}, "longrope"),
        ("Gemma3", {"config": "Gemma3Text", "rope_parameters": {"full_attention": LONGROPE}}, "longrope"),
    ],
)
def test_what_has_no_place_in_a_graph_is_refused_by_name(
    architecture: str, changes: dict[str, Any], reason: str
) -> None:
    """The class and every reason are named, without running the model."""
    types = {"layer_types": ["full_attention"] * 2} if architecture == "Gemma4" else {}
    with pytest.raises(ConversionError, match=f"{architecture}ForCausalLM cannot be exported: .*{reason}"):
        refuse_at_sight(random_model(architecture, **types, **changes))


def test_an_encoder_decoder_is_refused() -> None:
    """T5 is named, and that it has two halves."""
    import transformers

    config = transformers.T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ConversionError, match=r"T5ForConditionalGeneration .* encoder-decoder"):
        refuse_at_sight(transformers.T5ForConditionalGeneration(config))


@pytest.mark.parametrize(("architecture", "changes"), [("Llama", {}), ("Falcon", {"alibi": False})])
def test_a_plain_decoder_passes(architecture: str, changes: dict[str, Any]) -> None:
    """A dense decoder with positions is not refused, nor one whose family could have had a bias by distance."""
    model = random_model(architecture, **changes)
    refuse_at_sight(model)
    model.config.is_encoder_decoder = True  # the same model is refused once it says that it is none
    with pytest.raises(ConversionError, match="encoder-decoder"):
        refuse_at_sight(model)
