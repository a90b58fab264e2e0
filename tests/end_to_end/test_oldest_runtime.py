"""A bundle made with today's tools answers under the oldest ONNX Runtime that a device has (JetPack 6: 1.23.2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OLDEST = Path(sys.prefix) / "oldest-onnxruntime"  # `make setup` puts it beside the other packages, not among them

ASK = """
import sys
from pathlib import Path
import onnxruntime
from edge_agent.runtime.engine import open_engine
from hub.wire import Question
engine = open_engine(Path(sys.argv[1]))
given = engine.answer(Question(question=sys.argv[2]), should_stop=lambda: False)
print(onnxruntime.__version__, given.text)
"""


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "question", "answer"),
    [
        ("bundle", "What is the capital of France?", "Paris"),
        # "The" leads "L'" by 0.08 in the fp32 logits of the question above: int8 may fall on either side of that.
        ("int8_bundle", "What is the capital of Japan?", "Tokyo"),
    ],
)
def test_answers_under_the_oldest_runtime(
    kind: str, question: str, answer: str, request: pytest.FixtureRequest
) -> None:
    """fp32 and int8 bundles answer rightly under onnxruntime 1.23.2."""
    path = request.getfixturevalue(kind)
    environment = {**os.environ, "PYTHONPATH": f"{OLDEST}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(path), question],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    version, _, text = done.stdout.partition(" ")
    assert version == "1.23.2"
    assert answer in text
