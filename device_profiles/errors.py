"""Everything that `device_profiles` raises.

ProfileError              root; its text is one line: what happened, the value, what to do
├── UnknownProfile        no profile and no alias has this name; carries the nearest ones
├── UnknownJetPack        no such JetPack, or none for this device; carries those that there are
└── InvalidProfile        a profile file that is not what the schema says
"""

from __future__ import annotations


class ProfileError(Exception):
    """Root of all errors of this package."""


class UnknownProfile(ProfileError):
    """No profile has this name. `nearest` are the names that come closest, best first."""

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        super().__init__(
            f"unknown profile {name!r}: nearest are {', '.join(nearest)}; `edge-export --list-profiles` shows them all"
        )
        self.name = name
        self.nearest = nearest


class UnknownJetPack(ProfileError):
    """This device has no such JetPack. `known` are those that it has, oldest first."""

    def __init__(self, why: str, known: tuple[str, ...]) -> None:
        there = f"choose one of {', '.join(known)}" if known else "leave --jetpack out"
        super().__init__(f"{why}: {there}")
        self.known = known


class InvalidProfile(ProfileError):
    """A profile file that cannot be used."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"profile {where} is not valid: {why}")
