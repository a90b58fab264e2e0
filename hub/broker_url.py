"""Where does a broker listen, and as whom does one log in there? Knows nothing of MQTT itself."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from hub.errors import IdentityError, LinkError
from hub.tls import Tls

_LEAST_SECRET_CHARS = 32


class BrokerUrl(msgspec.Struct, frozen=True):
    """Where a broker listens, and who we are there. Its text never holds the password.

    `tls` is set where it is reached by TLS. `secret` is known to nobody else who may connect there.

    >>> str(BrokerUrl.parse("mqtt://anna:secret@broker.local"))
    'mqtt://anna:***@broker.local:1883'
    >>> str(BrokerUrl.parse("mqtts://broker.local"))
    'mqtts://broker.local:8883'
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    tls: Tls | None = None
    secret: str | None = None

    @classmethod
    def parse(cls, url: str, tls: Tls | None = None, secret: str | None = None) -> BrokerUrl:
        """Raises LinkError when `url` is not `mqtt[s]://[user[:password]@]host[:port]`, or `tls` does not fit it.

        With `mqtts` and no `tls` the broker's certificate must be one of the system's authorities.
        """
        try:
            parts = urlsplit(url if "://" in url else f"mqtt://{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise LinkError(f"not a broker URL ({error}): use mqtt://HOST:PORT") from None
        is_ours = parts.scheme in ("mqtt", "mqtts")
        if not is_ours or not host or parts.path not in ("", "/") or parts.query or port == 0:
            raise LinkError("not a broker URL: use mqtt://[USER:PASSWORD@]HOST[:PORT], or mqtts:// for TLS")
        by_tls = parts.scheme == "mqtts"
        if tls is not None and not by_tls:
            raise LinkError(f"certificates do nothing on the way to mqtt://{host}: use mqtts://")
        user, password = parts.username, parts.password
        return cls(
            host,
            port or (8883 if by_tls else 1883),
            None if user is None else unquote(user),
            password and unquote(password),
            (tls or Tls()) if by_tls else None,
            secret,
        )

    @classmethod
    def of(cls, broker: str | BrokerUrl) -> BrokerUrl:
        """A broker as programs give it. Raises LinkError as `parse` does."""
        return cls.parse(broker) if isinstance(broker, str) else broker

    def owned(self, name: str) -> str:
        """`name`, followed by a code that takes the secret to make; `name` alone without a secret.

        A broker lets whoever may connect have any client id, and join any group that shares a subscription: so nobody
        must be able to say those of others. Two who share a secret say the same.

        >>> BrokerUrl("h", 1, secret="s").owned("node-orin-1")
        'node-orin-1-2dcf190c58e4c821'
        """
        if self.secret is None:
            return name
        return f"{name}-{hmac.new(self.secret.encode(), name.encode(), hashlib.sha256).hexdigest()[:16]}"

    def __str__(self) -> str:
        login = "" if self.username is None else f"{self.username}{':***' if self.password else ''}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'' if self.tls is None else 's'}://{login}{host}:{self.port}"

    def __repr__(self) -> str:
        return f"BrokerUrl({str(self)!r})"


def read_secret(path: Path) -> str:
    """The secret in a file: one line. Raises IdentityError."""
    try:
        secret = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(secret) < _LEAST_SECRET_CHARS or len(secret.split()) != 1:
        raise IdentityError(f"{path} is no session key: it needs one word of at least {_LEAST_SECRET_CHARS} characters")
    return secret
