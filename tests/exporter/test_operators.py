"""What each TensorRT takes: the lists, and graphs held against them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import device_profiles
from exporter.engine import engine_runtimes, parse_graph
from exporter.errors import EngineError
from exporter.operators import dialect_for, operator_list, unsupported

JETPACK_VERSIONS = ("8.5", "8.6", "10.3", "10.13", "10.16")
HALF = 10  # TensorProto.FLOAT16


def saved(
    path: Path,
    nodes: Sequence[Any],
    *,
    inputs: dict[str, tuple[int, Sequence[Any]]],
    weights: Sequence[Any] = (),
    opset: int = 17,
    functions: Sequence[Any] = (),
) -> Path:
    """A graph of these nodes, whose last output is the graph's."""
    import onnx
    from onnx import helper

    domains = {node.domain for node in nodes if node.domain}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, element, shape) for name, (element, shape) in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], HALF, None)],
        weights,
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    onnx.save(helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10), path)
    return path


def node(op_type: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> Any:
    """A node with the name of its operator in lower case."""
    from onnx import helper

    return helper.make_node(op_type, inputs, [output], name=op_type.lower(), **attributes)


@pytest.mark.parametrize("version", JETPACK_VERSIONS)
def test_every_jetpack_has_a_list_with_its_source(version: str) -> None:
    """Each TensorRT that a JetPack brings has a list of its own, with the commit that it was read at."""
    found = operator_list(version)
    assert (found.version, found.note) == (version, None)
    assert re.fullmatch("[0-9a-f]{40}", found.commit)
    assert {"MatMul", "Softmax", "QuantizeLinear", "DequantizeLinear"} <= found.operators


def test_operators_came_when_the_changelog_says() -> None:
    """Attention came with 10.14, the rest of a fused decoder with 10.15, LayerNormalization with 8.6."""
    fused = {"RotaryEmbedding", "RMSNormalization", "TensorScatter"}
    assert not (fused | {"Attention"}) & operator_list("10.13").operators
    assert "Attention" in operator_list("10.14").operators
    assert fused & operator_list("10.14").operators == set()
    assert fused <= operator_list("10.15").operators
    assert "LayerNormalization" not in operator_list("8.5").operators
    assert "LayerNormalization" in operator_list("8.6").operators
    assert "Gelu" in operator_list("10.3").operators - operator_list("8.6").operators
    assert "INT4" in operator_list("10.3").weights - operator_list("8.6").weights


def test_version_without_a_list_takes_the_nearest_older_and_says_so() -> None:
    """A version in between is held against the list before it; older than all lists is refused."""
    found = operator_list("10.9")
    assert (found.version, found.note) == (
        "10.3",
        "TensorRT 10.9 has no list of its own here: checked against that of 10.3",
    )
    assert operator_list("10.3.0.30").note is None
    assert operator_list("11.1").version == "10.16"
    with pytest.raises(EngineError, match=r"no list of operators for TensorRT 8\.2: known are 8\.5, 8\.6"):
        operator_list("8.2")
    with pytest.raises(EngineError, match="'newest' is no version of TensorRT"):
        operator_list("newest")


def test_graph_of_old_operators_has_nothing_refused(tmp_path: Path) -> None:
    """A product and a softmax are taken from the oldest version to the newest."""
    path = saved(
        tmp_path / "g.onnx",
        [node("MatMul", ["x", "x"], "z"), node("Softmax", ["z"], axis=-1)],
        inputs={"x": (HALF, [8, 8])},
    )
    assert [unsupported(path, version) for version in JETPACK_VERSIONS] == [[]] * 5


def test_each_operator_is_one_line_with_reason_and_first_node(tmp_path: Path) -> None:
    """Foreign, newer and never supported operators are told apart; repeated ones are counted."""
    nodes = [
        node("MatMulNBits", ["x"], "a", domain="com.microsoft"),
        node("LayerNormalization", ["a", "a"], "b"),
        node("LayerNormalization", ["b", "b"], "c"),
        node("Det", ["c"]),
    ]
    path = saved(tmp_path / "g.onnx", nodes, inputs={"x": (HALF, [8, 8])})
    assert unsupported(path, "8.5") == [
        "com.microsoft::MatMulNBits: no operator of ONNX; TensorRT takes it only with a plugin"
        " (first matmulnbits, 1 in all)",
        "LayerNormalization: TensorRT 8.5 does not take it; that came with 8.6 (first layernormalization, 2 in all)",
        "Det: TensorRT 8.5 does not take it; no version does (first det, 1 in all)",
    ]
    assert len(unsupported(path, "8.6")) == 2


def test_nodes_inside_branches_are_seen(tmp_path: Path) -> None:
    """An operator in the branch of an If is held against the list like any other."""
    from onnx import helper

    y = helper.make_tensor_value_info("inner", HALF, None)
    branches = [helper.make_graph([node("Det", ["x"], "inner")], name, [], [y]) for name in ("then", "else")]
    choose = node("If", ["flag"], then_branch=branches[0], else_branch=branches[1])
    path = saved(tmp_path / "g.onnx", [choose], inputs={"x": (HALF, [8, 8]), "flag": (9, [])})
    assert unsupported(path, "10.3") == ["Det: TensorRT 10.3 does not take it; no version does (first det, 2 in all)"]


def test_functions_of_the_model_are_read_from_version_9_on(tmp_path: Path) -> None:
    """A model's own function is judged by what it is made of, where the parser reads functions at all."""
    from onnx import helper

    made = helper.make_function("ours", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], "b")], [
        helper.make_opsetid("", 17)
    ])  # fmt: skip
    path = saved(
        tmp_path / "g.onnx", [node("Twice", ["x"], domain="ours")], inputs={"x": (HALF, [8])}, functions=[made]
    )
    assert unsupported(path, "10.3") == []
    assert unsupported(path, "8.6")[0].startswith("ours::Twice: no operator of ONNX")


