"""Which operators of a graph does a TensorRT version not take, as onnx-tensorrt publishes it?

The lists are data (`tensorrt_operators.toml`, each with its commit). Beside an operator's name they hold a graph's
opset, its weights' types, and those restrictions that decoder and encoder graphs touch: what `Attention`,
`TensorScatter` and the quantizers are refused with. A graph without a line here may still be refused on the device:
the lists promise no combination. `exporter.engine.parse_graph` asks a parser itself, if a newer one.

Does not know how a refused operator could be written instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from device_profiles.profile import Profile
from exporter.errors import EngineError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FIRST_WITH_FUSED_DECODERS: Final = (10, 15)  # Attention came with 10.14, RotaryEmbedding and its like with 10.15
_STANDARD_DOMAINS: Final = ("", "ai.onnx")
_FIRST_WITH_FUNCTIONS: Final = (9, 0)  # changelog of 9.0: local functions of a model are read


class OperatorList(msgspec.Struct, frozen=True, kw_only=True):
    """What one TensorRT version takes. `note` says where it stands in for a version without a list of its own."""

    version: str
    commit: str
    opset: int
    weights: frozenset[str]
    operators: frozenset[str]
    note: str | None = None


class _Version(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    commit: str
    opset: int
    weights: frozenset[str]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    versions: dict[str, _Version]
    first: dict[str, tuple[str, ...]]
    constant_inputs: dict[str, int]


def dialect_for(profile: Profile) -> Literal["plain", "onnx"]:
    """The dialect that the profile's TensorRT can parse. Raises EngineError for a profile without one.

    TensorRT-RTX 1.7 takes the operators of `onnx`: its own parser says so (`exporter.engine.parse_graph`).
    """
    if "tensorrt" in profile.runtimes and profile.software.tensorrt is not None:
        return "onnx" if _numbers(profile.software.tensorrt) >= FIRST_WITH_FUSED_DECODERS else "plain"
    if "tensorrt-rtx" in profile.runtimes:
        return "onnx"
    raise EngineError(f"{profile.name} runs neither TensorRT nor TensorRT-RTX, so no graph is made for them")


def operator_list(tensorrt: str) -> OperatorList:
    """The list of this version ("10.3", "10.3.0"), else that of the nearest older one, with a note that says so.

    Raises EngineError for a version older than all lists, or one that is no number.
    """
    table = _table()
    asked = _numbers(tensorrt)
    older = [version for version in table.versions if _numbers(version) <= asked]
    if not older:
        raise EngineError(
            f"no list of operators for TensorRT {tensorrt}: known are {', '.join(table.versions)} and what follows them"
        )
    version = max(older, key=_numbers)
    found = table.versions[version]
    exact = asked[:2] == _numbers(version)
    return OperatorList(
        version=version,
        commit=found.commit,
        opset=found.opset,
        weights=found.weights,
        operators=frozenset(
            name for first, names in table.first.items() if _numbers(first) <= _numbers(version) for name in names
        ),
        note=None if exact else f"TensorRT {tensorrt} has no list of its own here: checked against that of {version}",
    )


def unsupported(graph_path: Path, tensorrt: str) -> list[str]:
    """What of the graph TensorRT `tensorrt` does not take: one line for each operator and reason, with its first node.

    Raises EngineError where `operator_list` does.
    """
    import onnx

    known = operator_list(tensorrt)
    model = onnx.load(graph_path, load_external_data=False)
    opset = max((one.version for one in model.opset_import if one.domain in _STANDARD_DOMAINS), default=0)
    lines = []
    if opset > known.opset:
        lines.append(f"opset {opset}: TensorRT {known.version} reads up to {known.opset}")
    functions: dict[tuple[str, str], Any] = {}
    if _numbers(tensorrt) >= _FIRST_WITH_FUNCTIONS:
        functions = {(one.domain, one.name): one for one in model.functions}
    found: dict[str, list[str]] = {}
    for graph in (model.graph, *functions.values()):
        for node, place in _nodes(graph, _Place(graph, graph_path.parent)):
            if (node.domain, node.op_type) in functions:
                continue
            why = _refusal(node, place, known)
            if why is not None:
                name = node.op_type if node.domain in _STANDARD_DOMAINS else f"{node.domain}::{node.op_type}"
                found.setdefault(f"{name}: {why}", []).append(node.name or next(iter(node.output), "?"))
    lines += [f"{what} (first {nodes[0]}, {len(nodes)} in all)" for what, nodes in found.items()]
    return lines + [
        f"weights of type {name}: TensorRT {known.version} has no such type (first {first})"
        for name, first in _weight_types(model.graph).items()
        if name not in known.weights
    ]


class _Place:
    """What a node's inputs are, as far as the file says: constants with their values, and ranks."""

    def __init__(self, graph: Any, folder: Path, outer: _Place | None = None) -> None:
        self.folder = folder
        self._weights: dict[str, Any] = dict(outer._weights) if outer else {}
        self._constants: set[str] = set(outer._constants) if outer else set()
        self._types: dict[str, Any] = dict(outer._types) if outer else {}
        self._constants.update(name for node in graph.node if node.op_type == "Constant" for name in node.output)
        if hasattr(graph, "initializer"):  # the inputs and outputs of a function are bare names
            self._weights.update({one.name: one for one in graph.initializer})
            values = (*graph.input, *graph.value_info, *graph.output)
            self._types.update({one.name: one.type.tensor_type for one in values})

    def is_constant(self, name: str) -> bool:
        return name in self._weights or name in self._constants

    def element(self, name: str) -> str | None:
        """The type of a weight's elements, for example INT4."""
        import onnx

        weight = self._weights.get(name)
        return None if weight is None else onnx.TensorProto.DataType.Name(weight.data_type)

    def is_zero(self, name: str) -> bool:
        """Whether a weight is all zeros; one that the file does not hold is taken to be."""
        from onnx import numpy_helper

        weight = self._weights.get(name)
        return weight is None or not numpy_helper.to_array(weight, str(self.folder)).any()

    def rank(self, name: str) -> int | None:
        if name in self._weights:
            return len(self._weights[name].dims)
        known = self._types.get(name)
        return len(known.shape.dim) if known is not None and known.HasField("shape") else None


