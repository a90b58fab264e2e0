"""A message of paho's as a link's owner gets it; over a broker it is tested in test_mqtt_link."""

from __future__ import annotations

import pytest
from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from hub.handlers import Received, received_from


def message(topic: bytes, properties: Properties | None) -> MQTTMessage:
    """As paho makes it of what it read."""
    made = MQTTMessage(3, topic)
    made.payload = b"why?"
    made.qos = 1
    made.retain = True
    made.dup = True
    made.properties = properties
    return made


def test_all_that_came_is_handed_on() -> None:
    """Topic, payload, retained or not, and each property."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ResponseTopic = "edge/v1/answer/kitchen"
    properties.CorrelationData = b"7"
    properties.MessageExpiryInterval = 30
    properties.UserProperty = [("error", "deadline"), ("k", "v")]
    assert received_from(message("edge/v1/ask/küche".encode(), properties), 9) == Received(
        topic="edge/v1/ask/küche",
        payload=b"why?",
        retained=True,
        receipt=9,
        response_topic="edge/v1/answer/kitchen",
        correlation=b"7",
        expiry_s=30,
        user_properties=(("error", "deadline"), ("k", "v")),
        again=True,
    )


@pytest.mark.parametrize("properties", [None, Properties(PacketTypes.PUBLISH)])  # type: ignore[no-untyped-call]
def test_what_did_not_come_is_none(properties: Properties | None) -> None:
    """No property is a value, with none at all or none of ours."""
    received = received_from(message(b"t", properties), 1)
    assert (received.response_topic, received.correlation, received.expiry_s) == (None, None, None)
    assert received.user_properties == ()


def test_a_topic_that_is_no_text_is_an_error() -> None:
    """MQTT forbids it; the link acknowledges it unread."""
    with pytest.raises(UnicodeDecodeError):
        received_from(message(b"\xff", None), 1)
