"""What is asked, by whom and when? An open loop, drawn from a seed: nobody waits for an answer before asking more.

Knows nothing of MQTT.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import msgspec

DEADLINES_S: Final = (2.0, 6.0, 8.0, 10.0, 15.0, 30.0)
WEIGHTS: Final = (5, 15, 20, 25, 25, 10)
WORDS: Final = ("sea", "lighthouse", "keeper", "bread", "river", "engine", "window", "paris", "moon", "garden", "story")


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One question, to be asked `at_s` after the start."""

    at_s: float
    device: str
    id: str
    text: str
    deadline_s: float
    streamed: bool


def draw(seed: int, *, seconds: float, questions: int, devices: Sequence[str]) -> list[Planned]:
    """Questions at random times, as many customers come to a counter (Poisson), in order. Each text is asked once."""
    rng = random.Random(f"questions {seed}")
    times = sorted(rng.uniform(0.0, seconds) for _ in range(questions))
    found = []
    for number, at_s in enumerate(times):
        device = rng.choice(devices)
        words = " ".join(rng.choices(WORDS, k=rng.randint(2, 30)))
        found.append(
            Planned(
                at_s=at_s,
                device=device,
                id=f"{device}.{number}",
                text=f"{device} {number} {words}",
                deadline_s=rng.choices(DEADLINES_S, WEIGHTS)[0],
                streamed=rng.random() < 0.3,
            )
        )
    return found
