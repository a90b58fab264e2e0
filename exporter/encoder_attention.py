"""How is an encoder's attention layer written as one ONNX node?

While `emitting_encoder` is open, the layers of a model that uses transformers' attention interface emit
`com.microsoft::MultiHeadAttention`: with the padding as its mask of keys where every token may look at every other, and
with a bias where the family restricts that further (sliding windows). A family with an attention of its own is left to
compute it in plain operators, which is slower and as right.

Does not know any architecture; whether the graph equals PyTorch is asked in `encoder_parity.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from exporter.attention import attending
from exporter.errors import ConversionError

if TYPE_CHECKING:
    import torch

_EMIT: Final = "edgefleet_encoder"
# What an attention function may be told that MultiHeadAttention cannot express.
_UNSPOKEN: Final = ("softcap", "s_aux", "position_bias", "head_mask")


@contextmanager
def emitting_encoder(model: Any) -> Iterator[None]:
    """While open, tracing `model` emits one node for each attention layer, if its family uses the interface.

    Raises ConversionError at the end if it says that it does and no layer called.
    """
    if not getattr(model, "_supports_attention_backend", False):
        with eager(model):
            yield
        return
    emitter = _Emitter(type(model).__name__)
    with attending(model, _EMIT, emitter.attend, emitter.mask):
        yield
    if not emitter.layers:
        raise ConversionError(
            f"{type(model).__name__} announces transformers' attention interface and does not call it: "
            "its attention cannot be written as one node"
        )


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """While open, `model` computes attention in plain operators."""
    before = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        yield
    finally:
        model.config._attn_implementation = before


class _Emitter:
    """Writes one MultiHeadAttention per layer."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.layers = 0

    def mask(self, **asked: Any) -> torch.Tensor:
        """int32 (batch, keys) of the tokens, or what may be looked at as a bias, float32 (batch, 1, queries, keys)."""
        import torch
        from transformers.masking_utils import bidirectional_mask_function, eager_mask

        tokens: torch.Tensor | None = asked["attention_mask"]
        if tokens is not None and asked["mask_function"] is bidirectional_mask_function:
            return tokens.to(torch.int32)
        bias: torch.Tensor = eager_mask(**{**asked, "allow_is_bidirectional_skip": False})
        return bias

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **asked: Any,
    ) -> tuple[torch.Tensor, None]:
        """(batch, heads, sequence, head_dim) each, to (batch, sequence, heads, head_dim)."""
        import torch

        self._refuse_unspoken(query, key, asked)
        batch, heads, sequence, head_dim = query.shape
        is_bias = attention_mask is not None and attention_mask.ndim == 4
        inputs = [_flat(query), _flat(key), _flat(value), None]
        inputs += [None, attention_mask] if is_bias else [attention_mask]
        scale = head_dim**-0.5 if scaling is None else float(scaling)
        (output,) = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::MultiHeadAttention",
            inputs,
            {"num_heads": heads, "scale": scale},
            dtypes=(query.dtype,),
            shapes=((batch, sequence, heads * head_dim),),
            version=1,
        )
        self.layers += 1
        return output.reshape(batch, sequence, heads, head_dim), None

    def _refuse_unspoken(self, query: torch.Tensor, key: torch.Tensor, asked: dict[str, Any]) -> None:
        if unspoken := [name for name in _UNSPOKEN if asked.get(name) is not None]:
            raise ConversionError(f"{self._name}: its attention uses {unspoken[0]}, which MultiHeadAttention has not")
        if key.shape[1] != query.shape[1]:
            raise ConversionError(
                f"{self._name}: {query.shape[1]} query heads share {key.shape[1]} key heads, "
                "which MultiHeadAttention has not"
            )


def _flat(states: torch.Tensor) -> torch.Tensor:
    batch, heads, sequence, head_dim = states.shape
    return states.transpose(1, 2).reshape(batch, sequence, heads * head_dim)
