"""Hostile bundles, each made from a small whole one by what somebody might try, and the words it is refused with.

`CASES` are opened as they are, `SIGNED_CASES` with one trusted key. What a case changes inside a file is sealed again
(sizes, hashes and id in the manifest), so that it meets the check it is meant for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.bundle import bundle_id, encode_manifest
from edge_agent.bundle_paths import MANIFEST_NAME, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SIGNATURE_NAME
from edge_agent.manifest import BundleFile, Manifest
from exporter.signing import Signing

GRAPH, TOKENIZER, TEMPLATE = "model/decoder.onnx", "tokenizer/tokenizer.json", "tokenizer/chat_template.jinja"
Build = Callable[[Path], object]
FEW_FIELDS, FEW_NODES = 20_000, 500  # bounds that a test reaches soon, in place of those of `graph_check.py`


def whole_bundle(folder: Path) -> Path:
    """The bundle that all of these are made from."""
    from edge_agent.bundle import write_bundle
    from tests.edge_agent import conftest

    staging = folder / "staging"
    for name in ("model", "tokenizer"):
        (staging / name).mkdir(parents=True)
    described = conftest.build_graph(staging / GRAPH)
    conftest.build_tokenizer(staging / TOKENIZER)
    (staging / TEMPLATE).write_text(conftest.TEMPLATE)
    write_bundle(staging, folder / "bundle", conftest.draft_manifest(described))
    return folder / "bundle"


# --- tools ----------------------------------------------------------------------------------------------


def read_manifest(root: Path) -> Manifest:
    return msgspec.json.decode((root / MANIFEST_NAME).read_bytes(), type=Manifest)


def seal(root: Path) -> None:
    """Write sizes, hashes and id anew, as somebody who changes a bundle would."""
    if not (root / MANIFEST_NAME).is_file():  # a pipe, say, which would be waited for
        return
    manifest = read_manifest(root)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    files = []
    for path in paths:
        if path not in (MANIFEST_NAME, SIGNATURE_NAME):
            payload = (root / path).read_bytes()
            files.append(BundleFile(path=path, bytes=len(payload), sha256=hashlib.sha256(payload).hexdigest()))
    manifest = msgspec.structs.replace(manifest, files=tuple(files))
    manifest = msgspec.structs.replace(manifest, bundle_id=bundle_id(manifest))
    (root / MANIFEST_NAME).write_bytes(encode_manifest(manifest))


def hashes(root: Path) -> dict[str, str]:
    """What a signature of this directory covers."""
    manifest = (root / MANIFEST_NAME).read_bytes()
    listed = {entry.path: entry.sha256 for entry in read_manifest(root).files}
    return {MANIFEST_NAME: hashlib.sha256(manifest).hexdigest(), **listed}


def sign(root: Path, key: Any) -> None:
    (root / SIGNATURE_NAME).write_bytes(Signing(key)(read_manifest(root).bundle_id, hashes(root)))


def said(*where: str | int, value: object) -> Build:
    """Another value in the manifest."""

    def build(root: Path) -> None:
        document = json.loads((root / MANIFEST_NAME).read_bytes())
        place: Any = document
        for step in where[:-1]:
            place = place[step]
        place[where[-1]] = value
        (root / MANIFEST_NAME).write_text(json.dumps(document))

    return build


def written(path: str, payload: bytes) -> Build:
    """Another content of a file, sealed."""

    def build(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(payload)
        seal(root)

    return build


def sparse(path: str, size_bytes: int) -> Build:
    """A file that says it is large."""

    def build(root: Path) -> None:
        with (root / path).open("ab") as file:
            file.truncate(size_bytes)

    return build


def graph(change: Callable[[Any], object]) -> Build:
    """The graph, changed as the onnx package sees it."""

    def build(root: Path) -> None:
        import onnx

        model = onnx.load_model_from_string((root / GRAPH).read_bytes())
        change(model)
        written(GRAPH, model.SerializeToString())(root)

    return build


def appended(more: bytes) -> Build:
    """The graph with more bytes of protobuf behind it."""
    return lambda root: written(GRAPH, (root / GRAPH).read_bytes() + more)(root)


def external(offset: str = "0", length: str = "36864", location: str = "w.data", again: bool = False) -> Build:
    """The embedding (384 by 24 floats) in a file of its own, as a graph may say it."""

    def build(root: Path) -> None:
        def change(model: Any) -> None:
            tensor = next(one for one in model.graph.initializer if one.name == "embedding")
            (root / "model/w.data").write_bytes(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = 1
            entries = [("location", location), ("offset", offset), ("length", length)]
            for key, value in entries + ([("location", "w.data")] if again else []):
                tensor.external_data.add(key=key, value=value)

        graph(change)(root)

    return build


def tensor(**fields: object) -> Build:
    """Other fields of one initializer."""

    def change(model: Any) -> None:
        one = next(each for each in model.graph.initializer if each.name == "embedding")
        for name, value in fields.items():
            one.ClearField(name)
            getattr(one, name).extend(value) if isinstance(value, list) else setattr(one, name, value)

    return graph(change)


def node(op_type: str, domain: str = "", **attributes: object) -> Build:
    """One more node."""

    def change(model: Any) -> None:
        from onnx import helper

        model.graph.node.append(helper.make_node(op_type, ["cos"], ["more"], domain=domain, **attributes))

    return graph(change)


def holding(op_type: str, name: str) -> Build:
    """One more node, which holds a graph."""

    def change(model: Any) -> None:
        from onnx import helper

        inner = helper.make_graph([], "inner", [], [])
        model.graph.node.append(helper.make_node(op_type, ["cos"], ["more"], **{name: inner}))

    return graph(change)


DOUBLING = {"type": "Replace", "pattern": {"String": " "}, "content": "  "}
BYTES_OF_TEXT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WHOLE_TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def tokenizer(**parts: object) -> Build:
    """Other parts of tokenizer.json; None removes one."""

    def build(root: Path) -> None:
        document = json.loads((root / TOKENIZER).read_bytes())
        document = {key: value for key, value in {**document, **parts}.items() if value is not None or key in document}
        written(TOKENIZER, json.dumps(document).encode())(root)

    return build


def splitting(pattern: str) -> Build:
    return tokenizer(pre_tokenizer={"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"})


def template(source: bytes) -> Build:
    return written(TEMPLATE, source)


def in_order(*builds: Build) -> Build:
    return lambda root: [build(root) for build in builds]


def linked(path: str, target: str) -> Build:
    def build(root: Path) -> None:
        (root / path).unlink(missing_ok=True)
        (root / path).symlink_to(target)

    return build


def moved(path: str, other: str, *, list_it: bool = True) -> Build:
    """A file under another name, and listed under that."""

    def build(root: Path) -> None:
        (root / other).parent.mkdir(parents=True, exist_ok=True)
        (root / path).rename(root / other)
        if list_it:
            seal(root)

    return build


def pipe(root: Path) -> None:
    (root / GRAPH).unlink()
    os.mkfifo(root / GRAPH)


def listening(root: Path) -> None:
    here = os.getcwd()
    os.chdir(root / "model")  # the path of a socket may only be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s")
    finally:
        os.chdir(here)


def many_files(root: Path) -> None:
    document = json.loads((root / MANIFEST_NAME).read_bytes())
    document["files"] = [{**document["files"][0], "path": f"model/{number}"} for number in range(10_001)]
    (root / MANIFEST_NAME).write_text(json.dumps(document))


def engine(**fields: object) -> Build:
    made = {
        "runtime": "tensorrt", "compute_capability": "8.7", "precision": "fp16", "graph": GRAPH, "path": None, **fields,
    }  # fmt: skip
    return said("engines", value=[made])


def varint(number: int) -> bytes:
    payload = bytearray()
    while number > 0x7F:
        payload.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*payload, number])


def field(number: int, payload: bytes) -> bytes:
    """One protobuf field with a length."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


