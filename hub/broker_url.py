"""Where does a broker listen, and as whom does one log in there? Knows nothing of MQTT itself."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import msgspec

from hub.errors import LinkError


class BrokerUrl(msgspec.Struct, frozen=True):
    """Where a broker listens, and as whom to log in. Its text never holds the password.

    >>> str(BrokerUrl.parse("mqtt://anna:secret@broker.local"))
    'mqtt://anna:***@broker.local:1883'
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> BrokerUrl:
        """Raises LinkError when `url` is not `mqtt://[user[:password]@]host[:port]`."""
        try:
            parts = urlsplit(url if "://" in url else f"mqtt://{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise LinkError(f"not a broker URL ({error}): use mqtt://HOST:PORT") from None
        if parts.scheme != "mqtt" or not host or parts.path not in ("", "/") or parts.query or port == 0:
            raise LinkError("not a broker URL: use mqtt://[USER:PASSWORD@]HOST[:PORT]")
        user, password = parts.username, parts.password
        return cls(host, port or 1883, None if user is None else unquote(user), password and unquote(password))

    def __str__(self) -> str:
        login = "" if self.username is None else f"{self.username}{':***' if self.password else ''}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt://{login}{host}:{self.port}"

    def __repr__(self) -> str:
        return f"BrokerUrl({str(self)!r})"
