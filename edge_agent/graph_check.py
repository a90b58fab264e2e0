"""May this ONNX graph be handed to a runtime? A bounded walk over its protobuf (onnx.proto), before anybody parses it.

Each field of each message must be one that is listed here, of its own wire type, and single where onnx.proto says so:
what two parsers could read differently is refused. Then: operators of the list (`onnx_operators.py`), no functions, no
graphs in nodes, no training information, tensors whose bytes are exactly what their shape says, and weights in other
files only where the bundle lists them, within their bytes. Nothing is built, one message is looked at at a time, and no
walk goes deeper than the messages below: so time and memory are bounded by MAX_FIELDS and MAX_NODES.

Does not know whether the graph computes what it should, how long it takes or how much memory: a runtime's own checks,
the samples and the deadline are for that.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from edge_agent.errors import BundleError
from edge_agent.onnx_file import BITS
from edge_agent.onnx_operators import OPERATORS, domain_of, refusal
from edge_agent.protobuf import BYTES, FIXED32, FIXED64, VARINT, WireError, count_varints, fields, signed, varints

MAX_FIELDS: Final = 1_000_000  # 2,200 a layer in the dialect that has most; so many take 4 s
MAX_NODES: Final = 50_000
MAX_TENSORS: Final = 50_000
MAX_RANK: Final = 8
MAX_ELEMENTS: Final = 2**40
MAX_NAME_BYTES: Final = 1024
MAX_TEXT_BYTES: Final = 64 * 1024
MAX_ENTRIES: Final = 4096  # inputs, outputs or attributes of a node, entries of one list of properties
MAX_OPSET: Final = 64

_TENSOR_TYPES: Final = frozenset(BITS) - {14, 15}  # complex numbers
_DECIMAL: Final = re.compile(r"[0-9]{1,18}\Z")
_DEFAULT, _EXTERNAL = 0, 1
_ATTRIBUTE_VALUES: Final = ("f", "i", "s", "t", "floats", "ints", "strings")


class _Field(NamedTuple):
    """`kind` is the wire type. A repeated number may also be packed."""

    name: str
    kind: int
    repeated: bool = False


def _texts(**numbers: int) -> dict[int, _Field]:
    return {number: _Field(name, BYTES) for name, number in numbers.items()}


def _lists(**numbers: int) -> dict[int, _Field]:
    return {number: _Field(name, BYTES, repeated=True) for name, number in numbers.items()}


def _ints(**numbers: int) -> dict[int, _Field]:
    return {number: _Field(name, VARINT) for name, number in numbers.items()}


_MODEL: Final = (
    _ints(ir_version=1, model_version=5)
    | _texts(producer_name=2, producer_version=3, domain=4, doc_string=6, graph=7)
    | _lists(opset_import=8, metadata_props=14)
)
_OPSET: Final = _texts(domain=1) | _ints(version=2)
_GRAPH: Final = _texts(name=2, doc_string=10) | _lists(
    node=1, initializer=5, input=11, output=12, value_info=13, metadata_props=16
)
_NODE: Final = _texts(name=3, op_type=4, doc_string=6, domain=7, overload=8) | _lists(
    input=1, output=2, attribute=5, metadata_props=9
)
_ATTRIBUTE: Final = {
    2: _Field("f", FIXED32), 7: _Field("floats", FIXED32, repeated=True), 8: _Field("ints", VARINT, repeated=True),
    **_texts(name=1, s=4, t=5, doc_string=13), **_ints(i=3, type=20), **_lists(strings=9),
}  # fmt: skip
_TENSOR: Final = {
    1: _Field("dims", VARINT, repeated=True), 4: _Field("float_data", FIXED32, repeated=True),
    5: _Field("int32_data", VARINT, repeated=True), 7: _Field("int64_data", VARINT, repeated=True),
    10: _Field("double_data", FIXED64, repeated=True), 11: _Field("uint64_data", VARINT, repeated=True),
    **_ints(data_type=2, data_location=14), **_texts(name=8, raw_data=9, doc_string=12),
    **_lists(external_data=13, metadata_props=16),
}  # fmt: skip
_VALUE_INFO: Final = _texts(name=1, type=2, doc_string=3) | _lists(metadata_props=4)
_TYPE: Final = _texts(tensor_type=1, denotation=6)
_TENSOR_TYPE: Final = _ints(elem_type=1) | _texts(shape=2)
_SHAPE: Final = _lists(dim=1)
_DIMENSION: Final = _ints(dim_value=1) | _texts(dim_param=2, denotation=3)
_PAIR: Final = _texts(key=1, value=2)
_DATA_OF: Final = {
    "float_data": (1,),
    "int32_data": (2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26),
    "int64_data": (7,),
    "double_data": (11,),
    "uint64_data": (12, 13),
}
_NUMBERS_BYTES: Final = {FIXED32: 4, FIXED64: 8}


class _Refused(Exception):
    """What is wrong with the graph."""


class _Value(NamedTuple):
    name: str
    wire: int
    number: int
    part: memoryview


def check_graph(path: Path, relative: str, files: Mapping[str, int]) -> None:
    """Check the graph in `path`, which the bundle calls `relative`; `files` are its files by name, with their bytes.

    Raises BundleError with what is refused.
    """
    try:
        with open(path, "rb") as file:
            # Not closed here: it goes with the last view of it, and an error's traceback holds some.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _Walk(relative, files).model(memoryview(mapped))
    except (_Refused, WireError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: this graph is not taken: {' '.join(str(error).split())[:400]}") from None
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise BundleError(f"{path}: this graph cannot be read: {error}") from None


class _Walk:
    """One walk through one graph, with what is left of its bounds."""

    def __init__(self, relative: str, files: Mapping[str, int]) -> None:
        self._graph_path = PurePosixPath(relative)
        self._files = files
        self._fields_left, self._nodes_left, self._tensors_left = MAX_FIELDS, MAX_NODES, MAX_TENSORS
        self._opsets: set[str] = set()

    def model(self, view: memoryview) -> None:
        graphs: list[memoryview] = []
        for value in self._read(view, _MODEL, "the model"):
            if value.name == "graph":
                graphs.append(value.part)
            elif value.name == "opset_import":
                self._opset(value.part)
            elif value.name == "metadata_props":
                self._pair(value.part)
            elif value.wire == BYTES:
                _text(value.part, value.name, MAX_TEXT_BYTES)
        if not graphs or not self._opsets:
            raise _Refused("a model without a graph, or without the version of its operators")
        self._graph(graphs[0])

    def _opset(self, view: memoryview) -> None:
        domain, version = "", 0
        for value in self._read(view, _OPSET, "an operator set"):
            if value.name == "domain":
                domain = domain_of(_text(value.part, "domain"))
            else:
                version = signed(value.number)
        if domain not in OPERATORS:
            raise _Refused(f"domain {domain!r} is unknown: custom operators are code")
        if domain in self._opsets:
            raise _Refused(f"operator set {domain or 'ai.onnx'!r} is imported twice")
        if not 0 < version <= MAX_OPSET:
            raise _Refused(f"version {version} of operator set {domain or 'ai.onnx'!r}")
        self._opsets.add(domain)

    def _graph(self, view: memoryview) -> None:
        weights: set[str] = set()
        for value in self._read(view, _GRAPH, "the graph"):
            if value.name == "node":
                self._node(value.part)
            elif value.name == "initializer":
                name = self._tensor(value.part, "initializer")
                if not name or name in weights:
                    raise _Refused(f"initializer {name!r} has no name of its own")
                weights.add(name)
            elif value.name in ("input", "output", "value_info"):
                self._value_info(value.part)
            elif value.name == "metadata_props":
                self._pair(value.part)
            else:
                _text(value.part, value.name, MAX_TEXT_BYTES)

    def _node(self, view: memoryview) -> None:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise _Refused(f"more than {MAX_NODES} nodes")
        said: dict[str, str] = {}
        attributes: set[str] = set()
        for value in self._read(view, _NODE, "a node"):
            if value.name == "attribute":
                name = self._attribute(value.part)
                if name in attributes:
                    raise _Refused(f"attribute {name!r} of a node is given twice")
                attributes.add(name)
            elif value.name == "metadata_props":
                self._pair(value.part)
            else:
                said[value.name] = _text(value.part, value.name, MAX_TEXT_BYTES if value.name == "doc_string" else 0)
        domain, kind = domain_of(said.get("domain", "")), said.get("op_type", "")
        if (why := refusal(domain, kind)) is not None:
            raise _Refused(why)
        if domain not in self._opsets:
            raise _Refused(f"operator {kind!r} of domain {domain or 'ai.onnx'!r}, of which no version is imported")
        if said.get("overload"):
            raise _Refused(f"operator {kind!r} has an overload: those are functions")

    def _attribute(self, view: memoryview) -> str:
        name, values, kind = "", set(), 0
        for value in self._read(view, _ATTRIBUTE, "an attribute"):
            if value.name == "name":
                name = _text(value.part, "name of an attribute")
            elif value.name == "type":
                kind = value.number
            elif value.name == "t":
                self._tensor(value.part, "attribute")
            elif value.name in ("s", "strings", "doc_string") and len(value.part) > MAX_TEXT_BYTES:
                raise _Refused(f"a text of {len(value.part)} bytes in attribute {name!r}, at most {MAX_TEXT_BYTES}")
            if value.name in _ATTRIBUTE_VALUES:
                values.add(value.name)
        if not name or len(values) > 1:
            raise _Refused(f"attribute {name!r} has no name, or several values: {', '.join(sorted(values))}")
        if kind not in (0, 1, 2, 3, 4, 6, 7, 8):
            raise _Refused(f"attribute {name!r} is of type {kind}: numbers, texts and tensors are taken")
        return name

    def _value_info(self, view: memoryview) -> None:
        for value in self._read(view, _VALUE_INFO, "a value"):
            if value.name == "type":
                for inner in self._read(value.part, _TYPE, "the type of a value"):
                    if inner.name == "tensor_type":
                        self._tensor_type(inner.part)
            elif value.name == "metadata_props":
                self._pair(value.part)
            else:
                _text(value.part, value.name, MAX_TEXT_BYTES if value.name == "doc_string" else 0)

    def _tensor_type(self, view: memoryview) -> None:
        for value in self._read(view, _TENSOR_TYPE, "the type of a tensor"):
            if value.name == "elem_type":
                if value.number and value.number not in _TENSOR_TYPES:
                    raise _Refused(f"a value has elements of type {value.number}: numbers alone are taken")
                continue
            sizes = [
                (inner.name, signed(inner.number), inner.part)
                for dim in self._read(value.part, _SHAPE, "a shape", most=MAX_RANK)
                for inner in self._read(dim.part, _DIMENSION, "a dimension")
            ]
            for name, size, part in sizes:
                if name == "dim_value" and not 0 <= size <= MAX_ELEMENTS:
                    raise _Refused(f"a value has a dimension of {size}")
                _text(part, name)

    def _tensor(self, view: memoryview, where: str) -> str:
        self._tensors_left -= 1
        if self._tensors_left < 0:
            raise _Refused(f"more than {MAX_TENSORS} tensors")
        name, kind, location, elements, rank = "", 0, _DEFAULT, 1, 0
        data: dict[str, int] = {}
        external: list[tuple[str, str]] = []
        for value in self._read(view, _TENSOR, "a tensor"):
            if value.name == "dims":
                for size in (value.number,) if value.wire == VARINT else _packed(value.part):
                    rank, elements = rank + 1, elements * size
                    if rank > MAX_RANK or size > MAX_ELEMENTS or elements > MAX_ELEMENTS:
                        raise _Refused(
                            f"tensor {name!r} has {rank} dimensions of {elements} elements, or a negative one"
                        )
            elif value.name == "data_type":
                kind = value.number
            elif value.name == "data_location":
                location = value.number
            elif value.name == "name":
                name = _text(value.part, "name of a tensor")
            elif value.name == "raw_data":
                data["raw_data"] = len(value.part)
            elif value.name.endswith("_data") and value.name != "external_data":
                data[value.name] = data.get(value.name, 0) + _count(value)
            elif value.name == "external_data":
                external.append(self._pair(value.part))
            elif value.name == "metadata_props":
                self._pair(value.part)
        if kind not in _TENSOR_TYPES:
            raise _Refused(f"tensor {name!r} has elements of type {kind}: numbers alone are taken")
        if location == _DEFAULT and not external:
            _check_data(name, kind, elements, data)
        elif location == _EXTERNAL and not data and where == "initializer":
            self._check_external(name, (elements * BITS[kind] + 7) // 8, external)
        else:
            raise _Refused(f"tensor {name!r} holds its elements in two places, or in another file as an {where}")
        return name

    def _check_external(self, name: str, size_bytes: int, entries: list[tuple[str, str]]) -> None:
        said = dict(entries)
        if len(said) != len(entries) or not {"location"} <= said.keys() <= {"location", "offset", "length"}:
            raise _Refused(f"tensor {name!r} says of its file {', '.join(key for key, _ in entries)}")
        location = said["location"]
        numbers = [said.get("offset", "0"), said.get("length", str(size_bytes))]
        if not all(_DECIMAL.match(number) for number in numbers):
            raise _Refused(f"tensor {name!r} lies at {' + '.join(numbers)} of its file: not two numbers")
        offset, length = map(int, numbers)
        if "/" in location or "\\" in location or location in ("", ".", ".."):
            raise _Refused(f"tensor {name!r} lies in {location!r}: weights lie beside their graph")
        file = str(self._graph_path.parent / location)
        if file not in self._files or file == str(self._graph_path):
            raise _Refused(f"tensor {name!r} lies in {location!r}, which is no file of the bundle for weights")
        if length != size_bytes:
            raise _Refused(f"tensor {name!r} has {length} bytes, its shape needs {size_bytes}")
        if offset + length > self._files[file]:
            raise _Refused(
                f"tensor {name!r} ends at byte {offset + length} of {location!r}, which has {self._files[file]}"
            )

    def _pair(self, view: memoryview) -> tuple[str, str]:
        said = {
            value.name: _text(value.part, value.name, MAX_TEXT_BYTES) for value in self._read(view, _PAIR, "a property")
        }
        return said.get("key", ""), said.get("value", "")

    def _read(
        self, view: memoryview, known: Mapping[int, _Field], what: str, most: int | None = None
    ) -> Iterator[_Value]:
        """The fields of one message, each of them known, of its own kind and single where it must be."""
        seen: set[int] = set()
        for count, (number, wire, value, part) in enumerate(fields(view)):
            self._fields_left -= 1
            if self._fields_left < 0:
                raise _Refused(f"more than {MAX_FIELDS} fields")
            if most is not None and count >= most:
                raise _Refused(f"{what} has more than {most} fields")
            field = known.get(number)
            if field is None:
                raise _Refused(f"{what} has field {number}, which {_WHY.get((what, number), 'is unknown here')}")
            packed = field.repeated and wire == BYTES
            if wire != field.kind and not packed:
                raise _Refused(f"{field.name} of {what} has wire type {wire}")
            if not field.repeated:
                if number in seen:
                    raise _Refused(f"{field.name} of {what} is given twice")
                seen.add(number)
            yield _Value(field.name, wire, value, part)


_WHY: Final = {
    ("the model", 20): "is training information: nothing is trained here",
    ("the model", 25): "is a function: operators of one's own are not taken",
    ("the graph", 15): "is a sparse tensor: those are not taken",
    ("an attribute", 6): "is a graph inside a node: control flow is not taken",
    ("an attribute", 11): "is a list of graphs inside a node: control flow is not taken",
    ("an attribute", 21): "refers to an attribute of a function: those are not taken",
    ("a tensor", 3): "is a segment of a larger tensor: those are not taken",
    ("a tensor", 6): "is text: numbers alone are taken",
}


def _text(part: memoryview, what: str, most: int = 0) -> str:
    if len(part) > (most or MAX_NAME_BYTES):
        raise _Refused(f"{what} of {len(part)} bytes, at most {most or MAX_NAME_BYTES} are taken")
    return bytes(part).decode("utf-8")


def _packed(part: memoryview) -> list[int]:
    if len(part) > MAX_RANK * 10:
        raise _Refused(f"a tensor of more than {MAX_RANK} dimensions")
    return list(varints(part))


def _count(value: _Value) -> int:
    """Numbers in one field of a tensor's own data."""
    field = next(one for one in _TENSOR.values() if one.name == value.name)
    if value.wire != BYTES:
        return 1
    if field.kind == VARINT:
        return count_varints(value.part)
    size_bytes = _NUMBERS_BYTES[field.kind]
    if len(value.part) % size_bytes:
        raise _Refused(f"{value.name} of {len(value.part)} bytes is no whole number of elements")
    return len(value.part) // size_bytes


def _check_data(name: str, kind: int, elements: int, data: Mapping[str, int]) -> None:
    """The bytes or numbers that a tensor holds are what its shape says, in the one field for its type."""
    bits = BITS[kind]
    if len(data) > 1:
        raise _Refused(f"tensor {name!r} holds its elements in {' and '.join(data)}")
    for field, count in data.items():
        if field == "raw_data":
            needed = (elements * bits + 7) // 8
        elif kind not in _DATA_OF[field]:
            raise _Refused(f"tensor {name!r} of type {kind} holds its elements in {field}")
        else:
            needed = (elements * bits + 7) // 8 if bits < 8 else elements
        if count != needed:
            raise _Refused(f"tensor {name!r} has {count} in {field}, its shape needs {needed}")
    if not data and elements:
        raise _Refused(f"tensor {name!r} has a shape of {elements} elements and holds none")
