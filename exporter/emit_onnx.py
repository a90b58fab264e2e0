"""How is a decoder's attention layer written in operators of ONNX itself?

With `emitting_onnx` the layers of a model emit `RotaryEmbedding`, `TensorScatter` and `Attention` of opset 24 while
`torch.onnx.export` traces them. A step's keys and values are scattered into the cache at the row's own length, and
attention reads the whole cache through a mask that is computed from the lengths once per distinct window: so a prefill,
a prefill over a past and a one-token step are one graph, and a batch may hold rows of unequal lengths.

Does not know any architecture, nor what else becomes of the graph: `plain.py` lowers these nodes for older parsers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from exporter.attention import AttentionPlan, Emitter, LayerAttention

if TYPE_CHECKING:
    import torch

OPSET: Final = 24  # the first with TensorScatter; Attention and RotaryEmbedding are of 23
_EMIT: Final = "edgefleet_onnx"


@contextmanager
def emitting_onnx(model: Any, plan: AttentionPlan) -> Iterator[_Emitter]:
    """While open, `model`'s attention layers emit opset 24 nodes from the state set on the emitter."""
    emitter = _Emitter(plan)
    with emitter.hooked(model, _EMIT):
        yield emitter


class _Emitter(Emitter):
    """Writes Attention, RotaryEmbedding and TensorScatter of each layer, with rotary tables shared by all."""

    def feed(
        self,
        past: Sequence[torch.Tensor],
        seqlens_k: torch.Tensor,
        total: torch.Tensor,
        tables: Sequence[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """`past` alternates keys and values by layer; `total` is what the mask makes unnecessary."""
        self._past, self._seqlens_k, self._tables = past, seqlens_k, tables
        self._masks: dict[int | None, torch.Tensor] = {}
        self._angles: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
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
        index = len(self.present) // 2
        layer = self._plan.layers[index]
        first = self._first(query.shape[2])
        if layer.rotary is not None:
            cos, sin = self._angles_of(layer.rotary, query.shape[2])
            query, key = (_node("RotaryEmbedding", [x, cos, sin], x, {"interleaved": 0}) for x in (query, key))
        caches = [
            _node("TensorScatter", [past, new, first], past, {"axis": 2, "mode": "linear"})
            for past, new in zip(self._past[2 * index : 2 * index + 2], (key, value), strict=True)
        ]
        self.present += caches
        mask = self._mask(layer.window, query.shape[2])
        output = _node("Attention", [query, *caches, mask], query, _attributes(layer))
        return output.transpose(1, 2), None

    def _first(self, sequence: int) -> torch.Tensor:
        """int64 (batch,): the position of each row's first token in this step."""
        import torch

        return self._seqlens_k.to(torch.long) + (1 - sequence)

    def _positions(self, sequence: int) -> torch.Tensor:
        """int64 (batch, sequence)."""
        import torch

        return self._first(sequence)[:, None] + torch.arange(sequence)[None]

    def _angles_of(self, table: int, sequence: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (batch, sequence, head_dim / 2), gathered once for all layers of this table."""
        from torch.nn.functional import embedding

        if table not in self._angles:
            positions = self._positions(sequence)
            cos, sin = (embedding(positions, part) for part in self._tables[table])
            self._angles[table] = cos, sin
        return self._angles[table]

    def _mask(self, window: int | None, sequence: int) -> torch.Tensor:
        """bool (batch, 1, sequence, positions): what each token may see, itself and at most `window` - 1 before."""
        import torch

        if window not in self._masks:
            seen = torch.arange(self._past[0].shape[2])[None, None, None]
            own = self._positions(sequence)[:, None, :, None]
            mask = seen <= own
            self._masks[window] = mask if window is None else mask & (seen > own - window)
        return self._masks[window]


def _node(
    op_type: str, inputs: list[torch.Tensor], like: torch.Tensor, attributes: dict[str, int | float | str]
) -> torch.Tensor:
    """One node of ONNX's own domain; its output is shaped and typed as `like`."""
    import torch

    output: torch.Tensor = torch.onnx.ops.symbolic(
        op_type, inputs, attributes, dtype=like.dtype, shape=like.shape, version=OPSET
    )
    return output


def _attributes(layer: LayerAttention) -> dict[str, int | float | str]:
    attributes: dict[str, int | float | str] = {
        "is_causal": 0,  # the mask says it, for caches that are longer than what is in them
        "scale": layer.scale,
    }
    if layer.softcap:
        attributes["softcap"] = layer.softcap
    return attributes
