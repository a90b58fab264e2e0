"""Changes a whole bundle a little, as a broken disk or somebody with a text editor would; hypothesis draws how.

Each function takes the bundle's directory and a source of draws, changes something below the directory and nothing
else. Whether the result may be opened is for the test to say.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from edge_agent.bundle_paths import MANIFEST_NAME
from tests.edge_agent.hostile_bundles import GRAPH, TEMPLATE, TOKENIZER, seal

Data = st.DataObject
VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2, 16, 2**31, 2**62, 2**63, 2**64, 0.5, 1e308, "", ".", "..", "/etc/passwd", "../x",
    MANIFEST_NAME, "model.sig", GRAPH, "a" * 300, "\x00", "\u202e", "\U0001f600", "ort", "fp16", [], [[]], {},
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 5, 7, 8, 9, 16, 99, 127, 1024, 2**20, 2**31 - 1)
SNIPPETS = (
    "{{",
    "}}",
    "{%",
    "%}",
    "{% if %}",
    "{{ ''.__class__ }}",
    "{% for i in range(9**9) %}",
    "[0]",
    "|tojson",
    "x",
)


def bytes_of_a_file(root: Path, data: Data) -> None:
    """Bits turned, bytes cut, doubled, exchanged, overwritten or inserted, anywhere."""
    path = data.draw(st.sampled_from(_files(root)))
    payload = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload)))
        length = data.draw(st.integers(1, 64))
        kind = data.draw(st.sampled_from(("flip", "cut", "double", "zero", "insert", "end", "splice")))
        if kind == "flip" and at < len(payload):
            payload[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del payload[at : at + length]
        elif kind == "double":
            payload[at:at] = payload[at : at + length]
        elif kind == "zero":
            payload[at : at + length] = bytes(len(payload[at : at + length]))
        elif kind == "insert":
            payload[at:at] = data.draw(st.binary(min_size=1, max_size=16))
        elif kind == "end":
            del payload[at:]
        elif kind == "splice":
            other = data.draw(st.integers(0, len(payload)))
            payload[at : at + length] = payload[other : other + length]
    path.write_bytes(payload)


def field_of_json(root: Path, data: Data) -> None:
    """A value of the manifest or the tokenizer replaced, taken away, doubled or called otherwise."""
    path = root / data.draw(st.sampled_from((MANIFEST_NAME, MANIFEST_NAME, TOKENIZER)))
    document = json.loads(path.read_bytes())
    places = list(_places(document))
    place, key = places[data.draw(st.integers(0, len(places) - 1))]
    kind = data.draw(st.sampled_from(("replace", "replace", "remove", "rename", "double")))
    if kind == "replace":
        place[key] = data.draw(st.sampled_from(VALUES))
    elif kind == "double" and isinstance(place, list):
        place.append(place[key])
    elif kind == "rename" and isinstance(place, dict):
        place[data.draw(st.sampled_from(("x", "path", "type", "Regex")))] = place.pop(key)
    else:
        del place[key]
    path.write_text(json.dumps(document))


def field_of_the_graph(root: Path, data: Data) -> None:
    """A field of any message of the graph set to another value, taken away, doubled or moved."""
    import onnx

    model = onnx.load_model_from_string((root / GRAPH).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(_fields_of(model))
        message, field, index = places[data.draw(st.integers(0, len(places) - 1))]
        _change_field(message, field, index, data)
    (root / GRAPH).write_bytes(model.SerializePartialToString())


def words_of_the_template(root: Path, data: Data) -> None:
    """Something that means something to Jinja put into the template, or taken out."""
    source = (root / TEMPLATE).read_text()
    at = data.draw(st.integers(0, len(source)))
    more = data.draw(st.sampled_from(SNIPPETS))
    (root / TEMPLATE).write_text(source[:at] + more + source[at + data.draw(st.integers(0, 8)) :])


def names_of_files(root: Path, data: Data) -> None:
    """A file moved, removed, doubled, or put elsewhere with a link, a pipe or a folder in its place."""
    path = data.draw(st.sampled_from(_files(root)))
    kind = data.draw(st.sampled_from(("move", "remove", "double", "link", "hard", "pipe", "folder", "exchange")))
    names = (
        "x",
        "model/x",
        "model/X",
        ".git/x",
        "tokenizer/\u00e9",
        "engines/x",
        "model.sig",
        "model/" + "d/" * 20 + "x",
    )
    target = root / data.draw(st.sampled_from(names))
    if kind in ("move", "double"):
        payload = path.read_bytes()
        if kind == "move":
            path.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(payload)
    elif kind == "exchange":
        other = data.draw(st.sampled_from(_files(root)))
        ours, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(ours)
    else:
        payload = path.read_bytes()
        path.unlink()
        if kind == "link":
            path.symlink_to(data.draw(st.sampled_from(("/etc/passwd", "manifest.json", "nowhere", "."))))
        elif kind == "hard":
            (root.parent / "shared").write_bytes(payload)
            os.link(root.parent / "shared", path)
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()


KINDS: tuple[Callable[[Path, Data], None], ...] = (
    bytes_of_a_file, field_of_json, field_of_the_graph, field_of_the_graph, words_of_the_template, names_of_files,
)  # fmt: skip


def mutate(root: Path, data: Data) -> None:
    """One change, and in most cases a manifest that is written for it."""
    data.draw(st.sampled_from(KINDS))(root, data)
    if data.draw(st.integers(0, 3)):
        try:
            seal(root)
        except Exception:  # what cannot be sealed is opened as it is
            data.draw(st.just("not sealed"))


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every key of every object, and every position of every list but the long ones."""
    if isinstance(document, dict):
        keys: list[Any] = list(document)[:40]
    elif isinstance(document, list):
        keys = list(range(min(len(document), 5)))
    else:
        return
    for key in keys:
        yield document, key
        yield from _places(document[key])


