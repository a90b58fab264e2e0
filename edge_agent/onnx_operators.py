"""Which operators may a bundle's graph hold?

Those that `edge-export` writes, and others that compute tensors from tensors and nothing else, so that what PyTorch
decomposes another model into need not wait for an update of every device. Left out, with the reason:

- `If`, `Loop`, `Scan`, `SequenceMap`: they hold graphs, and run for as long as these say;
- sequences, optionals, strings (`RegexFullMatch`, `TfIdfVectorizer` and so on) and `ImageDecoder`: other parsers, which
  no model of ours needs;
- random draws: an answer has to be the same twice;
- `EPContext` and all else of ONNX Runtime's domain that is not named: `EPContext` loads code of a vendor from a file;
- every other domain: custom operators are code.

Does not know what an operator takes: ONNX Runtime checks that when it opens the graph.
"""

from __future__ import annotations

from typing import Final

DEFAULT_DOMAIN: Final = ""  # `ai.onnx` is the same
MICROSOFT: Final = "com.microsoft"

_WRITTEN: Final = (
    "Abs Add And Attention AveragePool BitwiseAnd Cast Clip Concat Constant Cos CumSum DequantizeLinear Div "
    "DynamicQuantizeLinear Equal Erf Exp Expand Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual "
    "Identity LayerNormalization Less LessOrEqual Log MatMul MatMulInteger Max Min Mul Neg Not Pow QuantizeLinear "
    "RMSNormalization Range ReduceL2 ReduceMax ReduceMean ReduceSum Relu Reshape RotaryEmbedding Shape Sigmoid "
    "SimplifiedLayerNormalization Sin Slice Softmax Split Sqrt Squeeze Sub Tanh TensorScatter Transpose Unsqueeze "
    "Where"
)
_HARMLESS: Final = (
    "ArgMax ArgMin Atan CastLike Ceil Celu ConstantOfShape Einsum Elu EyeLike Flatten Floor HardSigmoid HardSwish "
    "IsInf IsNaN LeakyRelu LogSoftmax LpNormalization Mean Mish Mod NonZero OneHot Or PRelu Pad Reciprocal ReduceL1 "
    "ReduceLogSum ReduceLogSumExp ReduceMin ReduceProd ReduceSumSquare Round ScatterElements ScatterND Selu Sign "
    "Size Softplus Softsign Sum Swish Tan ThresholdedRelu Tile TopK Trilu Xor"
)
_WRITTEN_MICROSOFT: Final = (
    "BiasGelu FastGelu FusedMatMul GatherBlockQuantized Gelu GroupQueryAttention MatMulNBits MultiHeadAttention "
    "QuickGelu RotaryEmbedding SkipLayerNormalization SkipSimplifiedLayerNormalization"
)

OPERATORS: Final[dict[str, frozenset[str]]] = {
    DEFAULT_DOMAIN: frozenset(f"{_WRITTEN} {_HARMLESS}".split()),
    MICROSOFT: frozenset(_WRITTEN_MICROSOFT.split()),
}


def domain_of(name: str) -> str:
    """The domain as it is listed here.

    >>> domain_of("ai.onnx"), domain_of("com.microsoft")
    ('', 'com.microsoft')
    """
    return DEFAULT_DOMAIN if name == "ai.onnx" else name


def refusal(domain: str, op_type: str) -> str | None:
    """Why this operator may not stand in a graph; None if it may.

    >>> refusal("", "MatMul")
    >>> refusal("", "Loop")
    "operator 'Loop' of domain 'ai.onnx' is not on the list of operators that bundles may hold"
    """
    known = OPERATORS.get(domain_of(domain))
    if known is None:
        return f"domain {domain!r} of operator {op_type!r} is unknown: custom operators are code"
    if op_type not in known:
        return (
            f"operator {op_type!r} of domain {domain or 'ai.onnx'!r} is not on the list of operators "
            "that bundles may hold"
        )
    return None
