"""What a bundle says of itself: the schema of `manifest.json`, version 2.

Frozen values only; `bundle.py` reads, checks and writes them. Files forbid unknown keys.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

SCHEMA: Final = 2  # 1 had neither encoders nor intervals

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Version = Annotated[int, Meta(ge=1, le=2**53)]  # what every reader of JSON takes for the same number


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ModelInfo(_Part, frozen=True):
    """Where the weights come from."""

    name: str
    source: str
    licence: str | None
    architecture: str
    parameters: int
    context_length: Annotated[int, Meta(ge=1)]


class CacheLayout(_Part, frozen=True):
    """The KV cache of a decoder graph.

    Tensors `past_key_values.{i}.key|value` in, `present.{i}.key|value` out, for i below `layers`, each of
    shape (batch, kv_heads, positions, head_dim), `dtype` elements. Past and present may be one buffer.
    `positions` is the number that the graph fixes, None where any will do.
    """

    layers: Annotated[int, Meta(ge=1, le=4096)]
    kv_heads: Annotated[int, Meta(ge=1, le=4096)]
    head_dim: Annotated[int, Meta(ge=1, le=4096)]
    dtype: Literal["float32", "float16"]
    positions: Annotated[int, Meta(ge=1)] | None = None

    @property
    def bytes_per_position(self) -> int:
        """Bytes of one position of one sequence, in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * (4 if self.dtype == "float32" else 2)


class Graph(_Part, frozen=True):
    """One ONNX graph. Decoders take

    - `input_ids` int64 (batch, sequence),
    - `seqlens_k` int32 (batch,): each row's total length after this step, less one,
    - `logits_to_keep` int64 (kept,): which of the step's positions to return logits for,
    - the past of `cache`,

    and give `logits` float32 (batch, kept, vocabulary) and the present of `cache`. What the past holds beyond a row's
    length before the step is never looked at, but must be finite.

    - `ort` uses operators of ONNX Runtime. Past and present may be one buffer with room for the step; a past without
      that room is copied into a present of past and step together.
    - `onnx` uses ONNX's own operators up to opset 24, as TensorRT 10.15 and newer and TensorRT-RTX parse them. The past
      has room for the step, the present has its size and may be the same buffer (TensorRT demands that). The size is
      fixed in the graph (`CacheLayout.positions`), because TensorRT's cache updates take no other.
    - `plain` uses operators of opset 19 (int4 weights: 21) that older TensorRT parses, no attention or cache operator.
      As `onnx`, but the size is free, and past and present must be two buffers, exchanged after each step.

    All three take rows of unequal lengths in one batch, `ort` only for steps of one token. Weights of any dialect may
    be fp32 or fp16; block-wise int8 and int4 of `ort` are operators of ONNX Runtime, int8 by channel and int4 by block
    of the others DequantizeLinear.

    Encoders (no `cache`) take `input_ids`, `attention_mask` (1 for each token, 0 for padding) and, where the model
    knows them, `token_type_ids`, each int64 (batch, sequence), and give float32 outputs by task:

    - `text-classification`: `logits` (batch, labels); `token-classification`: `logits` (batch, sequence, labels),
    - `question-answering`: `start_logits` and `end_logits` (batch, sequence),
    - `feature-extraction`: `embedding` (batch, width), pooled and normalized as `EncoderInfo` says.
    """

    path: str
    dialect: Literal["ort", "onnx", "plain"]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cache: CacheLayout | None = None


class TokenizerInfo(_Part, frozen=True):
    """Files of the tokenizer, relative to the bundle, and the tokens that have a meaning.

    `path` is the file that the `tokenizers` library reads (`tokenizer/tokenizer.json`), `chat_template` a
    file with a Jinja template (`tokenizer/chat_template.jinja`) or None.
    """

    path: str
    chat_template: str | None
    vocabulary: int
    bos_token: str | None
    eos_token: str | None


class GenerationDefaults(_Part, frozen=True):
    """Used where the question does not say."""

    stop_ids: tuple[int, ...]
    max_tokens: Annotated[int, Meta(ge=1)] = 256
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0


