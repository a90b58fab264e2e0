"""A Jetson with another JetPack: what it brings, and what is refused."""

from __future__ import annotations

import pytest

import device_profiles
from device_profiles import UnknownJetPack
from device_profiles.jetpack import jetpacks_of, with_jetpack

JETSONS = [name for name in device_profiles.names() if name.startswith("jetson-")]


def test_jetpack_brings_its_software() -> None:
    """An Orin with JetPack 7.2 has that JetPack's TensorRT, CUDA and Python, and is the same device otherwise."""
    before = device_profiles.load("jetson-orin")
    after = with_jetpack(before, "7.2")
    software = after.software
    assert (software.jetpack, software.tensorrt, software.cuda, software.python) == ("7.2", "10.16", "13.2", "3.12")
    assert after.device == "any Jetson Orin with JetPack 7.2"
    assert (after.name, after.memory_bytes, after.precisions) == (before.name, before.memory_bytes, before.precisions)


@pytest.mark.parametrize("name", JETSONS)
def test_profile_says_what_its_own_jetpack_brings(name: str) -> None:
    """The software in a profile's file is that of the table, so that naming its own JetPack changes nothing."""
    profile = device_profiles.load(name)
    assert profile.software.jetpack is not None
    assert with_jetpack(profile, profile.software.jetpack) == profile


def test_every_family_has_its_jetpacks() -> None:
    """Orin runs 5.1 to 6.2 and 7.2; Thor runs 7.0 and newer, its T4000 7.1 and newer; a desktop runs none."""
    assert jetpacks_of(device_profiles.load("jetson-agx-orin-64gb")) == ("5.1", "6.0", "6.1", "6.2", "7.2")
    assert jetpacks_of(device_profiles.load("jetson-thor-t5000")) == ("7.0", "7.1", "7.2")
    assert jetpacks_of(device_profiles.load("jetson-thor-t4000")) == ("7.1", "7.2")
    assert jetpacks_of(device_profiles.load("desktop-gb10")) == ()


@pytest.mark.parametrize(
    ("name", "version", "why"),
    [
        ("jetson-orin", "9.9", "unknown JetPack '9.9' for jetson-orin: choose one of 5.1, 6.0, 6.1, 6.2, 7.2"),
        ("jetson-orin", "7.1", "there is no JetPack 7.1 for jetson-orin: choose one of 5.1"),
        ("jetson-thor-t5000", "6.2", "there is no JetPack 6.2 for jetson-thor-t5000: choose one of 7.0, 7.1, 7.2"),
        ("jetson-thor-t4000", "7.0", "there is no JetPack 7.0 for jetson-thor-t4000: choose one of 7.1, 7.2"),
        ("desktop-rtx-4090", "6.2", "desktop-rtx-4090 is no Jetson and has no JetPack: leave --jetpack out"),
    ],
)
def test_combination_that_does_not_exist_is_refused(name: str, version: str, why: str) -> None:
    """What NVIDIA never released is refused in one line that lists what there is."""
    with pytest.raises(UnknownJetPack) as caught:
        with_jetpack(device_profiles.load(name), version)
    assert str(caught.value).startswith(why)
