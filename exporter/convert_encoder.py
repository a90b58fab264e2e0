"""How does a torch encoder become one fp32 ONNX graph that ONNX Runtime runs on padded batches?

`convert_encoder` exports with `torch.onnx.export(dynamo=True)` while the attention layers emit one node each, puts
pooling and normalization into the graph, and lets onnxscript fuse norms, skip connections and activations. Linear
layers end as MatMul and Add, so that every quantizer finds them. Inputs and outputs are those of
`edge_agent.manifest.Graph`.

Does not know how weights are quantized; whether the graph equals PyTorch is asked in `encoder_parity.py`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, Literal

from edge_agent.manifest import EncoderInfo, Graph
from exporter.convert import IR_VERSION, OPSET, quiet_export
from exporter.encoder_attention import eager, emitting_encoder
from exporter.errors import ConversionError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

ENCODER_FILE: Final = "encoder.onnx"
PLAIN_OPSET: Final = 18  # the oldest that the exporter of torch writes, which TensorRT 8.6 takes too
ENCODER_OUTPUTS: Final[dict[str, tuple[str, ...]]] = {
    "text-classification": ("logits",),
    "token-classification": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "feature-extraction": ("embedding",),
}
_TRACED_TOKENS: Final = 3  # neither 0 nor 1, which torch.export takes for constants


def convert_encoder(model: Any, task: str, encoder: EncoderInfo, dialect: Literal["ort", "plain"] = "ort") -> ir.Model:
    """Carry `model`, a transformers encoder with the head of `task`, in fp32 eval mode, into a graph of `dialect`.

    `plain` has ONNX's own operators only, as TensorRT parses them. The initializers share memory with the model.
    Raises ConversionError when something cannot be expressed or traced.
    """
    from exporter.layout import lay_out

    _refuse(model, task, encoder)
    _check_head(model, task)
    with quiet_export():
        converted = _exported(model, task, encoder, dialect)
        _split_gemms(converted.graph)
        if dialect == "ort":
            lay_out(converted)
    _name_outputs(converted.graph, ENCODER_OUTPUTS[task])
    converted.ir_version = IR_VERSION
    return converted


def describe_encoder(converted: ir.Model, dialect: Literal["ort", "plain"] = "ort") -> Graph:
    """The manifest's description of a graph made by `convert_encoder`."""
    return Graph(
        path=f"model/{ENCODER_FILE}" if dialect == "ort" else "model/encoder-plain.onnx",
        dialect=dialect,
        inputs=tuple(value.name or "" for value in converted.graph.inputs),
        outputs=tuple(value.name or "" for value in converted.graph.outputs),
    )


def takes_token_types(model: Any) -> bool:
    """Whether `model` tells a first text from a second one by token type ids."""
    kinds = getattr(model.config, "type_vocab_size", 2)
    return "token_type_ids" in inspect.signature(model.forward).parameters and kinds > 1


def _refuse(model: Any, task: str, encoder: EncoderInfo) -> None:
    """Raise ConversionError for what a graph of this contract cannot say."""
    name = type(model).__name__
    if task not in ENCODER_OUTPUTS:
        raise ConversionError(f"{task} is no task of an encoder: choose one of {', '.join(ENCODER_OUTPUTS)}")
    if getattr(model.config, "is_encoder_decoder", False) or getattr(model.config, "is_decoder", False):
        raise ConversionError(f"{name} decodes: only encoders are carried for {task}")
    if task == "feature-extraction" and encoder.pooling is None:
        raise ConversionError(f"{name} gives one vector a token: say how they are pooled (mean, cls or max)")
    if task == "text-classification":
        kind = getattr(model.config, "problem_type", None)
        if kind not in (None, "single_label_classification") or model.config.num_labels < 2:
            raise ConversionError(
                f"{name} gives {model.config.num_labels} independent scores ({kind or 'regression'}), "
                "not one label of several: it cannot be served as text-classification"
            )


