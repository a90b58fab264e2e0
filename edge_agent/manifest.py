"""What a bundle says of itself: the schema of `manifest.json`, version 1.

Frozen values only; `bundle.py` reads, checks and writes them. Files forbid unknown keys.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

SCHEMA: Final = 1

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


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
    """

    layers: Annotated[int, Meta(ge=1, le=4096)]
    kv_heads: Annotated[int, Meta(ge=1, le=4096)]
    head_dim: Annotated[int, Meta(ge=1, le=4096)]
    dtype: Literal["float32", "float16"]


class Graph(_Part, frozen=True):
    """One ONNX graph. Decoders of dialect `ort` take

    - `input_ids` int64 (batch, sequence),
    - `seqlens_k` int32 (batch,): each row's total length after this step, less one,
    - `logits_to_keep` int64 (kept,): which of the step's positions to return logits for,
    - the past of `cache`,

    and give `logits` float32 (batch, kept, vocabulary) and the present of `cache`.
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


class Sample(_Part, frozen=True):
    """A prompt and the greedy token ids that this bundle gave when it was made."""

    prompt: str
    token_ids: tuple[int, ...]


class Accuracy(_Part, frozen=True):
    """What the gate measured, against the untouched reference, in percent and points of the metric."""

    metric: str
    reference: float
    value: float
    drop_points: float
    drop_bound_points: float  # upper end of the paired 95% interval
    budget_points: float
    agreement: float
    kl: float
    perplexity: float
    reference_perplexity: float
    tokens: int
    text: str


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
    """A prebuilt engine, or the recipe to build one on the device."""

    runtime: str
    compute_capability: str
    path: str | None = None
    recipe: dict[str, Any] | None = None


class Manifest(_Part, frozen=True):
    """The whole of `manifest.json`."""

    schema: Literal[1]
    bundle_id: str
    version: Annotated[int, Meta(ge=1)]
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