# --- as it is -------------------------------------------------------------------------------------------

FILES: dict[str, tuple[Build, str]] = {
    "a file that is a link to one of the system": (linked(GRAPH, "/etc/passwd"), "'model/decoder.onnx' is a link"),
    "a link to itself": (linked("model/loop", "loop"), "'model/loop' is a link"),
    "a folder that is a link upwards": (linked("engines", ".."), "'engines' is a link"),
    "a manifest that is a link": (linked(MANIFEST_NAME, "/etc/hostname"), "'manifest.json' is a link"),
    "a signature that is a link": (linked(SIGNATURE_NAME, "/etc/hostname"), "'model.sig' is a link"),
    "a pipe": (pipe, "is neither a file nor a directory"),
    "a socket": (listening, "'model/s' is neither a file nor a directory"),
    "a script beside": (lambda root: (root / "setup.py").write_text("1"), "'setup.py' has no place in a bundle"),
    "a folder of Git": (written(".git/config", b"x"), "'.git/config' holds more than plain letters"),
    "a shared library where nothing lies": (written("lib/custom_op.so", b"x"), "'lib/custom_op.so' has no place"),
    "a file that is not listed": (lambda root: (root / "model/x").write_text("1"), "'model/x' is not listed"),
    "an empty folder": (lambda root: (root / "model/empty").mkdir(), "'model/empty' is an empty directory"),
    "folders without end": (lambda root: (root / "/".join("d" * 40)).mkdir(parents=True), "more than 16 directories"),
    "names that differ in case only": (written("model/Decoder.onnx", b"x"), "differ in upper and lower case only"),
    "a letter that looks like another": (moved(GRAPH, "model/d\u0435coder.onnx"), "holds more than plain letters"),
    "a composed letter": (moved(GRAPH, "model/d\u00e9coder.onnx"), "holds more than plain letters"),
    "a name that turns the direction": (moved(GRAPH, "model/\u202exnno.redoced"), "holds more than plain letters"),
    "a name that ends with a dot": (moved(GRAPH, "model/decoder.onnx."), "ends with one of"),
    "a name that is an option": (moved(GRAPH, "model/-rf"), "begins or ends with one of"),
    "a name with a space": (moved(GRAPH, "model/decoder .onnx"), "holds more than plain letters"),
    "a name without end": (moved(GRAPH, "model/" + "x" * 250), "more than 240 characters"),
    "a tokenizer of 65 MB": (sparse(TOKENIZER, 65 * 2**20), "is larger than 67108864 bytes"),
    "a graph of 300 MB": (sparse(GRAPH, 300 * 2**20), "is larger than 268435456 bytes"),
    "a template of 2 MB": (sparse(TEMPLATE, 2 * 2**20), "is larger than 1048576 bytes"),
    "weights of 129 GB": (sparse("model/w.data", 129 * 2**30), "is larger than 137438953472 bytes"),
    "a manifest of 5 MB": (sparse(MANIFEST_NAME, MAX_MANIFEST_BYTES + 1), "is larger than 4194304 bytes"),
    "a signature of 5 MB": (sparse(SIGNATURE_NAME, MAX_SIGNATURE_BYTES + 1), "is larger than 4194304 bytes"),
}
MANIFESTS: dict[str, tuple[Build, str]] = {
    "a listed path that is absolute": (said("files", 0, "path", value="/etc/passwd"), "is absolute"),
    "a listed path that climbs": (said("files", 0, "path", value="model/../../x"), "leaves the bundle"),
    "a listed path with a NUL": (said("files", 0, "path", value="model/x\x00.onnx"), "a control character"),
    "a graph that climbs": (said("graphs", 0, "path", value="../decoder.onnx"), "in graphs leaves the bundle"),
    "a graph that is the manifest": (said("graphs", 0, "path", value=MANIFEST_NAME), "which is no file of the bundle"),
    "a graph that is the tokenizer": (said("graphs", 0, "path", value=TOKENIZER), "and those lie at model/"),
    "a tokenizer that is absolute": (said("tokenizer", "path", value="/etc/passwd"), "in tokenizer is absolute"),
    "a template that is a graph": (said("tokenizer", "chat_template", value=GRAPH), "and those lie at tokenizer/"),
    "an engine elsewhere": (engine(path=GRAPH), "engines names .* and those lie at engines/"),
    "an engine of a graph that is not there": (engine(graph="model/x.onnx"), "which is no graph of the bundle"),
    "no graph at all": (said("graphs", value=[]), "graphs names none"),
    "a file listed twice": (
        lambda root: said("files", value=[json.loads((root / MANIFEST_NAME).read_bytes())["files"][0]] * 2)(root),
        "is listed twice",
    ),
    "ten thousand files and one": (many_files, "10001 files are listed, at most 10000"),
    "a size below nothing": (said("files", 0, "bytes", value=-1), "manifest.json: "),
    "a size beyond all": (said("files", 0, "bytes", value=2**80), "manifest.json: |is larger than"),
    "a key that is not known": (said("post_install", value="sh"), "unknown field `post_install`"),
    "a manifest nested deeply": (
        lambda root: (root / MANIFEST_NAME).write_text('{"schema":2,"passes":' + "[" * 10**5 + "]" * 10**5 + "}"),
        "nested too deeply|Expected",
    ),
    "a licence that writes on the terminal": (said("model", "licence", value="\x1b]0;root\x07"), r"holds U\+001B"),
    "a source that turns the direction": (said("model", "source", value="a\u202eb"), r"holds U\+202E"),
    "half a character": (said("model", "source", value="a\ud800b"), "manifest.json: "),
    "a version of 400 digits": (said("version", value=10**399), "manifest.json: "),
    "a version that some would round": (said("version", value=2**53 + 1), "manifest.json: "),
    "a downgrade from infinity": (said("downgrade_from", value=2**64), "manifest.json: "),
    "a downgrade upwards": (said("downgrade_from", value=0), "manifest.json: "),
    "a name that climbs": (said("model", "name", value="../../x"), "model and profile names take letters"),
}
GRAPHS: dict[str, tuple[Build, str]] = {
    "a graph of nothing": (written(GRAPH, b""), "cannot be read"),
    "a graph that is an archive": (written(GRAPH, b"PK\x03\x04" * 40), "is not taken: "),
    "a graph that is pickled": (written(GRAPH, b"\x80\x04\x95" + b"cposix\nsystem\n" * 9), "is not taken: "),
    "a graph that is cut": (lambda root: written(GRAPH, (root / GRAPH).read_bytes()[:-9])(root), "is not taken: "),
    "a group, of old protobuf": (appended(b"\x0b\x0c"), "wire type 3"),
    "a field number of 0": (appended(b"\x00\x01"), "field number 0"),
    "a number with needless bytes": (appended(b"\xa8\x80\x00\x05"), "needless bytes"),
    "a number of 11 bytes": (appended(b"\x28" + b"\xff" * 10 + b"\x01"), "more than 10 bytes"),
    "a number of 70 bits": (appended(b"\x28" + b"\xff" * 9 + b"\x7f"), "more than 64 bits"),
    "a length below nothing": (appended(b"\x72" + varint(2**64 - 8)), "bytes where 0 are left"),
    "a field that is not known": (appended(field(99, b"x")), "field 99, which is unknown"),
    "two graphs": (lambda root: appended(field(7, b""))(root), "graph of the model is given twice"),
    "training information": (appended(field(20, b"")), "training information"),
    "a function": (appended(field(25, field(1, b"Add"))), "is a function"),
    "an operator set of one's own": (appended(field(8, field(1, b"evil") + b"\x10\x01")), "domain 'evil' is unknown"),
    "an operator set twice": (appended(field(8, field(1, b"ai.onnx") + b"\x10\x15")), "imported twice"),
    "an operator of one's own": (node("Run", "evil"), "domain 'evil' of operator 'Run' is unknown"),
    "an operator that is not listed": (node("RandomNormalLike"), "'RandomNormalLike' of domain 'ai.onnx' is not on"),
    "a blob of a vendor": (node("EPContext", "com.microsoft", ep_cache_context="/x"), "'EPContext' of domain"),
    "a decoder of pictures": (node("ImageDecoder"), "'ImageDecoder' of domain"),
    "a loop": (holding("Loop", "body"), "control flow is not taken"),
    "a branch": (holding("If", "then_branch"), "control flow is not taken"),
    "a graph in a harmless node": (holding("Add", "body"), "control flow is not taken"),
    "an attribute that refers": (
        graph(lambda model: model.graph.node[0].attribute.add(name="a", ref_attr_name="b", type=1)), "refers to an",
    ),
    "an overload": (graph(lambda model: setattr(model.graph.node[0], "overload", "x")), "has an overload"),
    "more nodes than are taken": (
        graph(lambda model: model.graph.node.extend([model.graph.node[0]] * FEW_NODES)), f"more than {FEW_NODES} nodes",
    ),
    "more fields than are taken": (appended(field(14, b"") * FEW_FIELDS), f"more than {FEW_FIELDS} fields"),
    "more tensors than are taken": (
        graph(lambda model: [model.graph.initializer.add(name=f"w{n}", data_type=1, dims=[0]) for n in range(500)]),
        f"more than {FEW_NODES} tensors",
    ),
    "a name of a megabyte": (
        graph(lambda model: setattr(model.graph.node[0], "name", "x" * 2**20)), "name of 1048576 bytes",
    ),
    "a name that is no text": (graph(lambda model: None), ""),
    "weights at an absolute path": (external(location="/etc/passwd"), "weights lie beside their graph"),
    "weights that climb": (external(location="../manifest.json"), "weights lie beside their graph"),
    "weights in the graph itself": (external(location="decoder.onnx"), "no file of the bundle for weights"),
    "weights that are not there": (external(location="x.data"), "no file of the bundle for weights"),
    "weights behind the end": (external(offset="4096"), "ends at byte 40960 of 'w.data', which has 36864"),
    "weights at an offset of 2^64": (external(offset=str(2**64 - 4096)), "not two numbers"),
    "weights before the beginning": (external(offset="-4096"), "not two numbers"),
    "weights of another length": (external(length="16"), "has 16 bytes, its shape needs 36864"),
    "weights in two files": (external(again=True), "says of its file"),
    "weights in two places": (tensor(float_data=[1.0]), "holds its elements in float_data and raw_data"),
    "a shape of 2^62 elements": (tensor(dims=[2**31, 2**31]), "dimensions of"),
    "a shape below nothing": (tensor(dims=[-1, 24]), "or a negative one"),
    "a shape of 9 dimensions": (tensor(dims=[1] * 9), "has 9 dimensions"),
    "fewer elements than the shape": (tensor(raw_data=b"1234"), "has 4 in raw_data, its shape needs 36864"),
    "no elements at all": (tensor(raw_data=b""), "has 0 in raw_data, its shape needs 36864"),
    "elements that are texts": (tensor(data_type=8), "elements of type 8"),
    "elements of no known type": (tensor(data_type=99), "elements of type 99"),
    "a weight without a name": (tensor(name=""), "no name of its own"),
    "a weight twice": (graph(lambda model: model.graph.initializer.append(model.graph.initializer[0])), "no name of"),
    "a sparse weight": (graph(lambda model: model.graph.sparse_initializer.add()), "is a sparse tensor"),
    "a value that is a list": (
        graph(lambda model: model.graph.input[0].type.sequence_type.elem_type.tensor_type.SetInParent()), "field 4",
    ),
    "a dimension below nothing": (
        graph(lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -5)),
        "a dimension of -5",
    ),
    "operators of no version": (graph(lambda model: setattr(model.opset_import[0], "version", 0)), "version 0 of"),
    "an operator whose version is not said": (
        graph(lambda model: model.opset_import.pop()), "of which no version is imported",
    ),
}  # fmt: skip
GRAPHS["a name that is no text"] = (
    lambda root: written(GRAPH, (root / GRAPH).read_bytes().replace(b"hidden0", b"hidden\xff"))(root),
    "is not taken: 'utf-8'",
)
TOKENIZERS: dict[str, tuple[Build, str]] = {
    "a tokenizer that is pickled": (written(TOKENIZER, b"\x80\x04cposix\nsystem\n"), "not a readable tokenizer"),
    "a tokenizer that is a list": (written(TOKENIZER, b"[]"), "not a readable tokenizer: Expected `object`"),
    "a tokenizer nested deeply": (
        written(TOKENIZER, b'{"model":{"vocab":{}},"normalizer":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        "nested",
    ),
    "a part nested deeply": (tokenizer(normalizer=json.loads("[" * 40 + "]" * 40)), "normalizer is nested more than"),
    "a part that is not known": (tokenizer(on_load="x"), "unknown field `on_load`"),
    "a model that is not known": (tokenizer(model={"type": "Pickle", "vocab": {}}), "not a readable tokenizer"),
    "a model without words": (tokenizer(model={"type": "BPE"}), "missing required field `vocab`"),
    "words that are no words": (tokenizer(model={"type": "WordLevel", "vocab": 5, "unk_token": ""}), "not a readable"),
    "a pattern without end": (splitting("(a+)+$"), r"'\(a\+\)\+\$' of pre_tokenizer repeats what repeats"),
    "a pattern hidden in a class": (splitting("[(]([a-z]*)*b"), "repeats what repeats already"),
    "a pattern that refers back": (splitting(r"(.*)\1{9}x"), "refers back"),
    "a pattern that calls itself": (splitting(r"(a\g<0>?b)"), "refers back to what it found, or calls itself"),
    "a pattern that counts": (splitting("a{100000}"), "counts to 100000"),
    "a pattern of 5,000 characters": (splitting("a" * 5000), "more than 4096 characters"),
    "a pattern that repeats a choice": (splitting("(a|a)*$"), "repeats a choice"),
    "a pattern with blanks that are none": (splitting("(?x)(a+) +$"), "a group of an unknown kind"),
    "a pattern hidden in a comment": (splitting("(?#[)(a+)+$"), "a group of an unknown kind"),
    "a pattern of many choices": (splitting("(a|a)" * 20), "more than 1024 choices"),
    "a normalizer that doubles forty times": (
        tokenizer(normalizer={"type": "Sequence", "normalizers": [DOUBLING] * 40}), "normalizer could make a text more"
    ),
    "bytes of bytes of bytes": (
        tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTES_OF_TEXT] * 40}),
        "pre_tokenizer could make a text more than 65536 times",
    ),
    "a decoder that doubles forty times": (
        tokenizer(decoder={"type": "Sequence", "decoders": [DOUBLING] * 40}), "decoder could make a text more"
    ),
    "a template that repeats a text": (
        tokenizer(post_processor={"type": "TemplateProcessing", "single": [WHOLE_TEXT] * 70_000, "pair": [],
                                  "special_tokens": {}}),
        "post_processor could make a text more",
    ),
    "a normalizer that puts in a megabyte": (
        tokenizer(normalizer={"type": "Prepend", "prepend": "x" * 2**20}), "puts in 1048576 characters at once"
    ),
    "a pattern that is none": (splitting("(unclosed"), "not a readable tokenizer"),
    "three hundred patterns": (
        tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"Regex": "a"}] * 300}), "one of more than 256",
    ),
    "a table of characters of 5 MB": (
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "A" * 5 * 2**20}), "at most 4194304",
    ),
    "a table of characters that is noise": (
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff" * 99).decode()}),
        "not a readable tokenizer|takes no question",
    ),
    "added tokens below nothing": (
        tokenizer(added_tokens=[{"id": -1, "content": "x", "special": True}]), "more than 100000 added tokens",
    ),
    "an added token of 5,000 characters": (tokenizer(added_tokens=[{"id": 1, "content": "x" * 5000}]), "4096 char"),
    "a template that reaches for Python": (template(b"{{ ''.__class__.__mro__ }}"), "takes no question"),
    "a template that calls the system": (
        template(b"{{ cycler.__init__.__globals__.os.system('id') }}"), "takes no question|is not taken",
    ),
    "a template that includes a file": (template(b"{% include '/etc/passwd' %}"), "is not taken"),
    "a template without end": (template(b"{% for i in range(9**9) %}{{ i }}{% endfor %}"), "no question|not take"),
    "a template that eats memory": (template(b"{% set x = 'a' * 99999999 %}{{ x * 999 }}"), "takes no question"),
    "a template of 300,000 characters": (template(b"a" * 300_000), "at most 262144 are taken"),
    "a template that is no text": (template(b"\xff\xfe"), "not a readable chat template"),
}  # fmt: skip
CASES = {**FILES, **MANIFESTS, **GRAPHS, **TOKENIZERS}

