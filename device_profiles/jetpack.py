"""Which software does a JetPack bring, and to which Jetsons?

A Jetson's TensorRT, CUDA and Python come with its JetPack and with nothing else, so `with_jetpack` says all of it at
once. Versions that no JetPack brings to a device are refused. Knows nothing of the machine it runs on.
"""

from __future__ import annotations

from typing import Final

import msgspec

from device_profiles.errors import UnknownJetPack
from device_profiles.profile import Profile, Software

_ORIN: Final = "8.7"  # compute capabilities, https://developer.nvidia.com/cuda-gpus
_THOR: Final = "11.0"


class _JetPack(msgspec.Struct, frozen=True):
    """One release, and the compute capabilities of the Jetsons that this project has profiles for."""

    software: Software
    capabilities: tuple[str, ...]


def _release(
    jetpack: str, tensorrt: str, cuda: str, python: str, onnxruntime: str | None, *capabilities: str
) -> tuple[str, _JetPack]:
    software = Software(jetpack=jetpack, tensorrt=tensorrt, cuda=cuda, python=python, onnxruntime=onnxruntime)
    return jetpack, _JetPack(software, capabilities)


# https://developer.nvidia.com/embedded/jetpack-archive; Python is that of the Ubuntu inside: 20.04, 22.04, 24.04.
# The last onnxruntime with wheels for Python 3.8 is 1.19, for 3.10 it is 1.23: https://pypi.org/project/onnxruntime/
# JetPack 5's own Python is older than the 3.10 that edgefleet's agent needs: there, install another beside it.
_RELEASES: Final = dict(
    (
        _release("5.1", "8.5", "11.4", "3.8", "1.19", _ORIN),  # developer.nvidia.com/embedded/jetpack-sdk-51
        _release("6.0", "8.6", "12.2", "3.10", "1.23", _ORIN),  # .../jetpack-sdk-60
        _release("6.1", "10.3", "12.6", "3.10", "1.23", _ORIN),  # .../jetpack-sdk-61
        _release("6.2", "10.3", "12.6", "3.10", "1.23", _ORIN),  # .../jetpack-sdk-62
        _release("7.0", "10.13", "13.0", "3.12", None, _THOR),  # developer.nvidia.com/embedded/jetpack
        _release("7.1", "10.13", "13.0", "3.12", None, _THOR),  # same page
        _release("7.2", "10.16", "13.2", "3.12", None, _ORIN, _THOR),  # same page
    )
)
# Modules that came later than the rest of their family: 7.1 is the first for every Thor module (same page).
_FIRST_RELEASE: Final = {"jetson-thor-t4000": "7.1"}


def jetpacks_of(profile: Profile) -> tuple[str, ...]:
    """The JetPacks that there are for this profile's device, oldest first; none for what is no Jetson.

    >>> import device_profiles
    >>> jetpacks_of(device_profiles.load("jetson-thor-t4000"))
    ('7.1', '7.2')
    """
    if profile.software.jetpack is None:
        return ()
    found = [version for version, one in _RELEASES.items() if profile.compute_capability in one.capabilities]
    first = _FIRST_RELEASE.get(profile.name, found[0])
    return tuple(found[found.index(first) :])


def with_jetpack(profile: Profile, version: str) -> Profile:
    """`profile` with the software of JetPack `version` ("7.2") in place of its own.

    Raises UnknownJetPack, whose text lists the known ones: for a version that does not exist, one that does not exist
    for this device, or a device that is no Jetson.
    """
    known = jetpacks_of(profile)
    if not known:
        raise UnknownJetPack(f"{profile.name} is no Jetson and has no JetPack", known)
    if version not in _RELEASES:
        raise UnknownJetPack(f"unknown JetPack {version!r} for {profile.name}", known)
    if version not in known:
        raise UnknownJetPack(f"there is no JetPack {version} for {profile.name}", known)
    before = profile.software.jetpack
    return msgspec.structs.replace(
        profile,
        device=profile.device.replace(f"JetPack {before}", f"JetPack {version}"),
        software=_RELEASES[version].software,
    )
