"""What did the untouched model say? Its log-probabilities on the evaluation text, on disk.

Written once, while the torch model is loaded, so that it can be released before candidates run: the two together would
need twice the memory. Log-probabilities are kept in float16 (their error averages out in a mean over thousands of
tokens); which token was the most likely one and how likely the token was that came are kept exactly.

Does not know any candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from exporter.text import Text

if TYPE_CHECKING:
    import torch


class Said(NamedTuple):
    """Of one window: its ids, from where it is scored, and for each scored token (n): log-probabilities float32
    (n, vocabulary), the most likely token int64 (n,), the token that came int64 (n,), its log-probability (n,).
    """

    ids: list[int]
    scored: slice
    log_probabilities: torch.Tensor
    top: torch.Tensor
    targets: torch.Tensor
    likelihood: torch.Tensor


class Reference(msgspec.Struct, frozen=True):
    """What the untouched model said of `text`; the windows lie in `folder`."""

    text: Text
    folder: Path
    windows: int

    def said(self) -> Iterator[Said]:
        """Window by window, in order."""
        import numpy as np
        import torch

        for number in range(self.windows):
            with np.load(_file(self.folder, number)) as stored:
                part = {name: torch.from_numpy(stored[name]) for name in stored.files}
            ids, first = part["ids"].tolist(), int(part["first"])
            yield Said(
                ids,
                slice(first - 1, len(ids) - 1),
                part["log_probabilities"].float(),
                part["top"],
                part["ids"][first:],
                part["likelihood"],
            )


def record(model: Any, text: Text, folder: Path, on_progress: Callable[[int], None], *, context: int) -> Reference:
    """Run `model`, the fp32 torch reference, over `text`; `on_progress` gets the tokens just scored.

    `context` is how many positions the model takes. Raises OSError.
    """
    import numpy as np
    import torch

    from edge_agent.evaluate import STRIDE_TOKENS, WINDOW_TOKENS, windows

    size = min(WINDOW_TOKENS, context)

    folder.mkdir()
    number = 0
    for row in text.rows:
        for window in windows(row, size, min(STRIDE_TOKENS, size - 1)):
            ids = torch.tensor(window.ids)
            with torch.inference_mode():
                logits = model(input_ids=ids[None]).logits[0, window.first_scored - 1 : -1]
                said = logits.log_softmax(-1)
            targets = ids[window.first_scored :]
            with _file(folder, number).open("wb") as file:
                np.savez(
                    file,
                    ids=ids.numpy(),
                    first=np.array(window.first_scored),
                    log_probabilities=said.half().numpy(),
                    top=said.argmax(-1).numpy(),
                    likelihood=said.gather(1, targets[:, None])[:, 0].double().numpy(),
                )
            number += 1
            on_progress(len(targets))
    return Reference(text, folder, number)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.npz"
