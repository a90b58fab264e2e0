"""What does the untouched torch encoder give for rows of token ids?

Each row alone, without padding, so that this is what a padded batch of any graph must equal; pooled and normalized here
once more, in other words than the traced module's. Computed once, so that the model can go before candidates run.

Does not know what the outputs are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edge_agent.manifest import EncoderInfo

if TYPE_CHECKING:
    import numpy as np

    Outputs = dict[str, np.ndarray]
else:
    Outputs = dict


def reference_outputs(
    model: Any,
    task: str,
    encoder: EncoderInfo,
    ids_rows: Sequence[Sequence[int]],
    types_rows: Sequence[Sequence[int]] | None = None,
) -> list[Outputs]:
    """For each row the outputs of `edge_agent.manifest.Graph` by name, float32, without the batch axis.

    `types_rows` are its token type ids, for models that know them (default: all 0).
    """
    return list(_outputs(model, task, encoder, ids_rows, types_rows))


def _outputs(
    model: Any,
    task: str,
    encoder: EncoderInfo,
    ids_rows: Sequence[Sequence[int]],
    types_rows: Sequence[Sequence[int]] | None,
) -> Iterator[Outputs]:
    import torch

    for number, ids in enumerate(ids_rows):
        inputs = {"input_ids": torch.tensor([list(ids)]), "attention_mask": torch.ones((1, len(ids)), dtype=torch.long)}
        if types_rows is not None:
            inputs["token_type_ids"] = torch.tensor([list(types_rows[number])])
        with torch.inference_mode():
            output = model(**inputs)
        if task == "question-answering":
            yield {name: output[name][0].numpy() for name in ("start_logits", "end_logits")}
        elif task == "feature-extraction":
            yield {"embedding": _embedding(output.last_hidden_state[0].numpy(), encoder)}
        else:
            yield {"logits": output.logits[0].numpy()}


def _embedding(states: np.ndarray, encoder: EncoderInfo) -> np.ndarray:
    """(tokens, width) to (width,)."""
    import numpy as np

    pooled: np.ndarray = {
        "mean": lambda: states.mean(axis=0),
        "cls": lambda: states[0],
        "max": lambda: states.max(axis=0),
    }[encoder.pooling or "mean"]()
    return pooled / np.linalg.norm(pooled) if encoder.normalize else pooled
