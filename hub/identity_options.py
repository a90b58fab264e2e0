"""Which options of a command say who it is at a broker? `--ca --cert --key`, and `--session-key` where ids are fixed.

Knows nothing of what the command does.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from hub.broker_url import BrokerUrl, read_secret
from hub.tls import Tls


class Identity(msgspec.Struct, frozen=True):
    """The files that say who we are; all None where nothing was given."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    session_key: Path | None = None

    def at(self, broker: str) -> BrokerUrl:
        """`broker`, as whom we are there. Raises LinkError, IdentityError."""
        tls = None if self.ca is None and self.cert is None else Tls(self.ca, self.cert, self.key)
        return BrokerUrl.parse(broker, tls, None if self.session_key is None else read_secret(self.session_key))

    def server_context(self, crl: Path | None) -> ssl.SSLContext | None:
        """To be connected to as whom we are; None without a certificate. Raises IdentityError."""
        return None if self.cert is None else Tls(self.ca, self.cert, self.key).server_context(crl)

    @property
    def is_given(self) -> bool:
        """Whether any of them was."""
        return self != Identity()


def identity_options(*, session_key: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command these options; it gets them as `identity`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_identity(**given: Any) -> Any:
            files = {name: given.pop(name, None) for name in Identity.__struct_fields__}
            if (files["cert"] is None) != (files["key"] is None):
                raise click.UsageError("--cert and --key go together: give both or none")
            return command(identity=Identity(**files), **given)

        decorated: Callable[..., Any] = with_identity
        if session_key:
            decorated = _file("--session-key", "Secret, one line, that makes this client's id its own.")(decorated)
        decorated = _file("--key", "Its key, without a passphrase.")(decorated)
        decorated = _file("--cert", "Certificate that says who this is.")(decorated)
        return _file("--ca", "Authority of the broker's certificate, for mqtts://; default: the system's.")(decorated)

    return decorate


def _file(name: str, help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(name, type=click.Path(path_type=Path), help=help_text)
