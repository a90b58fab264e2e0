"""Which weights does an ONNX graph hold, where do they lie, and which of them does one token read?

A device has no `onnx` package, so this reads the few protobuf fields it needs (onnx.proto, ModelProto and below)
and skips the rest without loading it. Knows nothing of running a graph, nor whether it should be run: `graph_check.py`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.errors import BundleError
from edge_agent.protobuf import BYTES, VARINT, fields, varints

# Bits of one element, and the TensorProto.DataType codes that have it.
BITS: Final = {
    code: bits
    for bits, codes in {
        128: (15,),
        64: (7, 11, 13, 14),
        32: (1, 6, 12),
        16: (4, 5, 10, 16),
        8: (2, 3, 9, 17, 18, 19, 20, 24),
        4: (21, 22, 23),
        2: (25, 26),
    }.items()
    for code in codes
}
# Inputs of which one token reads single rows only: embeddings, and the rotary tables.
_ROWS_ONLY: Final = {
    "Gather": (0,),
    "GatherBlockQuantized": (0, 2, 3),
    "GroupQueryAttention": (7, 8),
    "RotaryEmbedding": (1, 2, 3),
}
_MAX_GRAPH_BYTES: Final = 2**31  # protobuf's own limit


class Weight(msgspec.Struct, frozen=True):
    """One initializer. `location` is its external file as the graph names it, or None if it lies inside."""

    name: str
    bytes: int
    location: str | None = None
    offset: int = 0


class Node(msgspec.Struct, frozen=True):
    """One operator with the names of its inputs; an input left out is an empty name."""

    op_type: str
    inputs: tuple[str, ...]


class OnnxFile(msgspec.Struct, frozen=True):
    """Initializers and nodes of a graph, subgraphs included."""

    weights: tuple[Weight, ...]
    nodes: tuple[Node, ...]

    @property
    def weights_bytes(self) -> int:
        """Bytes of all initializers; what two of them share is counted once."""
        return _bytes_once(self.weights)

    @property
    def bytes_per_token(self) -> int:
        """Weight bytes that one decoded token must read.

        All but tables of which it reads a row; a table that a matrix product reads too (a tied head) counts.
        """
        whole = {
            name
            for node in self.nodes
            for position, name in enumerate(node.inputs)
            if position not in _ROWS_ONLY.get(node.op_type, ())
        }
        return _bytes_once(weight for weight in self.weights if weight.name in whole)


def _bytes_once(weights: Iterable[Weight]) -> int:
    """Two initializers that begin at one place of one file are one table with two shapes."""
    places = {(weight.location or weight.name, weight.offset): weight.bytes for weight in weights}
    return sum(places.values())


def read_onnx(path: Path) -> OnnxFile:
    """Read the graph in `path`. Raises BundleError if it is no ONNX model."""
    try:
        with open(path, "rb") as file:
            size_bytes = file.seek(0, 2)
            if not 0 < size_bytes <= _MAX_GRAPH_BYTES:
                raise BundleError(f"{path}: {size_bytes} bytes are no ONNX model")
            # Not closed here: it goes with the last view of it, and an error's traceback holds some.
            return _model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except (ValueError, IndexError, KeyError, RecursionError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: not a readable ONNX model ({error!r})") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None


def _model(view: memoryview) -> OnnxFile:
    weights: list[Weight] = []
    nodes: list[Node] = []
    for field, wire, _, part in fields(view):
        if field == 7 and wire == BYTES:  # ModelProto.graph
            _graph(part, weights, nodes)
    return OnnxFile(tuple(weights), tuple(nodes))


def _graph(view: memoryview, weights: list[Weight], nodes: list[Node]) -> None:
    for field, wire, _, part in fields(view):
        if field == 1 and wire == BYTES:  # GraphProto.node
            _node(part, weights, nodes)
        elif field == 5 and wire == BYTES:  # GraphProto.initializer
            weights.append(_tensor(part))


def _node(view: memoryview, weights: list[Weight], nodes: list[Node]) -> None:
    op_type, inputs = "", []
    for field, wire, _, part in fields(view):
        if wire != BYTES:
            continue
        if field == 1:
            inputs.append(_text(part))
        elif field == 4:
            op_type = _text(part)
        elif field == 5:  # AttributeProto: a tensor (t = 5, tensors = 10) or a graph (g = 6, graphs = 11)
            for inner, kind, _, inside in fields(part):
                if inner in (6, 11) and kind == BYTES:
                    _graph(inside, weights, nodes)
                elif inner in (5, 10) and kind == BYTES:
                    weights.append(_tensor(inside))
    nodes.append(Node(op_type, tuple(inputs)))


def _tensor(view: memoryview) -> Weight:
    name, bits, elements = "", 0, 1
    external: dict[str, str] = {}
    for field, wire, number, part in fields(view):
        if field == 1:  # dims, one by one or packed
            for dim in (number,) if wire == VARINT else varints(part):
                elements *= dim
        elif field == 2:
            bits = BITS.get(number, 0)
        elif field == 8:
            name = _text(part)
        elif field == 13:  # external_data: StringStringEntryProto
            entry = {inner: _text(inside) for inner, kind, _, inside in fields(part) if kind == BYTES}
            external[entry.get(1, "")] = entry.get(2, "")
    size_bytes = (elements * bits + 7) // 8
    return Weight(name, size_bytes, external.get("location"), int(external.get("offset", "0")))


def _text(view: memoryview) -> str:
    return bytes(view).decode("utf-8")
