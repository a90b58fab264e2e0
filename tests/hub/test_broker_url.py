"""What is a broker URL, and what of it is shown."""

from __future__ import annotations

import pytest

from hub.broker_url import BrokerUrl
from hub.errors import LinkError


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
