"""Clients that know nothing of us: mosquitto_rr and a bare MQTT 5 client, on both brokers."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

CLIENT = shutil.which("mosquitto_rr")
pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(CLIENT is None, reason="mosquitto_rr is not installed (apt-get install mosquitto-clients)"),
]


@pytest.fixture
def fleet(processes: Any, broker_url: str) -> tuple[Any, str]:
    processes.hub(broker_url)
    processes.noop("n1", broker_url)
    processes.wait_for(broker_url, "n1")
    return processes, broker_url


def mosquitto_rr(broker: str, message: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Ask as device `kitchen` with Debian's request-response client."""
    assert CLIENT is not None
    port = broker.rpartition(":")[2]
    topics = ["-t", "edge/v1/ask/kitchen", "-e", "edge/v1/answer/kitchen"]
    command = [CLIENT, "-V", "5", "-h", "127.0.0.1", "-p", port, *topics, "-m", message, "-W", "20", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)


def test_plain_text_gets_plain_text(fleet: tuple[Any, str]) -> None:
    """A question in plain text is answered in plain text, whatever the QoS."""
    _, broker = fleet
    for qos in "012":
        assert mosquitto_rr(broker, "What is the capital of France?", "-q", qos).stdout == "yes\n"


def test_json_comes_back_with_its_correlation_data(fleet: tuple[Any, str]) -> None:
    """A JSON question with Correlation Data gets a JSON answer with the same Correlation Data."""
    _, broker = fleet
    options = ["-D", "publish", "correlation-data", "tag-7", "-F", "%D|%p"]
    printed = mosquitto_rr(broker, '{"question": "why?"}', *options).stdout
    correlation, _, payload = printed.partition("|")
    answer = json.loads(payload)
    assert correlation == "tag-7"
    assert (answer["id"], answer["text"], answer["node"]) == ("tag-7", "yes", "n1")


@pytest.mark.parametrize(
    ("message", "code"), [('{"question": 7}', "invalid"), ('{"question": "?", "model": "x"}', "unsupported")]
)
def test_json_failures_are_typed(fleet: tuple[Any, str], message: str, code: str) -> None:
    """A JSON question that cannot be answered gets its typed failure."""
    _, broker = fleet
    failure = json.loads(mosquitto_rr(broker, message).stdout)
    assert failure["error"]["code"] == code


def test_plain_failure_is_marked(processes: Any, broker_url: str) -> None:
    """A plain question that fails gets plain text, marked by the user property `error`; no node fails at once."""
    processes.hub(broker_url)
    processes.wait_for(broker_url)
    printed = mosquitto_rr(broker_url, "Anybody there?", "-F", "%P|%p").stdout
    assert printed.startswith("error:no_node|")
    assert "{" not in printed