# --- with a trusted key ---------------------------------------------------------------------------------


class Keys(msgspec.Struct, frozen=True):
    """The key that is trusted, and another."""

    maker: Any
    stranger: Any


SignedBuild = Callable[[Path, Keys], object]


def envelope(change: Callable[[dict[str, Any]], object]) -> SignedBuild:
    """The maker's signature, with another envelope around what was signed."""

    def build(root: Path, keys: Keys) -> None:
        sign(root, keys.maker)
        document = json.loads((root / SIGNATURE_NAME).read_bytes())
        change(document)
        (root / SIGNATURE_NAME).write_text(json.dumps(document))

    return build


def statement(change: Callable[[dict[str, Any]], object], *, again: bool = True) -> SignedBuild:
    """Another statement, signed by the maker (`again`) or under the signature of the one before."""

    def build(root: Path, keys: Keys) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

        sign(root, keys.maker)
        document = json.loads((root / SIGNATURE_NAME).read_bytes())
        inner = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
        change(inner)
        payload = json.dumps(inner).encode()
        kind = document["dsseEnvelope"]["payloadType"].encode()
        document["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        if again:
            encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
            signature = keys.maker.sign(encoded, ECDSA(hashes.SHA256()))
            document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        (root / SIGNATURE_NAME).write_text(json.dumps(document))

    return build


def after(*builds: Build) -> SignedBuild:
    """What was changed after the maker had signed."""
    return lambda root, keys: (sign(root, keys.maker), *(build(root) for build in builds))


def without(path: str) -> SignedBuild:
    """A signature that does not cover a file."""

    def build(root: Path, keys: Keys) -> None:
        covered = {name: sha256 for name, sha256 in hashes(root).items() if name != path}
        (root / SIGNATURE_NAME).write_bytes(Signing(keys.maker)("tiny", covered))

    return build


def with_hint_of_maker(root: Path, keys: Keys) -> None:
    """A stranger's signature that says it were the maker's."""
    sign(root, keys.maker)
    hint = json.loads((root / SIGNATURE_NAME).read_bytes())["verificationMaterial"]
    sign(root, keys.stranger)
    document = json.loads((root / SIGNATURE_NAME).read_bytes())
    (root / SIGNATURE_NAME).write_text(json.dumps({**document, "verificationMaterial": hint}))


def of_another_bundle(root: Path, keys: Keys) -> None:
    (root / SIGNATURE_NAME).write_bytes(Signing(keys.maker)("other", {MANIFEST_NAME: "0" * 64, GRAPH: "1" * 64}))


def changed(path: str) -> Build:
    def build(root: Path) -> None:
        payload = bytearray((root / path).read_bytes())
        payload[len(payload) // 2] ^= 1
        (root / path).write_bytes(payload)

    return build


def resources(change: Callable[[list[dict[str, str]]], object]) -> Callable[[dict[str, Any]], None]:
    """Other entries in the list of files, with a digest over them that fits."""

    def build(inner: dict[str, Any]) -> None:
        listed = inner["predicate"]["resources"]
        change(listed)
        whole = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in listed)).hexdigest()
        inner["subject"][0]["digest"]["sha256"] = whole

    return build


