"""How are channels, heads and blocks taken out of a model, so that modules and configuration agree?

What is removed must be without effect in the moment it goes: each function first silences it (zero columns, a block
that returns its input), then removes it, and checks on a few tokens that nothing else changed. So a family that counts
its heads in an unforeseen place is refused instead of exported wrongly.

Does not know what is worth keeping.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from exporter.errors import ConversionError
from exporter.linear import keep_inputs, keep_outputs, matrix
from exporter.structure import Attention, attentions_of, feed_forwards_of, stack_of

if TYPE_CHECKING:
    import torch

_CHECKED_TOKENS: Final = 16
_TOLERANCE: Final = 1e-3  # of the largest output; sums in another order move it by some 1e-6
_WIDTHS: Final = ("n_inner", "ffn_dim", "hidden_dim", "intermediate_size")
_HEAD_COUNTS: Final = ("num_heads", "num_attention_heads", "n_heads")
_HEAD_WIDTHS: Final = ("all_head_size", "split_size")


def remove_channels(model: Any, kept: Sequence[torch.Tensor]) -> None:
    """Keep in each block's feed-forward only these channels (int64 indices, equally many in each block)."""
    layers = feed_forwards_of(model)
    width = len(kept[0])

    def silence() -> None:
        for one, channels in zip(layers, kept, strict=True):
            _zero_other_columns(one.down, channels)

    def remove() -> None:
        for one, channels in zip(layers, kept, strict=True):
            rows = one.rows(channels)
            for inner in one.inner:
                keep_outputs(inner, rows)
            keep_inputs(one.down, channels)
        name = next((name for name in _WIDTHS if hasattr(model.config, name)), "intermediate_size")
        setattr(model.config, name, width)

    _without_effect(model, silence, remove, "feed-forward channels")


def remove_groups(model: Any, kept: Sequence[torch.Tensor]) -> None:
    """Keep in each block's attention only these key-value groups (int64 indices), with the query heads they serve."""
    layers = attentions_of(model)
    groups = len(kept[0])

    def silence() -> None:
        for one, which in zip(layers, kept, strict=True):
            _zero_other_columns(one.output, _features(which, one.heads_per_group * one.head_dim))

    def remove() -> None:
        for one, which in zip(layers, kept, strict=True):
            _cut_heads(one, which)
        first, config = layers[0], model.config
        config.num_attention_heads = groups * first.heads_per_group
        if hasattr(config, "num_key_value_heads"):
            config.num_key_value_heads = groups
            config.head_dim = first.head_dim  # else it would be read as hidden size over heads

    _without_effect(model, silence, remove, "attention heads")


def remove_blocks(model: Any, removed: Sequence[int]) -> None:
    """Remove the blocks with these indices and number the others anew."""
    stack = stack_of(model)
    count = len(stack.blocks)
    if getattr(model.config, "scale_attn_by_inverse_layer_idx", False):
        raise ConversionError(f"{type(model).__name__} scales attention by the block's number: none can be removed")
    handles: list[Any] = []

    def silence() -> None:
        handles.extend(
            stack.blocks[index].register_forward_hook(_return_the_input, with_kwargs=True) for index in removed
        )

    def remove() -> None:
        for handle in handles:
            handle.remove()
        kept = [index for index in range(count) if index not in set(removed)]
        blocks = [stack.blocks[index] for index in kept]
        del stack.holder[:]
        stack.holder.extend(blocks)
        for index, block in enumerate(blocks):
            for module in block.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = index
        for name, value in model.config.to_dict().items():
            if "layer" in name and isinstance(value, list | tuple) and len(value) == count:
                setattr(model.config, name, [value[index] for index in kept])
        model.config.num_hidden_layers = len(kept)

    _without_effect(model, silence, remove, "blocks")


def reload_problem(model: Any) -> str | None:
    """Why a checkpoint saved from `model` would not load again, or None if it would.

    GPT-2 and BERT, for example, have no field for heads whose features are fewer than the hidden size.
    """
    import torch

    kind = type(model.config).__name__
    try:
        config = type(model.config).from_dict(copy.deepcopy(model.config.to_dict()))
        with torch.device("meta"):
            fresh = type(model)(config)
    except Exception as error:  # configurations raise whatever their validation is made of
        return f"{kind} refuses these sizes: {' '.join(str(error).split())[:200]}"
    want = {name: tuple(parameter.shape) for name, parameter in fresh.named_parameters()}
    have = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if want == have:
        return None
    name = next(name for name in sorted(want.keys() | have.keys()) if want.get(name) != have.get(name))
    return f"{kind} cannot say these sizes: {name} is {have.get(name)}, it would be made {want.get(name)}"


def _cut_heads(one: Attention, which: torch.Tensor) -> None:
    import torch

    query = _features(which, one.heads_per_group * one.head_dim)
    key = _features(which, one.head_dim)
    if one.packed:
        start = one.heads * one.head_dim
        value_start = start + one.kv_heads * one.head_dim
        keep_outputs(one.inner[0], torch.cat((query, start + key, value_start + key)))
    else:
        for inner, rows in zip(one.inner, (query, key, key), strict=True):
            keep_outputs(inner, rows)
    keep_inputs(one.output, query)
    module = one.module
    for name in _HEAD_COUNTS:
        if hasattr(module, name):
            setattr(module, name, len(query) // one.head_dim)
    for name in _HEAD_WIDTHS:
        if hasattr(module, name):
            setattr(module, name, len(query))
    if hasattr(module, "num_key_value_heads"):
        module.num_key_value_heads = len(which)


def _features(groups: torch.Tensor, size: int) -> torch.Tensor:
    """Indices of the features of these groups of `size` neighbours."""
    import torch

    return (groups[:, None] * size + torch.arange(size)).reshape(-1)


def _zero_other_columns(linear: Any, kept: torch.Tensor) -> None:
    import torch

    weight = matrix(linear)
    others = torch.ones(weight.shape[1], dtype=torch.bool)
    others[kept] = False
    weight[:, others] = 0


def _return_the_input(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    entered = args[0] if args else kwargs["hidden_states"]
    return (entered, *output[1:]) if isinstance(output, tuple) else entered


def _without_effect(model: Any, silence: Callable[[], None], remove: Callable[[], None], what: str) -> None:
    """Raises ConversionError if `remove` changes what the model gives once `silence` is done."""
    import torch

    silence()
    before = _output(model)
    remove()
    try:
        difference = float((_output(model) - before).abs().max())
    except (RuntimeError, ValueError, IndexError) as error:  # shapes that no longer fit together
        raise ConversionError(f"{type(model).__name__} does not run without its removed {what}: {error}") from error
    if not difference <= _TOLERANCE * max(1.0, float(before.abs().max())) or not torch.isfinite(before).all():
        raise ConversionError(
            f"removing {what} that had no effect changed {type(model).__name__} by {difference:.2g}: "
            "its layout is not understood"
        )


def _output(model: Any) -> torch.Tensor:
    import torch

    length = min(_CHECKED_TOKENS, getattr(model.config, "max_position_embeddings", None) or _CHECKED_TOKENS)
    ids = (torch.arange(length) * 7 % int(model.config.vocab_size))[None]
    with torch.no_grad():
        output: torch.Tensor = model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    return output
