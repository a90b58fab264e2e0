"""Does a graph take and give what its manifest says? Asked once, when it is opened.

Compares the names, element types and shapes that ONNX Runtime reports with the contract in
`edge_agent.manifest.Graph`. Knows nothing of what the graph computes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edge_agent.errors import BundleError
from edge_agent.manifest import CacheLayout, Graph

ANY: Final = "any"  # any number, fixed or not
FREE: Final = "free"  # must not be fixed: it changes from run to run
WIDTH: Final = "width"  # any number, but fixed
Shape = tuple[int | str, ...]

_STEP_INPUTS: Final[dict[str, tuple[str, Shape]]] = {
    "input_ids": ("tensor(int64)", (ANY, FREE)),
    "seqlens_k": ("tensor(int32)", (ANY,)),
    "logits_to_keep": ("tensor(int64)", (FREE,)),
}
_ENCODER_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
# Of each set of outputs, the shapes that it may have: one row of numbers for a text, or one for each token.
_ENCODER_OUTPUTS: Final[dict[tuple[str, ...], tuple[Shape, ...]]] = {
    ("logits",): ((ANY, WIDTH), (ANY, FREE, WIDTH)),
    ("start_logits", "end_logits"): ((ANY, FREE),),
    ("embedding",): ((ANY, WIDTH),),
}
_CACHE_TYPES: Final = {"float32": "tensor(float)", "float16": "tensor(float16)"}


def decoder_contract(model_path: Path, session: Any, graph: Graph) -> tuple[CacheLayout, int]:
    """The cache layout and the vocabulary of a decoder graph that keeps its contract.

    Raises BundleError saying which tensor differs and how.
    """
    layout = graph.cache
    if layout is None or graph.dialect != "ort":
        raise BundleError(f"{model_path}: a decoder of dialect 'ort' with a cache is needed, got {graph.dialect!r}")
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    _check_names(model_path, "inputs of graph and manifest", inputs, graph.inputs)
    _check_names(model_path, "outputs of graph and manifest", outputs, graph.outputs)
    halves = [f"{layer}.{half}" for layer in range(layout.layers) for half in ("key", "value")]
    pasts, presents = [f"past_key_values.{name}" for name in halves], [f"present.{name}" for name in halves]
    _check_names(model_path, "inputs of graph and contract", inputs, [*_STEP_INPUTS, *pasts])
    _check_names(model_path, "outputs of graph and contract", outputs, ["logits", *presents])

    for name, (kind, shape) in _STEP_INPUTS.items():
        _check_value(model_path, inputs[name], kind, shape)
    cache_shape: Shape = (ANY, layout.kv_heads, FREE, layout.head_dim)
    for value in (*(inputs[name] for name in pasts), *(outputs[name] for name in presents)):
        _check_value(model_path, value, _CACHE_TYPES[layout.dtype], cache_shape)
    _check_value(model_path, outputs["logits"], "tensor(float)", (ANY, FREE, ANY))
    vocabulary = outputs["logits"].shape[2]
    if not isinstance(vocabulary, int):
        raise BundleError(f"{model_path}: the last dimension of logits is {vocabulary!r}, it must be a fixed number")
    return layout, vocabulary


def encoder_contract(model_path: Path, session: Any, graph: Graph) -> bool:
    """Whether an encoder graph that keeps its contract gives numbers for each token, and not for each text.

    The contract is one for all dialects, so that a graph for another runtime can be run in this one for comparison.
    Raises BundleError saying which tensor differs and how.
    """
    if graph.cache is not None:
        raise BundleError(f"{model_path}: an encoder is needed, and this graph has a cache as decoders do")
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    _check_names(model_path, "inputs of graph and manifest", inputs, graph.inputs)
    _check_names(model_path, "outputs of graph and manifest", outputs, graph.outputs)
    known = _ENCODER_INPUTS if "token_type_ids" in inputs else _ENCODER_INPUTS[:2]
    _check_names(model_path, "inputs of graph and contract", inputs, known)
    for value in inputs.values():
        _check_value(model_path, value, "tensor(int64)", (FREE, FREE))
    shapes = _ENCODER_OUTPUTS.get(graph.outputs)
    if shapes is None:
        raise BundleError(f"{model_path}: outputs {', '.join(graph.outputs)} are those of no task")
    rank = len(outputs[graph.outputs[0]].shape)
    shape = next((shape for shape in shapes if len(shape) == rank), shapes[0])
    for value in outputs.values():
        _check_value(model_path, value, "tensor(float)", shape)
    return FREE in shape


def _check_names(model_path: Path, what: str, found: dict[str, Any], needed: list[str] | tuple[str, ...]) -> None:
    if odd := sorted(set(found) ^ set(needed)):
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise BundleError(f"{model_path}: {what} differ in {', '.join(odd[:3])}{more}")


def _check_value(model_path: Path, value: Any, kind: str, shape: Shape) -> None:
    fits = len(value.shape) == len(shape) and all(map(_dimension_fits, value.shape, shape))
    if value.type != kind or not fits:
        raise BundleError(
            f"{model_path}: {value.name} is {value.type} {list(value.shape)}, "
            f"it must be {kind} [{', '.join(map(str, shape))}]"
        )


def _dimension_fits(found: int | str | None, wanted: int | str) -> bool:
    if wanted == FREE:
        return not isinstance(found, int)
    if wanted == WIDTH:
        return isinstance(found, int)
    return wanted == ANY or not isinstance(found, int) or found == wanted