def _nodes(graph: Any, place: _Place) -> Iterator[tuple[Any, _Place]]:
    """Every node of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node, place
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner, _Place(inner, place.folder, place))


def _refusal(node: Any, place: _Place, known: OperatorList) -> str | None:
    if node.domain not in _STANDARD_DOMAINS:
        return "no operator of ONNX; TensorRT takes it only with a plugin"
    if node.op_type not in known.operators:
        first = next((version for version, names in _table().first.items() if node.op_type in names), None)
        since = f"that came with {first}" if first else "no version does"
        return f"TensorRT {known.version} does not take it; {since}"
    constant = _table().constant_inputs.get(node.op_type)
    bound = "" if constant is None else _given(node.input, constant)
    if bound and not place.is_constant(bound):
        return f"its input {constant} must be a constant"
    check = _RESTRICTIONS.get(node.op_type)
    return None if check is None else check(node, place)


def _attribute(node: Any, name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _given(names: Any, position: int) -> str:
    return names[position] if len(names) > position else ""


def _attention(node: Any, place: _Place) -> str | None:
    if any(_given(node.input, position) for position in (4, 5, 6)):
        return "past_key, past_value and nonpad_kv_seqlen must be left out"
    if any(name for name in node.output[1:]):
        return "it has one output here; present_key, present_value and qk_matmul_output must be left out"
    if _attribute(node, "softcap", 0.0) != 0:
        return "softcap must be left out"
    if any(place.rank(name) not in (None, 4) for name in node.input[:4] if name):
        return "Q, K, V and attn_mask must have four dimensions"
    return None


def _tensor_scatter(node: Any, place: _Place) -> str | None:
    if any(place.rank(name) not in (None, 4) for name in node.input[:2]):
        return "past_cache and update must have four dimensions"
    return None if _attribute(node, "axis", -2) in (-2, 2) else "its axis must be -2"


def _dequantize(node: Any, place: _Place) -> str | None:
    element = place.element(node.input[0])
    if element in ("UINT8", "UINT4", "INT16", "UINT16", "INT32"):
        return f"its input is {element}; it takes INT8, INT4 and FP8 alone"
    return _quantizer(node, place)


def _quantizer(node: Any, place: _Place) -> str | None:
    zero = _given(node.input, 2)
    if place.element(zero) in ("UINT8", "UINT4"):
        return f"its zero point is {place.element(zero)}; it takes signed types alone"
    return None if place.is_zero(zero) else "its zero point must be 0"


def _first_output_only(node: Any, place: _Place) -> str | None:
    return "only its first output is taken" if any(name for name in node.output[1:]) else None


def _scatter_nd(node: Any, place: _Place) -> str | None:
    return None if _attribute(node, "reduction", b"none") == b"none" else "its reduction must be none"


def _top_k(node: Any, place: _Place) -> str | None:
    return None if _attribute(node, "sorted", 1) == 1 else "its sorted must be 1"


# Column "Restrictions" of the lists, for operators that our graphs may hold. The lists of 8.5 and 8.6 name fewer.
_RESTRICTIONS: Final[dict[str, Callable[[Any, _Place], str | None]]] = {
    "Attention": _attention,
    "DequantizeLinear": _dequantize,
    "LayerNormalization": _first_output_only,
    "QuantizeLinear": _quantizer,
    "ScatterND": _scatter_nd,
    "TensorScatter": _tensor_scatter,
    "TopK": _top_k,
}


def _weight_types(graph: Any) -> dict[str, str]:
    """The element types of the weights, each with its first weight."""
    import onnx

    found: dict[str, str] = {}
    for tensor in graph.initializer:
        found.setdefault(onnx.TensorProto.DataType.Name(tensor.data_type), tensor.name)
    return found


@cache
def _table() -> _Table:
    text = (files("exporter") / "tensorrt_operators.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), _Table)


def _numbers(version: str) -> tuple[int, ...]:
    """
    >>> _numbers("10.3") < _numbers("10.13")
    True
    """
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        raise EngineError(f"{version!r} is no version of TensorRT: write for example 10.3") from None
