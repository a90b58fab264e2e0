"""How does a pruned model learn again what its untouched reference says?

Short knowledge distillation (Hinton et al., 2015, arXiv:1503.02531) on calibration text: the student's linear layers
and norms follow the reference's output distribution at every position; embedding and output head stay. Zeros of
unstructured pruning stay zero. The result is judged on calibration rows held back from training, and thrown away if it
is no better than what was there before.

Does not know how the student was made smaller, nor whether it is now good enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from edge_agent.manifest import Pass
from exporter.activations import batches, windows_of
from exporter.errors import CalibrationError, ConversionError
from exporter.linear import matrix
from exporter.structure import linears_of, stack_of
from exporter.text import Text

if TYPE_CHECKING:
    import torch

TEMPERATURE: Final = 1.0  # the reference's own distribution: that is what accuracy is measured against
_LEARNING_RATE: Final = 2e-4
_WARM_UP: Final = 0.1  # of all steps
_LARGEST_GRADIENT: Final = 1.0  # norm over all weights
_WINDOW: Final = 128  # tokens; four of them a step bound the memory of the logits
_WINDOWS_A_STEP: Final = 4
_HELD_BACK: Final = 0.125  # of the windows, at least one


def recover(
    student: Any,
    reference: Any,
    calibration: Text,
    *,
    steps: int,
    seed: int,
    on_progress: Callable[[float], None],
) -> Pass:
    """Train `student` in place to say what `reference` says, for `steps` steps of about 512 tokens.

    The same seed gives the same weights. Raises CalibrationError where the text has too few rows to hold some back,
    ConversionError where a loss is not finite.
    """
    import torch

    if steps < 1:
        raise ConversionError(f"recovering in {steps} steps does nothing: give at least 1")
    training, held_back = _divided(student, calibration)
    weights = _trained_weights(student)
    masks = _zeros_of(student)
    first = _mean_loss(student, reference, held_back)
    _refuse_infinite(first, 0)
    before = [weight.detach().clone() for weight in weights]
    gradients = [(parameter, parameter.requires_grad) for parameter in student.parameters()]
    for parameter, _ in gradients:
        parameter.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        seen = _train(student, reference, training, weights, masks, steps, seed, on_progress)
    finally:
        for parameter, needed in gradients:
            parameter.requires_grad_(needed)
            parameter.grad = None
    last = _mean_loss(student, reference, held_back)
    kept = last < first  # not if it is NaN
    if not kept:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)
    return Pass(
        name="recover",
        parameters={
            "method": f"distillation: KL to the reference at temperature {TEMPERATURE:g}, AdamW, warm-up and cosine",
            "steps": steps,
            "learning_rate": _LEARNING_RATE,
            "temperature": TEMPERATURE,
            "tokens": seen,
            "loss_before": float(f"{first:.4g}"),
            "loss_after": float(f"{last:.4g}") if math.isfinite(last) else None,
            "loss_on": f"{len(held_back)} rows held back of {calibration.origin}",
            "kept": kept,
            **({} if kept else {"note": "no better on the rows held back: the weights from before were kept"}),
            "seed": seed,
        },
    )


def learned_before(model: Any, calibration: Text) -> Text:
    """The text that passes before a recovery may learn from: not the rows by which recovery judges itself.

    Else what a pass has fitted to them looks better there than it is, and nothing that follows looks like a gain.
    Raises CalibrationError where the text has too few rows to hold some back.
    """
    return Text(tuple(_divided(model, calibration)[0]), calibration.origin)


def distance(student: Any, reference: Any, ids: torch.Tensor) -> torch.Tensor:
    """The mean KL of the student's outputs to the reference's; a bare encoder's relative squared error instead.

    `ids` is int64 (rows, length). Scores of the answer's start and end are distributions over positions.
    """
    import torch

    mask = torch.ones_like(ids)
    with torch.no_grad():
        wanted = reference(input_ids=ids, attention_mask=mask)
    got = student(input_ids=ids, attention_mask=mask)
    names = [name for name in ("logits", "start_logits", "end_logits") if name in wanted]
    if names:
        return torch.stack([_divergence(got[name], wanted[name]) for name in names]).mean()
    error: torch.Tensor = (got[0] - wanted[0]).pow(2).sum() / wanted[0].pow(2).sum()
    return error


def _divergence(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    import torch

    width = got.shape[-1]
    ours = torch.log_softmax(got.reshape(-1, width) / TEMPERATURE, dim=-1)
    theirs = torch.log_softmax(wanted.reshape(-1, width) / TEMPERATURE, dim=-1)
    divergence: torch.Tensor = torch.nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return divergence * TEMPERATURE**2


def _train(
    student: Any,
    reference: Any,
    training: Sequence[tuple[int, ...]],
    weights: Sequence[torch.nn.Parameter],
    masks: Sequence[tuple[Any, torch.Tensor]],
    steps: int,
    seed: int,
    on_progress: Callable[[float], None],
) -> int:
    """Returns the tokens seen."""
    import torch

    optimizer = torch.optim.AdamW(weights, lr=_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    seen = 0
    for step, windows in enumerate(_drawn(training, steps, seed)):
        tokens = sum(map(len, windows))
        loss = 0.0
        for ids in batches(windows):
            part = distance(student, reference, ids) * (ids.numel() / tokens)
            part.backward()
            loss += float(part.detach())
        _refuse_infinite(loss, step + 1)
        norm = float(torch.nn.utils.clip_grad_norm_(weights, _LARGEST_GRADIENT))
        _refuse_infinite(norm, step + 1)
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * rate(step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for linear, zeros in masks:
            matrix(linear)[zeros] = 0
        seen += tokens
        on_progress((step + 1) / steps)
    return seen


def rate(step: int, steps: int) -> float:
    """The share of the learning rate in this step (from 0): up in a straight line, then down half a cosine.

    >>> [round(rate(step, 20), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 0.99, 0.46, 0.01]
    """
    rising = max(1, round(_WARM_UP * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising + 1) / (steps - rising + 1)))


def _drawn(windows: Sequence[tuple[int, ...]], steps: int, seed: int) -> Iterator[list[tuple[int, ...]]]:
    """For each step some windows; each is seen once before any is seen again."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < min(_WINDOWS_A_STEP, len(windows)):
            waiting += torch.randperm(len(windows), generator=draw).tolist()
        yield [windows[index] for index in waiting[:_WINDOWS_A_STEP]]
        del waiting[:_WINDOWS_A_STEP]


def _divided(model: Any, calibration: Text) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """(to train on, held back): the end of the text is held back, so that few rows are cut in two."""
    windows = windows_of(model, calibration, _WINDOW)
    if len(windows) < 2:
        raise CalibrationError(
            f"{calibration.origin}: recovery holds rows back to judge itself, one row of {_WINDOW} tokens is too little"
        )
    count = max(1, round(len(windows) * _HELD_BACK))
    return list(windows[:-count]), list(windows[-count:])


def _mean_loss(student: Any, reference: Any, windows: Sequence[tuple[int, ...]]) -> float:
    import torch

    total = 0.0
    with torch.no_grad():
        for ids in batches(list(windows), _WINDOW * _WINDOWS_A_STEP):
            total += float(distance(student, reference, ids)) * ids.numel()
    return total / sum(map(len, windows))


def _trained_weights(student: Any) -> list[torch.nn.Parameter]:
    """All weights of the blocks."""
    return list(stack_of(student).holder.parameters())


def _zeros_of(student: Any) -> list[tuple[Any, torch.Tensor]]:
    """Each linear layer that has zeros, with a mask of them: (outputs, inputs), true where it is zero."""
    masks = ((linear, matrix(linear) == 0) for linear in linears_of(student).values())
    return [(linear, zeros) for linear, zeros in masks if bool(zeros.any())]


def _refuse_infinite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise ConversionError(
            f"the loss of recovery is {loss} at step {step}: prune less, or leave the recovery out for this model"
        )