def test_opset_and_types_are_held_against_the_version(tmp_path: Path) -> None:
    """int4 weights need the opset that has them: both are refused before TensorRT 10."""
    from onnx import TensorProto, helper

    weights = [
        helper.make_tensor("q", TensorProto.INT4, [32, 8], [1] * 256),
        helper.make_tensor("s", HALF, [1, 8], [0.5] * 8),
    ]
    path = saved(
        tmp_path / "g.onnx", [node("DequantizeLinear", ["q", "s"], axis=0, block_size=32)],
        inputs={}, weights=weights, opset=21,
    )  # fmt: skip
    assert unsupported(path, "10.3") == []
    assert unsupported(path, "8.6") == [
        "opset 21: TensorRT 8.6 reads up to 17",
        "weights of type INT4: TensorRT 8.6 has no such type (first q)",
    ]


@pytest.mark.parametrize(
    ("element", "zero", "why"),
    [
        ("INT8", 0, None),
        ("INT8", 3, "its zero point must be 0"),
        ("INT4", 0, None),
        ("INT4", 3, "its zero point must be 0"),
        ("UINT8", 128, "its input is UINT8"),
        ("UINT4", 8, "its input is UINT4"),
    ],
)
def test_quantized_weights_must_be_signed_and_symmetric(
    tmp_path: Path, element: str, zero: int, why: str | None
) -> None:
    """Zero points other than 0 and unsigned types are refused; the parser that runs here agrees."""
    from onnx import TensorProto, helper

    code = TensorProto.DataType.Value(element)
    weights = [
        helper.make_tensor("q", code, [32, 8], [1] * 256),
        helper.make_tensor("s", HALF, [8], [0.5] * 8),
        helper.make_tensor("z", code, [8], [zero] * 8),
    ]
    nodes = [node("DequantizeLinear", ["q", "s", "z"], "w", axis=1), node("MatMul", ["x", "w"])]
    path = saved(tmp_path / "g.onnx", nodes, inputs={"x": (HALF, [4, 32])}, weights=weights, opset=21)
    lines = unsupported(path, "10.16")
    assert bool(lines) == (why is not None)
    assert why is None or why in lines[0]
    if engine_runtimes() and element == "INT4":
        assert bool(parse_graph(path)) == bool(lines)


@pytest.mark.parametrize(
    ("extra", "attributes", "why"),
    [
        ([], {}, None),
        (["", "q", "q"], {}, "past_key, past_value and nonpad_kv_seqlen must be left out"),
        ([], {"softcap": 30.0}, "softcap must be left out"),
        ([], {"softcap": 0.0}, None),
        (["flat"], {}, "must have four dimensions"),
    ],
)
def test_attention_is_restricted(tmp_path: Path, extra: list[str], attributes: dict[str, Any], why: str | None) -> None:
    """Attention with a past, soft-capping or fewer dimensions is refused where Attention itself is taken."""
    path = saved(
        tmp_path / "g.onnx", [node("Attention", ["q", "q", "q", *extra], **attributes)],
        inputs={"q": (HALF, [1, 2, 8, 16]), "flat": (HALF, [8, 8])}, opset=23,
    )  # fmt: skip
    lines = unsupported(path, "10.16")
    assert bool(lines) == (why is not None)
    assert why is None or why in lines[0]


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "why"),
    [
        ("ReduceSum", ["x", "n"], {}, "its input 1 must be a constant"),
        ("Unsqueeze", ["x", "n"], {}, "its input 1 must be a constant"),
        ("TensorScatter", ["x", "x"], {"axis": 1}, "its axis must be -2"),
        ("ScatterND", ["x", "n", "x"], {"reduction": "add"}, "its reduction must be none"),
        ("TopK", ["x", "n"], {"sorted": 0}, "its sorted must be 1"),
        ("TopK", ["x", "n"], {}, None),
    ],
)
def test_restrictions_of_other_operators(
    tmp_path: Path, operator: str, inputs: list[str], attributes: dict[str, Any], why: str | None
) -> None:
    """What a list restricts is refused with that restriction."""
    path = saved(
        tmp_path / "g.onnx", [node(operator, inputs, **attributes)],
        inputs={"x": (HALF, [1, 2, 8, 16]), "n": (7, [1])}, opset=24,
    )  # fmt: skip
    lines = unsupported(path, "10.16")
    assert bool(lines) == (why is not None)
    assert why is None or lines[0].startswith(f"{operator}: {why}")


def test_dialect_follows_the_tensorrt_of_the_profile() -> None:
    """Below 10.15 a decoder is written in MatMul and Softmax, from there in fused operators."""
    orin = device_profiles.load("jetson-orin")
    assert dialect_for(orin) == "plain"
    assert dialect_for(device_profiles.load("jetson-thor-t5000")) == "plain"
    newer = msgspec.structs.replace(orin, software=msgspec.structs.replace(orin.software, tensorrt="10.16"))
    assert dialect_for(newer) == "onnx"
    assert dialect_for(device_profiles.load("desktop-rtx-4060")) == "onnx"
    with pytest.raises(EngineError, match="desktop-cpu runs neither TensorRT nor TensorRT-RTX"):
        dialect_for(device_profiles.load("desktop-cpu"))
