"""How is a decoder's attention layer written as one ONNX node?

transformers lets a caller register an attention function and pass its own cache. With `emitting` the layers of a model
emit `com.microsoft::GroupQueryAttention` while `torch.onnx.export` traces them, as an `AttentionPlan` says.

Does not know any architecture, nor how the plan was made (`probe.py`), nor the files that the graph ends up in.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    import torch

_EMIT: Final = "edgefleet_ort"


class LayerAttention(msgspec.Struct, frozen=True, kw_only=True):
    """What one attention layer asks for.

    `rotary` is an index into the tables of the plan, or None. `window` is how many positions up to its own each
    position sees, where that is fewer than the context; None sees all.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    softcap: float
    rotary: int | None
    window: int | None = None


class AttentionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All layers in order, and the rotary tables (cos, sin), each float32 (context, head_dim / 2)."""

    layers: tuple[LayerAttention, ...]
    tables: tuple[tuple[Any, Any], ...]


class LayerCache:
    """A cache for tracing: hands the step's own keys and values on, since the node appends them to the past."""

    is_compileable = False
    is_sliding: Sequence[bool] = ()

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the step's keys and values unchanged."""
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions are given to the model, so nothing may depend on this."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """See get_seq_length."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Size and offset of a mask that is never built."""
        return query_length, 0


@contextmanager
def emitting(model: Any, plan: AttentionPlan) -> Iterator[_Emitter]:
    """While open, `model`'s attention layers emit GroupQueryAttention from the state set on the emitter."""
    emitter = _Emitter(plan)
    with emitter.hooked(model, _EMIT):
        yield emitter


class Emitter(ABC):
    """Writes the attention of one layer after another while a model is traced; what it writes is the dialect's.

    `feed` sets the traced inputs that all layers share; `present` alternates the keys and values written so far.
    """

    def __init__(self, plan: AttentionPlan) -> None:
        self._plan = plan
        self.present: list[torch.Tensor] = []

    @contextmanager
    def hooked(self, model: Any, name: str) -> Iterator[None]:
        """While open, `model` calls `attend`, registered as `name`, which also rotates if there are tables."""
        with attending(model, name, self.attend, None), rotating(model, self.rotate if self._plan.tables else None):
            yield

    @staticmethod
    def rotate(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`attend` rotates; leave queries and keys as they are."""
        return q, k

    @abstractmethod
    def attend(
        self, module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, None]:
        """(batch, heads, sequence, head_dim) each, to (batch, sequence, heads, head_dim)."""


_EVERY_LENGTH: Final = 2**31 - 1


class _Emitter(Emitter):
    """Writes one GroupQueryAttention per layer."""

    def feed(
        self,
        past: Sequence[torch.Tensor],
        seqlens_k: torch.Tensor,
        total: torch.Tensor,
        tables: Sequence[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """`past` alternates keys and values by layer; `total` is a scalar int32.

        The attention reads `total` on the host. What CUDA computes for it ONNX Runtime 1.31 copies there without
        waiting for the copy (seen on an H100: lengths of 0, other tokens). A last operator that only the CPU provider
        has, and that changes nothing, makes it wait.
        """
        import torch

        self._past, self._seqlens_k, self._tables = past, seqlens_k, tables
        self._total = torch.bitwise_and(total, _EVERY_LENGTH)
        self._biases: dict[int, torch.Tensor] = {}
        self.present = []

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, None]:
        """(batch, heads, sequence, head_dim) each, to (batch, sequence, heads, head_dim)."""
        import torch

        index = len(self.present) // 2
        layer = self._plan.layers[index]
        past_key, past_value = self._past[2 * index], self._past[2 * index + 1]
        batch, heads, sequence, head_dim = query.shape
        positions = past_key.shape[2] + sequence
        inputs: list[torch.Tensor | None] = [
            _flat(query), _flat(key), _flat(value), past_key, past_value, self._seqlens_k, self._total
        ]  # fmt: skip
        if layer.rotary is not None:
            inputs += self._tables[layer.rotary]
        if layer.window is not None:
            inputs += [None] * (10 - len(inputs)) + [self._bias(layer.window, sequence)]
        cache_shape = (batch, layer.kv_heads, positions, head_dim)
        output, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            inputs,
            _attributes(layer),
            dtypes=(query.dtype, query.dtype, query.dtype),
            shapes=((batch, sequence, heads * head_dim), cache_shape, cache_shape),
            version=1,
        )
        self.present += [present_key, present_value]
        return output.reshape(batch, sequence, heads, head_dim), None

    def _bias(self, window: int, sequence: int) -> torch.Tensor:
        """What closes the past beyond `window` to each position: float32 (batch, 1, sequence, total), 0 or -inf.

        All layers of one window share it. The node's own `local_window_size` says one position more in ONNX
        Runtime 1.23 than in 1.32; a bias means the same in both (each position sees itself, so no row is all -inf).
        """
        import torch

        if window not in self._biases:
            first = self._seqlens_k.to(torch.long) + (1 - sequence)
            own = first[:, None] + torch.arange(sequence)[None]
            seen = torch.arange(self._total.item())[None, None]
            closed = seen <= (own - window)[:, :, None]
            self._biases[window] = torch.where(closed, float("-inf"), 0.0)[:, None]
        return self._biases[window]


def _attributes(layer: LayerAttention) -> dict[str, int | float]:
    attributes: dict[str, int | float] = {
        "num_heads": layer.heads,
        "kv_num_heads": layer.kv_heads,
        "scale": layer.scale,
    }
    if layer.rotary is not None:
        attributes |= {"do_rotary": 1, "rotary_interleaved": 0}
    if layer.softcap:
        attributes["softcap"] = layer.softcap
    return attributes


@contextmanager
def attending(model: Any, name: str, attend: Callable[..., Any], mask: Callable[..., Any] | None) -> Iterator[None]:
    """Make `model` call `attend` for attention and `mask` for masks, and undo it; without one it builds no mask.

    What is registered is kept for ever: so it only looks up what is to be called now, and holds no model afterwards.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    now = {"attend": attend, "mask": mask}
    AttentionInterface.register(name, lambda *args, **named: now["attend"](*args, **named))  # type: ignore[misc]
    if mask is not None:
        AttentionMaskInterface.register(name, lambda *args, **named: now["mask"](*args, **named))  # type: ignore[misc]
    before = model.config._attn_implementation
    try:
        model.config._attn_implementation = name
        yield
    finally:
        model.config._attn_implementation = before
        now.clear()


@contextmanager
def rotating(model: Any, replacement: Callable[..., Any] | None) -> Iterator[None]:
    """Replace `apply_rotary_pos_emb` in the module that defines `model`, and undo it; None changes nothing."""
    module = sys.modules[type(model).__module__]
    if replacement is None:
        yield
        return
    original = module.apply_rotary_pos_emb
    module.apply_rotary_pos_emb = replacement  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.apply_rotary_pos_emb = original  # type: ignore[attr-defined]


def _flat(states: torch.Tensor) -> torch.Tensor:
    batch, heads, sequence, head_dim = states.shape
    return states.transpose(1, 2).reshape(batch, sequence, heads * head_dim)
