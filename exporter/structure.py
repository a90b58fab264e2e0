"""Where in a transformers model are its blocks, and in each the feed-forward and the attention projections?

Found by the modules' own names and shapes: Llama and its sisters (Mistral, Qwen, Gemma, StableLM, Phi), Phi-3 with its
packed projections, GPT-2 with transposed weights, and encoders built like BERT or DistilBERT. A layout that is not
known is refused by name. Does not change anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from exporter.errors import ConversionError
from exporter.linear import is_linear, matrix

if TYPE_CHECKING:
    import torch

# Names below one module, in the order (gate, up, down), (packed gate and up, down) or (up, down).
_FEED_FORWARDS: Final = (
    ("gate_proj", "up_proj", "down_proj"),
    ("gate_up_proj", "down_proj"),
    ("up_proj", "down_proj"),
    ("fc1", "fc2"),
    ("c_fc", "c_proj"),
    ("intermediate.dense", "output.dense"),
    ("lin1", "lin2"),
)
# ... in the order (query, key, value, output) or (packed query, key and value, output).
_ATTENTIONS: Final = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_proj", "k_proj", "v_proj", "dense"),
    ("qkv_proj", "o_proj"),
    ("c_attn", "c_proj"),
    ("self.query", "self.key", "self.value", "output.dense"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
)


class Stack(msgspec.Struct, frozen=True):
    """The blocks of a model, and the `torch.nn.ModuleList` that holds them."""

    name: str
    holder: Any

    @property
    def blocks(self) -> tuple[Any, ...]:
        """The blocks in the order in which they run."""
        return tuple(self.holder)


class FeedForward(msgspec.Struct, frozen=True):
    """The feed-forward of one block. Each channel is a row of every `inner` layer and a column of `down`.

    `packed`: the one inner layer holds all gates first, then all up rows.
    """

    name: str
    inner: tuple[Any, ...]
    down: Any
    packed: bool

    @property
    def width(self) -> int:
        """How many channels there are."""
        return int(matrix(self.down).shape[1])

    def rows(self, channels: torch.Tensor) -> torch.Tensor:
        """The rows of an inner layer that make these channels (int64 indices)."""
        import torch

        return torch.cat((channels, channels + self.width)) if self.packed else channels


class Attention(msgspec.Struct, frozen=True):
    """The attention of one block: `module` computes it, `inner` are its query, key and value layers.

    A head is `head_dim` rows of the queries and columns of `output`; key-value group g serves the query heads
    g * heads / kv_heads and following. `packed`: the one inner layer holds queries, then keys, then values.
    """

    name: str
    module: Any
    inner: tuple[Any, ...]
    output: Any
    packed: bool
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def heads_per_group(self) -> int:
        """Query heads that share a key-value head."""
        return self.heads // self.kv_heads


def stack_of(model: Any) -> Stack:
    """The blocks of `model`; raises ConversionError where there is no list of `num_hidden_layers` of them."""
    import torch

    kind = type(model).__name__
    count = getattr(model.config, "num_hidden_layers", None)
    if getattr(model.config, "is_encoder_decoder", False):
        raise ConversionError(f"{kind} has an encoder and a decoder: pruning takes models with one stack of blocks")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and _linears_in(module):
            _refuse_shared(kind, module)
            return Stack(name, module)
    raise ConversionError(f"{kind} has no list of {count} blocks with linear layers: pruning cannot find its layers")


def linears_of(model: Any) -> dict[str, Any]:
    """Every linear layer inside the blocks, by its name in `model`; embedding and output head are not among them.

    Raises ConversionError where a block has matrices outside such layers (experts in one tensor).
    """
    stack = stack_of(model)
    layers = _linears_in(stack.holder)
    known = {id(layer.weight) for layer in layers.values()}
    for name, parameter in stack.holder.named_parameters():
        if parameter.ndim > 1 and id(parameter) not in known:
            raise ConversionError(
                f"{type(model).__name__} has weights {stack.name}.{name} of shape {tuple(parameter.shape)} "
                "that are no linear layer: they cannot be pruned"
            )
    return {f"{stack.name}.{name}": module for name, module in layers.items()}


def feed_forwards_of(model: Any) -> tuple[FeedForward, ...]:
    """One for each block; raises ConversionError where a block has none, several (experts), or unequal widths."""
    stack = stack_of(model)
    found = []
    for index, block in enumerate(stack.blocks):
        where, layers = _only(block, _FEED_FORWARDS, "feed-forward", _is_feed_forward)
        down = layers[-1]
        packed = len(layers) == 2 and matrix(layers[0]).shape[0] == 2 * matrix(down).shape[1]
        name = ".".join(part for part in (stack.name, str(index), where) if part)
        found.append(FeedForward(name=name, inner=layers[:-1], down=down, packed=packed))
    widths = sorted({one.width for one in found})
    if len(widths) > 1:
        raise ConversionError(f"the feed-forwards of {type(model).__name__} differ in width: {widths}")
    return tuple(found)


def attentions_of(model: Any) -> tuple[Attention, ...]:
    """One for each block; raises ConversionError where heads cannot be told apart, or have weights of their own."""
    stack = stack_of(model)
    found = []
    for index, block in enumerate(stack.blocks):
        where, layers = _only(block, _ATTENTIONS, "attention", lambda layers: True)
        around = block.get_submodule(where)
        module = around.get_submodule("self") if hasattr(around, "self") else around
        name = ".".join(part for part in (stack.name, str(index), where) if part)
        found.append(_attention(name, module, layers, model.config))
    if len({(one.heads, one.kv_heads, one.head_dim) for one in found}) > 1:
        raise ConversionError(f"the blocks of {type(model).__name__} differ in their heads")
    return tuple(found)


def _attention(name: str, module: Any, layers: tuple[Any, ...], config: Any) -> Attention:
    output, inner = layers[-1], layers[:-1]
    kind = type(module).__name__
    width = int(matrix(output).shape[1])
    head_dim = int(
        getattr(module, "head_dim", None)
        or getattr(module, "attention_head_size", None)
        or width // config.num_attention_heads
    )
    packed = len(inner) == 1
    key_rows = (matrix(inner[0]).shape[0] - width) // 2 if packed else matrix(inner[1]).shape[0]
    heads, kv_heads = width // head_dim, int(key_rows) // head_dim
    if heads * head_dim != width or kv_heads * head_dim != key_rows or kv_heads == 0 or heads % kv_heads:
        raise ConversionError(f"{kind} has {width} query and {key_rows} key features for heads of {head_dim}")
    _refuse_own_weights(kind, module, layers, head_dim)
    return Attention(
        name=name,
        module=module,
        inner=inner,
        output=output,
        packed=packed,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
    )


def _refuse_own_weights(kind: str, module: Any, layers: tuple[Any, ...], head_dim: int) -> None:
    """Weights beside the projections must be shared by all heads (the q_norm of Qwen3), or none could be removed."""
    known = {id(parameter) for layer in layers for parameter in layer.parameters()}
    for name, parameter in module.named_parameters():
        if id(parameter) not in known and (parameter.numel() != head_dim or name.count(".") != 1):
            raise ConversionError(
                f"{kind} has a weight {name} of shape {tuple(parameter.shape)} that belongs to its heads: "
                "they cannot be removed"
            )


def _only(block: Any, patterns: Any, what: str, fits: Any) -> tuple[str, tuple[Any, ...]]:
    """(path in the block, layers) of the one place that a pattern fits."""
    kind = type(block).__name__
    for pattern in patterns:
        found = []
        for where, module in block.named_modules():
            layers = tuple(_below(module, path) for path in pattern)
            if all(is_linear(layer) for layer in layers) and fits(layers):
                found.append((where, layers))
        if len(found) == 1:
            return found[0]
        if found:
            raise ConversionError(f"{kind} has {len(found)} layers like {what} ({pattern[-1]}): experts are not known")
    looked_for = "; ".join(", ".join(pattern) for pattern in patterns)
    raise ConversionError(f"{kind} has no {what} of a known layout, its layers are not called {looked_for}")


def _is_feed_forward(layers: tuple[Any, ...]) -> bool:
    width = matrix(layers[-1]).shape[1]
    allowed = (width, 2 * width) if len(layers) == 2 else (width,)
    return all(matrix(layer).shape[0] in allowed for layer in layers[:-1])


def _below(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def _linears_in(holder: Any) -> dict[str, Any]:
    return {name: module for name, module in holder.named_modules() if is_linear(module)}


def _refuse_shared(kind: str, holder: Any) -> None:
    every = [id(parameter) for block in holder for parameter in block.parameters()]
    if len(set(every)) != len(every):
        raise ConversionError(f"the blocks of {kind} share weights with one another: they cannot be pruned one by one")
