"""What is a broker URL, and what of it is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hub.broker_url import BrokerUrl, read_secret
from hub.errors import IdentityError, LinkError
from hub.tls import Tls


@pytest.mark.parametrize(
    "url", ["http://x", "mqtt://", "mqtt://h:0", "mqtt://h:99999", "mqtt://h/path", "mqtt://[::1", "ftp://a"]
)
def test_url_refused(url: str) -> None:
    """What is no broker URL is refused, and the message says the form."""
    with pytest.raises(LinkError, match="mqtt://"):
        BrokerUrl.parse(url)


def test_password_is_never_shown() -> None:
    """Neither text nor representation of a URL holds the password."""
    url = BrokerUrl.parse("mqtt://anna:top%40secret@broker")
    assert url.password == "top@secret"
    assert "secret" not in f"{url} {url!r} {url}"


def test_by_tls() -> None:
    """`mqtts` has a port of its own and whom to trust; certificates on the way in plain text are refused."""
    tls = Tls(Path("ca.pem"))
    assert (BrokerUrl.parse("mqtts://h", tls).port, BrokerUrl.parse("mqtts://h:1", tls).tls) == (8883, tls)
    assert BrokerUrl.parse("mqtts://h").tls == Tls()
    assert str(BrokerUrl.parse("mqtts://a:b@h")) == "mqtts://a:***@h:8883"
    with pytest.raises(LinkError, match="use mqtts://"):
        BrokerUrl.parse("mqtt://h", tls)


def test_names_that_only_their_owner_can_say() -> None:
    """With a secret a name gets a code: another for each name and secret, the same for who share the secret."""
    one, same, other = (BrokerUrl.parse("mqtt://h", secret=secret * 32) for secret in "aab")
    assert one.owned("hub-h") == same.owned("hub-h") != other.owned("hub-h")
    assert re.fullmatch(r"hub-h-[0-9a-f]{16}", one.owned("hub-h"))
    assert one.owned("hub-h")[-16:] != one.owned("hub-i")[-16:]
    assert BrokerUrl.parse("mqtt://h").owned("hub-h") == "hub-h"


def test_a_secret_is_one_long_word(tmp_path: Path) -> None:
    """Anything else in its file is refused by name, and never shown."""
    path = tmp_path / "session.key"
    path.write_text("s" * 64 + "\n")
    assert read_secret(path) == "s" * 64
    for text in ("", "short", "two words " * 10, "é" * 64):
        path.write_text(text, "utf-8")
        with pytest.raises(IdentityError, match=r"session\.key") as caught:
            read_secret(path)
        assert text.strip() == "" or text.strip() not in str(caught.value)
    with pytest.raises(IdentityError, match="No such file"):
        read_secret(tmp_path / "none")