class EncoderInfo(_Part, frozen=True):
    """What an encoder's outputs mean.

    `pooling` says how token vectors become one (the graph does it), `normalize` that its length is then 1;
    `labels` are the classes in the order of the logits.
    """

    max_tokens: Annotated[int, Meta(ge=2)]
    pooling: Literal["mean", "cls", "max"] | None = None
    normalize: bool = False
    labels: tuple[str, ...] = ()


class Sample(_Part, frozen=True):
    """A text and what this bundle gave for it when it was made, so that a device can see that it gives the same.

    Decoders: the greedy `token_ids`. Encoders: the values of the first output, flattened, for the text alone.
    """

    prompt: str
    token_ids: tuple[int, ...] = ()
    output: tuple[float, ...] = ()


class Accuracy(_Part, frozen=True):
    """What the gate measured, against the untouched reference, in percent and points of the metric.

    `metric` names what the budget is held against: `next_token_accuracy`, `qa_accuracy`, `accuracy` (of labels),
    `agreement` (with the reference's own answers) or `cosine`. `count` is how many tokens, questions or texts that
    metric is the mean of. What a task does not have is None.
    """

    metric: str
    reference: float
    value: float
    drop_points: float
    drop_low_points: float  # lower end of the paired 95% interval
    drop_bound_points: float  # upper end
    budget_points: float
    count: int
    text: str
    agreement: float | None = None  # percent of answers (tokens, labels) that are the reference's
    next_token_accuracy: float | None = None
    reference_next_token_accuracy: float | None = None
    kl: float | None = None
    perplexity: float | None = None
    reference_perplexity: float | None = None
    cosine: float | None = None

    @property
    def is_anomaly(self) -> bool:
        """Whether the bundle is better than its reference by more than chance: then something is wrong."""
        return self.drop_bound_points < 0


class Measured(_Part, frozen=True):
    """What an answer costs, where that was measured. `estimated` marks figures of another device."""

    where: str
    runtime: str
    threads: int
    fixed_ms: float
    prefill_ms_per_token: float
    decode_ms_per_token: float
    load_ms: float
    peak_rss_bytes: int
    estimated: bool = False


class Pass(_Part, frozen=True):
    """One thing that was done to the model, with its parameters."""

    name: str
    parameters: dict[str, Any]


class BundleFile(_Part, frozen=True):
    """One file of the bundle; `path` is relative, with forward slashes."""

    path: str
    bytes: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class Engine(_Part, frozen=True):
    """A prebuilt engine (`path`), or the `recipe` to build one on the device.

    `graph` is the ONNX graph that it is built from. `surrogate` is that graph's accuracy in ONNX Runtime, where no
    device with this engine's runtime was at hand: the device repeats the check before it calls the engine ready.
    """

    runtime: str
    compute_capability: str
    precision: str
    graph: str
    path: str | None = None
    recipe: dict[str, Any] | None = None
    bytes: int | None = None
    seconds: float | None = None
    surrogate: Accuracy | None = None


class Manifest(_Part, frozen=True):
    """The whole of `manifest.json`.

    A node takes no `version` below the highest that it has run, unless `downgrade_from` is at least that: so its maker
    says which versions this one may take the place of.
    """

    schema: Literal[2]
    bundle_id: str
    version: Version
    model: ModelInfo
    task: str
    profile: str
    passes: tuple[Pass, ...]
    precision: dict[str, str]
    graphs: tuple[Graph, ...]
    tokenizer: TokenizerInfo
    generation: GenerationDefaults
    samples: tuple[Sample, ...]
    accuracy: Accuracy | None
    measured: Measured
    engines: tuple[Engine, ...]
    files: tuple[BundleFile, ...]
    encoder: EncoderInfo | None = None
    downgrade_from: Version | None = None  # last: see `bundle.encode_manifest`

    def __post_init__(self) -> None:
        if self.downgrade_from is not None and self.downgrade_from < self.version:
            raise ValueError(f"downgrade_from {self.downgrade_from} is below version {self.version}")
