"""Everything that `hub` raises.

HubError                  root; its text is one line: what happened, the value, what to do
├── WireError             a payload that is not the message it should be; carries the failure code to send back
├── LinkError             the broker cannot be reached, refused us, or took us over
├── IdentityError         a certificate, key or secret that says who we are cannot be used
├── ProvisionError        a fleet's authority, or what it issued, cannot be made, found or changed
├── BrokerError           the embedded broker did not start
├── ListenError           an address to listen on, or the keys that it needs, cannot be used
├── NodeError             a node is not there, or does not do what it was told
├── RolloutError          a bundle cannot be taken in, or a rollout cannot be begun, stopped or followed
├── StoreError            the records cannot be opened or read
│   └── StoreAway         their database server cannot be reached now
├── ReportError           a report cannot be made or written as it was asked for
└── SimulationError       a trace, a fleet file or a matrix of round trips cannot be used
"""

from __future__ import annotations


class HubError(Exception):
    """Root of all errors of this package."""


class WireError(HubError):
    """A payload that cannot be used; `code` is the failure code its sender gets (see `wire.Code`)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LinkError(HubError):
    """The broker cannot be reached, refused the connection, or gave our name to somebody else."""


class IdentityError(HubError):
    """A certificate, key or secret that says who we, or others, are cannot be used."""


class ProvisionError(HubError):
    """The authority of a fleet, or what it issued, cannot be made, found or changed as it was asked for."""


class BrokerError(HubError):
    """The embedded broker did not start."""


class ListenError(HubError):
    """HTTP cannot be served as it was asked for."""


class NodeError(HubError):
    """A node is not there, or does not do what it was told."""


class RolloutError(HubError):
    """A bundle cannot be taken in, or a rollout cannot be begun, stopped or followed."""


class StoreError(HubError):
    """The record store cannot be opened, written or read."""


class StoreAway(StoreError):
    """The database server of the record store cannot be reached now; it may come back."""


class ReportError(HubError):
    """A report cannot be made or written as it was asked for."""


class SimulationError(HubError):
    """A trace, a fleet file or a matrix of round trips cannot be used."""
