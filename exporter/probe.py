"""What do the attention layers of a decoder ask for?

`probe` runs the model once through a registered attention function and mask function and writes down heads, scale and
soft cap and window of every layer, and whether its rotary embedding can move into the attention node. What the node
cannot express raises ConversionError that names the model and the reason. Judges by what the model calls and computes;
does not know any architecture.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from exporter.attention import AttentionPlan, LayerAttention, LayerCache, attending, rotating
from exporter.errors import ConversionError
from exporter.refusals import refuse_at_sight

if TYPE_CHECKING:
    import torch

_PROBE: Final = "edgefleet_probe"

# Keyword arguments that attention interfaces are given and that do not change what is computed in inference.
_HARMLESS: Final = frozenset(
    {
        "dropout", "is_causal", "position_ids", "position_embeddings", "past_key_values", "use_cache",
        "output_attentions", "output_hidden_states", "return_dict", "cache_position", "logits_to_keep",
        "num_items_in_batch", "output_router_logits", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",
    }
)  # fmt: skip

_ROTATED_HEADS: Final = 16  # ONNX Runtime rotates heads only of a multiple of this
_UNDERSTOOD: Final = frozenset({"scaling", "softcap", "sliding_window"})


class _Mask(msgspec.Struct, frozen=True):
    """Stands for a mask between the mask function and the attention function; `window` None is plain causal."""

    window: int | None

    def clone(self) -> _Mask:
        return self


def probe(model: Any, context: int) -> AttentionPlan:
    """Run `model` (a transformers causal language model, fp32, eval) once and say what its attention needs.

    `context` is the number of positions that rotary tables must cover.
    Raises ConversionError for masks, sinks, biases or rotary types that GroupQueryAttention cannot express.
    """
    import torch

    refuse_at_sight(model)
    watch = _Probe(model, context)
    cache = _CountingCache()
    try:
        with watch.hooked(), torch.no_grad():
            model(
                input_ids=torch.zeros((1, 4), dtype=torch.long),
                position_ids=torch.arange(4)[None],
                past_key_values=cache,
                use_cache=True,
            )
    except ConversionError as error:
        raise ConversionError(f"{type(model).__name__} cannot be exported: {error}") from error
    except Exception as error:  # model code that knows neither our mask nor our cache fails as it happens to
        raise ConversionError(
            f"{type(model).__name__} cannot be exported: it does not attend through the attention interface of "
            f"transformers ({type(error).__name__})"
        ) from error
    plan = watch.plan()
    _refuse_other_layers(model, len(plan.layers), cache.updates)
    return plan


class _CountingCache(LayerCache):
    """Counts the layers that keep keys and values."""

    updates = 0

    def update(self, keys: Any, values: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        self.updates += 1
        return keys, values


class _Probe:
    """Watches one forward pass. Keeps what it saw alive, because it recognises tensors by identity."""

    def __init__(self, model: Any, context: int) -> None:
        self._model = model
        self._context = context
        self._tables: list[tuple[Any, Any]] = []
        self._producers: dict[int, tuple[Any, Any, dict[str, Any]]] = {}
        self._table_of: dict[int, int] = {}
        self._kept: list[Any] = []
        self._rotated: tuple[Any, Any, int] | None = None
        self._layers: list[LayerAttention] = []
        self._all_fused = True

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Install the hooks for one forward pass."""
        handles = [
            module.register_forward_hook(self._saw_output, with_kwargs=True)
            for name, module in self._model.named_modules()
            if "rotary" in name.rsplit(".", 1)[-1]
        ]
        try:
            with (
                attending(self._model, _PROBE, self._attend, _mask_of),
                rotating(self._model, self._rotate if _rotates_by_halves(self._model) else None),
            ):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def plan(self) -> AttentionPlan:
        """Rotary moves into the nodes only if every layer allows it: one patched function serves them all."""
        if not self._layers:
            raise ConversionError(
                f"{type(self._model).__name__} cannot be exported: no layer of it attends through the attention "
                "interface of transformers (it keeps a recurrent state, or attends by code of its own)"
            )
        if self._all_fused:
            return AttentionPlan(layers=tuple(self._layers), tables=tuple(self._tables))
        unfused = tuple(msgspec.structs.replace(layer, rotary=None) for layer in self._layers)
        return AttentionPlan(layers=unfused, tables=())

    def _saw_output(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(output, tuple) and len(output) == 2:
            self._kept.append(output)
            self._producers[id(output[0])] = (module, args, kwargs)

    def _rotate(self, q: Any, k: Any, cos: Any, sin: Any, *rest: Any, **named: Any) -> tuple[Any, Any]:
        table = self._table(cos)
        plain = not rest and named.get("unsqueeze_dim", 1) == 1 and cos.shape[-1] == q.shape[-1]
        if table is None or not plain or q.shape[-1] % _ROTATED_HEADS:
            self._all_fused = False
        else:
            self._rotated = (q, k, table)
        return q, k

    def _table(self, cos: Any) -> int | None:
        """The index of the table behind `cos`, built by the model's own rotary module over all positions."""
        import torch

        if id(cos) in self._table_of:
            return self._table_of[id(cos)]
        if id(cos) not in self._producers:
            return None
        module, args, kwargs = self._producers[id(cos)]
        positions = torch.arange(self._context)[None]
        args = tuple(positions if _are_positions(a) else a for a in args)
        kwargs = {name: positions if _are_positions(a) else a for name, a in kwargs.items()}
        table = tuple(_halved(part) for part in module.forward(*args, **kwargs))
        if any(part is None for part in table):
            return None
        self._tables.append((table[0], table[1]))
        self._table_of[id(cos)] = len(self._tables) - 1
        return self._table_of[id(cos)]

    def _attend(self, module: Any, query: Any, key: Any, value: Any, mask: Any, **named: Any) -> tuple[Any, None]:
        layer = _layer_from_call(module, query, key, value, mask, named)
        if mask.window is not None and mask.window < self._context:
            layer = msgspec.structs.replace(layer, window=mask.window)
        rotated, self._rotated = self._rotated, None
        if rotated is not None and rotated[0] is query and rotated[1] is key:
            layer = msgspec.structs.replace(layer, rotary=rotated[2])
        else:
            self._all_fused = False
        self._layers.append(layer)
        return query.transpose(1, 2) * 0, None


def _layer_from_call(module: Any, query: Any, key: Any, value: Any, mask: Any, named: dict[str, Any]) -> LayerAttention:
    kind = type(module).__name__
    if not isinstance(mask, _Mask):
        raise ConversionError(f"{kind} gives its attention a mask of its own")
    if getattr(module, "is_causal", True) is False or named.get("is_causal") is False:
        raise ConversionError(f"{kind} attends in both directions: this exporter takes causal decoders")
    unknown = [n for n, v in named.items() if v is not None and n not in _HARMLESS | _UNDERSTOOD]
    if unknown:
        raise ConversionError(f"{kind} asks its attention for {', '.join(unknown)}: the graph cannot express it")
    if value.shape[-1] != query.shape[-1] or key.shape[1] != value.shape[1]:
        raise ConversionError(
            f"{kind} has values of shape {tuple(value.shape)} for queries of {tuple(query.shape)}: "
            "the attention node needs equal head sizes"
        )
    if query.shape[-1] % 8:
        raise ConversionError(f"{kind} has heads of {query.shape[-1]}: the attention node needs a multiple of 8")
    scale = named.get("scaling")
    return LayerAttention(
        heads=query.shape[1],
        kv_heads=key.shape[1],
        head_dim=query.shape[-1],
        scale=float(scale) if scale is not None else query.shape[-1] ** -0.5,
        softcap=float(named.get("softcap") or 0.0),
        rotary=None,
    )


def _mask_of(
    *, mask_function: Callable[..., Any], attention_mask: Any = None, local_size: int | None = None, **_: Any
) -> _Mask:
    """The mask function of transformers' interface: names the mask instead of building it."""
    import torch

    if attention_mask is not None:
        raise ConversionError("it pads its input inside")
    reach = (local_size or 4) + 3
    row, column = torch.arange(reach)[:, None], torch.arange(reach)[None, :]
    wanted = column <= row
    if local_size is not None:
        wanted &= column > row - local_size
    zero = torch.zeros((), dtype=torch.long)
    if not torch.equal(torch.broadcast_to(mask_function(zero, zero, row, column), wanted.shape), wanted):
        raise ConversionError("its mask is neither causal nor a sliding window")
    return _Mask(local_size)


def _rotates_by_halves(model: Any) -> bool:
    """Whether the model's rotary function computes x * cos + (-x2, x1) * sin, as the attention node does.

    Judged by what it computes on random tensors, so that a renamed variable or a decorator does not matter.
    """
    import torch

    rotate = getattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb", None)
    if rotate is None:
        return False
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn((2, heads, 3, 8), generator=draw) for heads in (4, 2))
    cos, sin = (torch.randn((2, 3, 8), generator=draw) for _ in range(2))

    def by_halves(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]

    try:
        got = rotate(q, k, cos, sin)
    except (TypeError, RuntimeError, IndexError):
        return False
    return bool(len(got) == 2 and torch.allclose(got[0], by_halves(q)) and torch.allclose(got[1], by_halves(k)))


def _refuse_other_layers(model: Any, attending: int, caching: int) -> None:
    """A layer that keeps another state than keys and values, or keeps none of its own, would be lost silently."""
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if not attending == caching == layers:
        raise ConversionError(
            f"{type(model).__name__} cannot be exported: of its {layers} layers {attending} attend and {caching} keep "
            "keys and values, and the graph's cache has one pair for each layer and nothing else"
        )


def _are_positions(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.dtype == torch.long


def _halved(table: torch.Tensor) -> torch.Tensor | None:
    """(1, context, head_dim) with equal halves, to (context, head_dim / 2); None if the halves differ."""
    import torch

    first, second = table[0].chunk(2, dim=-1)
    return first.contiguous() if torch.equal(first, second) else None
