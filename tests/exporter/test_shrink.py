"""What is taken out had no effect, modules and configuration agree, and a saved checkpoint loads again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter import shrink
from exporter.errors import ConversionError
from exporter.linear import matrix
from exporter.parity import check_parity
from exporter.shrink import reload_problem, remove_blocks, remove_channels, remove_groups
from exporter.structure import attentions_of, feed_forwards_of, stack_of
from tests.exporter.conftest import exported, random_model
from tests.exporter.families import DECODERS, FAMILIES, outputs

UNSAYABLE = ("GPT2", "Bert", "BertForSequenceClassification", "DistilBert")  # head size is hidden size over heads


def assert_loads_again(model: Any, folder: Path) -> None:
    """Saved and loaded, the model gives the same."""
    import torch

    assert reload_problem(model) is None
    model.save_pretrained(folder)
    again = type(model).from_pretrained(folder).eval()
    assert torch.allclose(outputs(again), outputs(model), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_go_like_zeroed_columns(family: str, tmp_path: Path) -> None:
    """Without a third of its channels a model gives what it gives with their down columns at zero."""
    import torch

    kept = [torch.arange(0, 64), torch.arange(32, 96)]
    wanted, model = FAMILIES[family](), FAMILIES[family]()
    for one, channels in zip(feed_forwards_of(wanted), kept, strict=True):
        others = sorted(set(range(96)) - set(channels.tolist()))
        matrix(one.down)[:, others] = 0
    remove_channels(model, kept)
    assert torch.allclose(outputs(model), outputs(wanted), atol=1e-4)
    assert not torch.allclose(outputs(model), outputs(FAMILIES[family]()), atol=1e-2)
    assert [one.width for one in feed_forwards_of(model)] == [64, 64]
    assert_loads_again(model, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_go_like_zeroed_columns(family: str, tmp_path: Path) -> None:
    """Without a key-value group a model gives what it gives with its heads' output columns at zero."""
    import torch

    wanted, model = FAMILIES[family](), FAMILIES[family]()
    first = attentions_of(wanted)[0]
    size = first.head_dim * first.heads_per_group
    kept = [torch.arange(1, first.kv_heads), torch.arange(0, first.kv_heads - 1)]
    matrix(first.output)[:, :size] = 0
    matrix(attentions_of(wanted)[1].output)[:, -size:] = 0
    remove_groups(model, kept)
    assert torch.allclose(outputs(model), outputs(wanted), atol=1e-4)
    assert {one.kv_heads for one in attentions_of(model)} == {first.kv_heads - 1}
    if family in UNSAYABLE:
        assert "these sizes" in (reload_problem(model) or "")
    else:
        assert_loads_again(model, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_go_and_the_others_are_numbered_anew(family: str, tmp_path: Path) -> None:
    """Without its first block a model is the one whose blocks are the others."""
    import torch

    model = FAMILIES[family]()
    last = stack_of(model).blocks[1]
    remove_blocks(model, [0])
    assert stack_of(model).blocks == (last,)
    assert all(module.layer_idx == 0 for module in last.modules() if hasattr(module, "layer_idx"))
    assert len(getattr(model.config, "layer_types", None) or [0]) == 1
    assert bool(torch.isfinite(outputs(model)).all())
    assert_loads_again(model, tmp_path)


def test_a_removed_block_leaves_what_a_model_without_it_computes() -> None:
    """Three blocks less the middle one equal a two-block model with the weights of the others."""
    import torch

    model, wanted = random_model("Qwen2", num_hidden_layers=3), random_model("Qwen2")
    weights = model.state_dict()
    others = {name: value for name, value in weights.items() if ".layers.1." not in name}
    wanted.load_state_dict({name.replace(".layers.2.", ".layers.1."): value for name, value in others.items()})
    remove_blocks(model, [1])
    assert torch.equal(outputs(model), outputs(wanted))


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_smaller_models_are_carried_into_the_graph(family: str, tmp_path: Path) -> None:
    """ONNX Runtime computes for a model without a group, channels and a block what PyTorch does."""
    import torch

    model = DECODERS[family]()
    remove_channels(model, [torch.arange(64)] * 2)
    remove_groups(model, [torch.tensor([0])] * 2)
    remove_blocks(model, [1])
    case = exported(model, tmp_path)
    assert case.graph.cache is not None
    assert (case.graph.cache.layers, case.graph.cache.kv_heads) == (1, 1)
    assert check_parity(model, case.path, case.graph) < 1e-3


def test_a_layout_that_is_misread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting other heads than those that were silenced is seen, whatever the reason."""
    import torch

    cut = shrink._cut_heads
    monkeypatch.setattr(shrink, "_cut_heads", lambda one, which: cut(one, 1 - which))
    with pytest.raises(ConversionError, match="its layout is not understood"):
        remove_groups(DECODERS["Llama"](), [torch.tensor([0])] * 2)


def test_tied_embeddings_are_left_alone() -> None:
    """Nothing of width, heads or depth touches the embedding, and the head stays tied to it."""
    import torch

    model = random_model("Llama", tie_word_embeddings=True)
    before = model.get_input_embeddings().weight.detach().clone()
    remove_channels(model, [torch.arange(64)] * 2)
    remove_groups(model, [torch.tensor([0])] * 2)
    remove_blocks(model, [0])
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