SIGNED_CASES: dict[str, tuple[SignedBuild, str]] = {
    "nobody's": (lambda root, keys: None, "is not signed: there is no model.sig"),
    "a stranger's": (lambda root, keys: sign(root, keys.stranger), "which is not trusted"),
    "a stranger's that says it were the maker's": (with_hint_of_maker, "the signature does not hold"),
    "of another bundle": (of_another_bundle, "'manifest.json' is not what was signed"),
    "over all but the graph": (without(GRAPH), "'model/decoder.onnx' is not signed"),
    "over all but the manifest": (without(MANIFEST_NAME), "'manifest.json' is not signed"),
    "over a file that is gone": (
        after(lambda root: (root / TEMPLATE).unlink(), lambda root: seal(root)),
        "names 'tokenizer/chat_template.jinja'",
    ),
    "over one file twice": (
        statement(resources(lambda listed: listed.append(dict(listed[0])))), "lists a file twice",
    ),
    "over a file that never was": (
        statement(resources(lambda listed: listed.append({**listed[0], "name": "model/x"}))), "'model/x' was signed",
    ),
    "over another list under the old signature": (
        statement(resources(lambda listed: listed.pop()), again=False), "the signature does not hold",
    ),
    "over names that climb": (
        statement(resources(lambda listed: listed[0].update(name="../" + listed[0]["name"]))), "is not signed",
    ),
    "over shards": (
        statement(lambda inner: inner["predicate"]["serialization"].update(method="shards")), "cannot be verified",
    ),
    "by another hash": (
        statement(resources(lambda listed: listed[0].update(algorithm="md5"))), "statement in model.sig",
    ),
    "of a kind before 1.0": (
        statement(lambda inner: inner.update(predicateType="https://model_signing/Digests/v0.1")),
        "statement in model.sig",
    ),
    "of another kind of statement": (statement(lambda inner: inner.update(_type="https://x")), "cannot be verified"),
    "empty": (after(lambda root: (root / SIGNATURE_NAME).write_bytes(b"")), "model.sig: "),
    "no JSON": (after(lambda root: (root / SIGNATURE_NAME).write_bytes(b"\x30\x45\x02")), "model.sig: "),
    "nested deeply": (
        after(lambda root: (root / SIGNATURE_NAME).write_text('{"x":' + "[" * 10**5 + "]" * 10**5 + "}")), "model.sig",
    ),
    "without a signature": (envelope(lambda all_: all_["dsseEnvelope"].update(signatures=[])), "model.sig: "),
    "with two signatures": (
        envelope(lambda all_: all_["dsseEnvelope"].update(signatures=all_["dsseEnvelope"]["signatures"] * 2)),
        "model.sig: ",
    ),
    "with an empty signature": (
        envelope(lambda all_: all_["dsseEnvelope"]["signatures"][0].update(sig="")), "does not hold|cannot be verified",
    ),
    "without a hint": (envelope(lambda all_: all_["verificationMaterial"].update(publicKey={})), "model.sig: "),
    "with a certificate": (
        envelope(lambda all_: all_.update(verificationMaterial={"certificate": {"rawBytes": ""}})), "model.sig: ",
    ),
    "of another payload": (envelope(lambda all_: all_["dsseEnvelope"].update(payloadType="text/plain")), "model.sig: "),
    "before the version was raised": (after(said("version", value=9)), "'manifest.json' is not what was signed"),
    "before a graph was changed and sealed": (after(node("Sin")), "'manifest.json' is not what was signed"),
    "before one bit of the graph turned": (after(changed(GRAPH)), "has SHA-256"),
    "before one bit of the template turned": (after(changed(TEMPLATE)), "has SHA-256"),
    "before a file of Git came": (
        after(lambda root: ((root / ".git").mkdir(), (root / ".git/config").write_text("x"))), "'.git/config' holds",
    ),
    "before a file came beside the graph": (after(lambda root: (root / "model/x").write_text("")), "is not listed"),
    "before a file came and was listed": (after(written("model/x", b"")), "is not what was signed|is not signed"),
}  # fmt: skip
