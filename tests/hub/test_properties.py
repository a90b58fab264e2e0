"""Properties are packed as paho packs its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

from hub.properties import PublishProperties, variable_byte_integer

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@given(
    correlation=st.binary(min_size=1, max_size=200),
    response_topic=TEXT.filter(bool),
    expiry_s=st.integers(0, 0xFFFFFFFF),
    user_properties=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5),
)
def test_packed_as_paho_does(
    correlation: bytes, response_topic: str, expiry_s: int, user_properties: list[tuple[str, str]]
) -> None:
    """The bytes are those of paho's own class, whatever the values."""
    theirs = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    theirs.MessageExpiryInterval = expiry_s
    theirs.ResponseTopic = response_topic
    theirs.CorrelationData = correlation
    theirs.UserProperty = user_properties
    ours = PublishProperties(correlation, response_topic, expiry_s, user_properties)
    assert ours.pack() == theirs.pack()  # type: ignore[no-untyped-call]


def test_none_is_one_byte() -> None:
    """A message without properties carries their length, zero."""
    assert PublishProperties(None, None, None, ()).pack() == b"\0"


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455])
def test_length_is_encoded_as_paho_does(value: int) -> None:
    """At each length where one byte more is needed."""
    assert variable_byte_integer(value) == VariableByteIntegers.encode(value)  # type: ignore[no-untyped-call]
