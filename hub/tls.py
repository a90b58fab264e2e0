"""How do two machines of a fleet know each other? TLS contexts from files, and what a refusal means in plain words.

Knows nothing of MQTT or HTTP, nor of how certificates are made (`hub.provision`).
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import msgspec

from hub.errors import IdentityError

_OTHER_AUTHORITY: Final = {18, 19, 20, 21}  # X509_V_ERR_*: self-signed, or an issuer that is not known
_CLOCK: Final = {9, 10}  # not yet valid, expired
_NO_TLS: Final = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"}


class Tls(msgspec.Struct, frozen=True):
    """Whom to trust, and who we are. Without `ca` the system's authorities count; `cert` and `key` go together."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate needs its key, and a key its certificate: give both or none")

    def client_context(self) -> ssl.SSLContext:
        """For connections that we open: TLS 1.2 or newer, the other side's certificate and host name are checked.

        The files are read now, so that what was renewed counts. Raises IdentityError.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the host name, and requires a certificate
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca is None:
            context.load_default_certs()
        else:
            _trust(context, self.ca)
        self._show(context)
        return context

    def server_context(self, crl: Path | None = None) -> ssl.SSLContext:
        """For connections that others open: they must show a certificate of `ca` that is not revoked in `crl`.

        All three files are needed. Raises IdentityError.
        """
        if self.ca is None or self.cert is None:
            raise IdentityError("a server needs an authority, a certificate and a key: give --ca, --cert and --key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, self.ca)
        if crl is not None:
            _trust(context, crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        self._show(context)
        return context

    def _show(self, context: ssl.SSLContext) -> None:
        if self.cert is None or self.key is None:
            return
        _readable(self.cert)
        _readable(self.key)

        def passphrase() -> str:
            raise IdentityError(f"{self.key} is protected by a passphrase: who runs unattended needs a key without one")

        try:
            context.load_cert_chain(self.cert, self.key, passphrase)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise IdentityError(f"{self.key} is not the key of {self.cert}: copy both from one directory") from None
            why = _reason(error) if error.reason else "the one holds no certificate in PEM, or the other no key"
            raise IdentityError(f"{self.cert} and {self.key} cannot be used: {why}") from None


def refusal(error: Exception) -> str | None:
    """Why TLS refuses to go on, in a line; None where `error` says nothing of trust, as when a network breaks.

    >>> print(refusal(ConnectionResetError("reset")))
    None
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message.rstrip('.')}{_hint(error.verify_code)}"
    if not isinstance(error, ssl.SSLError) or isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return None
    reason = error.reason or ""
    if reason in _NO_TLS:
        return "it does not speak TLS there: use mqtts:// only where it does"
    if "_ALERT_" in reason:
        return f"it refuses our certificate: {reason.split('_ALERT_')[1].replace('_', ' ').lower()}"
    return f"TLS failed: {_reason(error)}" if reason else None


def _hint(verify_code: int) -> str:
    if verify_code in _OTHER_AUTHORITY:
        return "; is it of the fleet whose authority --ca is?"
    return "; is this machine's clock right?" if verify_code in _CLOCK else ""


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _trust(context: ssl.SSLContext, path: Path) -> None:
    _readable(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise IdentityError(
            f"{path} cannot be used: it holds no certificate or list in PEM ({_reason(error)})"
        ) from None


def _readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from None