def _fields_of(message: Any) -> Iterator[tuple[Any, Any, int | None]]:
    """Every field that is set in this message and those in it: the message, the field, and the place in a list."""
    for field, value in message.ListFields():
        values = list(value)[:40] if _is_list(message, field) else [value]
        for index, one in enumerate(values):
            yield message, field, index if _is_list(message, field) else None
            if field.message_type is not None:
                yield from _fields_of(one)


def _is_list(message: Any, field: Any) -> bool:
    return not isinstance(getattr(message, field.name), (int, float, str, bytes)) and hasattr(
        getattr(message, field.name), "append"
    )


def _change_field(message: Any, field: Any, index: int | None, data: Data) -> None:
    kind = data.draw(st.sampled_from(("set", "set", "set", "remove", "double")))
    values = getattr(message, field.name)
    if kind == "remove" and index is None:
        message.ClearField(field.name)
    elif kind == "remove":
        del values[index]
    elif kind == "double" and index is not None:
        values.append(values[index])
    elif field.message_type is None:
        new = _new_value(values if index is None else values[index], data)
        with contextlib.suppress(
            ValueError, TypeError
        ):  # what the onnx package cannot write: bytes are turned elsewhere
            if index is None:
                setattr(message, field.name, new)
            else:
                values[index] = new


def _new_value(old: Any, data: Data) -> Any:
    if isinstance(old, int):
        return data.draw(st.sampled_from(NUMBERS))
    if isinstance(old, float):
        return data.draw(st.floats(width=32))
    if isinstance(old, bytes):
        return data.draw(st.sampled_from((b"", old[:-1], old + b"\0", bytes(len(old)), b"\xff" * len(old))))
    names = (
        "",
        "x",
        "embedding",
        "hidden0",
        "one",
        "seqlens_k",
        "Reshape",
        "ConstantOfShape",
        "Tile",
        "Gather",
        "Loop",
    )
    return data.draw(
        st.sampled_from((*names, old + "x", "com.microsoft", "perm", "axis", "MatMulNBits", "Expand", "Pad"))
    )
