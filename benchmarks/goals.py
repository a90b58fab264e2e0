"""What the agent is to reach beside its peers, and whether it did. Pure: figures in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Final, Literal, NamedTuple

NO_WORSE: Final = 1.05  # twice the standard error of the difference, over the 1,243 tokens that are compared

Figures = Mapping[str, Mapping[str, Any]]  # by contender, by measure: a number, or one for each round


class Goal(NamedTuple):
    """`here` against `peer`, each a (contender, measure); without a peer the figure itself is what counts."""

    measure: str
    here: tuple[str, str]
    peer: tuple[str, str] | None
    kind: Literal["at least", "at most"]
    limit: float


class Row(NamedTuple):
    """A goal and what was measured. `ratio` is None without a peer."""

    measure: str
    here: float
    peer: float | None
    ratio: float | None
    goal: str
    holds: bool


def _pair(bits: str, kind: str) -> tuple[Goal, ...]:
    """The goals of one bundle against the GGUF file of the same bits."""
    ours, theirs = f"agent_{bits}", f"llama_cpp_{kind}"
    name = f"{bits} against llama.cpp {kind.upper()}"

    def goal(what: str, field: str, word: Literal["at least", "at most"], limit: float, other: str = "") -> Goal:
        return Goal(f"{what}, {name}", (ours, field), (theirs, other or field), word, limit)

    return (
        goal("decode (tokens/s)", "decode_tokens_per_s", "at least", 1.4),
        goal("KL to fp32", "kl", "at most", 1.0),
        Goal(
            f"KL to fp32, {bits}, of checked guesses against single steps",
            *((ours, "checked_kl"), (ours, "kl"), "at most", NO_WORSE),
        ),
        Goal(f"decode, {bits}, of the memory floor", (ours, "roofline_fraction"), None, "at least", 0.65),
        goal("first token, 37 tokens (ms)", "ttft_ms", "at most", 0.5),
        goal("first token, system prompt cached, their own cold (ms)", "warm_ms", "at most", 0.25, "cold_ms"),
        goal("first token, system prompt cached by both (ms)", "warm_ms", "at most", 1.0),
        goal("process start to first token (ms)", "start_ms", "at most", 1.0),
    )


GOALS: Final = (
    *_pair("int4", "q4_0"),
    *_pair("int8", "q8_0"),
    Goal(
        "decode (tokens/s), int4 against onnxruntime-genai int4",
        *(("agent_int4", "decode_tokens_per_s"), ("genai_int4", "decode_tokens_per_s"), "at least", 1.0),
    ),
    Goal(
        "decode (tokens/s), int4 against PyTorch fp32",
        *(("agent_int4", "decode_tokens_per_s"), ("pytorch_fp32", "decode_tokens_per_s"), "at least", 3.0),
    ),
    Goal(
        "4 questions at once against one after another (tokens/s), int4",
        *(("agent_int4", "together_tokens_per_s"), ("agent_int4", "alone_tokens_per_s"), "at least", 1.8),
    ),
    Goal("one sentence, MiniLM int8, p50 (ms)", ("agent_minilm_int8", "p50_ms"), None, "at most", 5.0),
    Goal(
        "one sentence, MiniLM int8 against PyTorch fp32, p50 (ms)",
        *(("agent_minilm_int8", "p50_ms"), ("pytorch_minilm_fp32", "p50_ms"), "at most", 0.5),
    ),
)


def judge(figures: Figures, goals: Sequence[Goal] = GOALS) -> list[Row]:
    """A row for each goal of which both sides were measured. Ratios are medians over the rounds.

    >>> goal = Goal("speed", ("us", "speed"), ("them", "speed"), "at least", 1.4)
    >>> judge({"us": {"speed": [3.0, 2.0, 4.0]}, "them": {"speed": [1.0, 2.0, 2.0]}}, [goal])
    [Row(measure='speed', here=3.0, peer=2.0, ratio=2.0, goal='at least 1.4', holds=True)]
    """
    return [_row(figures, goal) for goal in goals if _has(figures, goal.here) and _has(figures, goal.peer)]


def _row(figures: Figures, goal: Goal) -> Row:
    here = _values(figures, goal.here)
    peer = None if goal.peer is None else _values(figures, goal.peer)
    ratio = None if peer is None else median(a / b for a, b in zip(here, peer, strict=True))
    counts = median(here) if ratio is None else ratio
    reached: Callable[[float, float], bool] = float.__ge__ if goal.kind == "at least" else float.__le__
    return Row(
        goal.measure,
        median(here),
        None if peer is None else median(peer),
        ratio,
        f"{goal.kind} {goal.limit:g}",
        reached(counts, goal.limit),
    )


def _values(figures: Figures, place: tuple[str, str]) -> list[float]:
    value = figures[place[0]][place[1]]
    return [float(one) for one in value] if isinstance(value, list) else [float(value)]


def _has(figures: Figures, place: tuple[str, str] | None) -> bool:
    return place is None or place[1] in figures.get(place[0], {})
