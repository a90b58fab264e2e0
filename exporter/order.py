"""What was asked for: the values behind the options of `edge-export`. Knows nothing of how it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

SERVED_CONTEXT: Final = 4096  # positions that an agent serves at most unless told otherwise
DEFAULT_BLOCK: Final = 32

Precision = Literal["auto", "fp32", "fp16", "fp8", "int8", "int4", "mixed"]
Quantizer = Literal["auto", "round-to-nearest", "k-quant", "gptq", "source"]
EngineChoice = Literal["auto", "none", "tensorrt-rtx"]
StaticMethod = Literal["minmax", "entropy", "percentile"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One call of `edge-export`. `prune` holds METHOD:AMOUNT as it was given, in order; `command` the whole line.
    `block` and `static_method` are None where they were not given; what then holds is `block_size` and `calibrator`.
    """

    model: str
    profile: str
    output: Path
    task: str = "auto"
    jetpack: str | None = None
    context: int | None = None
    precision: Precision = "auto"
    quantizer: Quantizer = "auto"
    block: int | None = None
    prune: tuple[str, ...] = ()
    compress: float | None = None
    recover: int = 0
    max_accuracy_drop_points: float = 1.0
    target_latency_ms: float | None = None
    calibration: Path | None = None
    evaluation: Path | None = None
    static_method: StaticMethod | None = None
    engine: EngineChoice = "auto"
    allow_pickle: bool = False
    dry_run: bool = False
    seed: int = 0
    version: int = 1
    downgrade_from: int | None = None
    command: str = ""

    @property
    def block_size(self) -> int:
        """Weights that share a scale."""
        return DEFAULT_BLOCK if self.block is None else self.block

    @property
    def calibrator(self) -> StaticMethod:
        """How the ranges of static int8 are found."""
        return "entropy" if self.static_method is None else self.static_method