def _check_head(model: Any, task: str) -> None:
    """Raise ConversionError if `model` does not give what `task` needs: tracing would take a minute to find out."""
    import torch

    wanted = ("last_hidden_state",) if task == "feature-extraction" else ENCODER_OUTPUTS[task]
    ids = torch.ones((1, _TRACED_TOKENS), dtype=torch.long)
    with torch.inference_mode():
        output = model(input_ids=ids, attention_mask=ids, return_dict=True)
    missing = [name for name in wanted if getattr(output, name, None) is None]
    rank = 3 if task in ("token-classification", "feature-extraction") else 2
    if missing or output[wanted[0]].ndim != rank:
        raise ConversionError(
            f"{type(model).__name__} gives {', '.join(output)}, which does not do {task}: choose another --task"
        )


def _exported(model: Any, task: str, encoder: EncoderInfo, dialect: str) -> ir.Model:
    import torch

    names = ["input_ids", "attention_mask", *(["token_type_ids"] if takes_token_types(model) else [])]
    inputs = tuple(torch.ones((2, _TRACED_TOKENS), dtype=torch.long) for _ in names)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=encoder.max_tokens)}
    with torch.no_grad(), emitting_encoder(model) if dialect == "ort" else eager(model):
        try:
            program = torch.onnx.export(
                _traced(model, task, encoder),
                inputs,
                dynamic_shapes=(shape,) * len(inputs),
                input_names=names,
                opset_version=OPSET if dialect == "ort" else PLAIN_OPSET,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            if isinstance(error.__cause__, ConversionError):
                raise error.__cause__ from None
            cause = " ".join(str(error.__cause__ or error).split())[:300]
            raise ConversionError(f"{type(model).__name__} cannot be traced: {cause}") from error
    if program is None:
        raise ConversionError(f"torch.onnx.export gave no graph for {type(model).__name__}")
    return program.model


def _traced(model: Any, task: str, encoder: EncoderInfo) -> torch.nn.Module:
    import torch

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        """The traced module: the model's head, or its token vectors pooled and normalized."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
        ) -> tuple[torch.Tensor, ...]:
            types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            output = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **types)
            if task == "question-answering":
                return output.start_logits, output.end_logits
            if task != "feature-extraction":
                return (output.logits,)
            pooled = _pooled(output.last_hidden_state, attention_mask, encoder)
            return (torch.nn.functional.normalize(pooled, dim=1) if encoder.normalize else pooled,)

    return Encoder().eval()


def _pooled(states: torch.Tensor, attention_mask: torch.Tensor, encoder: EncoderInfo) -> torch.Tensor:
    """(batch, sequence, width) to (batch, width); padding takes no part."""
    import torch

    if encoder.pooling == "cls":
        return states[:, 0]
    tokens = attention_mask[:, :, None].to(states.dtype)
    if encoder.pooling == "max":
        return torch.amax(states + (1 - tokens) * torch.finfo(states.dtype).min, dim=1)
    return (states * tokens).sum(1) / tokens.sum(1).clamp(min=1)


def _split_gemms(graph: ir.Graph) -> None:
    """Over (batch, width) a linear layer arrives as Gemm(x, W, b, transB=1); as MatMul and Add it is like others."""
    import numpy as np
    import onnx_ir as ir

    for node in list(graph):
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        plain = not attributes.get("transA") and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        weight = node.inputs[1] if node.op_type == "Gemm" else None
        if weight is None or weight.const_value is None or not plain:
            continue
        if attributes.get("transB"):
            tensor = ir.tensor(np.ascontiguousarray(weight.const_value.numpy().T), name=f"{weight.name}.transposed")
            weight = ir.Value(
                name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            graph.register_initializer(weight)
        nodes = [ir.node("MatMul", [node.inputs[0], weight])]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            nodes.append(ir.node("Add", [nodes[0].outputs[0], node.inputs[2]]))
        output = node.outputs[0]
        for made in nodes:
            made.outputs[0].name = f"{output.name}.{made.op_type}"
            made.outputs[0].shape, made.outputs[0].type = output.shape, output.type
        graph.insert_before(node, nodes)
        output.replace_all_uses_with(nodes[-1].outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _name_outputs(graph: ir.Graph, names: tuple[str, ...]) -> None:
    """Give the outputs their names; an inner value that has one of them (torch calls lookups "embedding") makes way."""
    for node in graph:
        for value in node.outputs:
            if value.name in names:
                value.name = f"{value.name}.inner"
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name
