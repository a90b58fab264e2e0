"""A measurement belongs to the machine it was taken on."""

from __future__ import annotations

import platform

from device_profiles import profile
from exporter import machine


def test_only_a_cpu_of_this_kind_is_this_machine() -> None:
    """A figure taken here is no figure of a Jetson or of a graphics card."""
    assert machine.stands_for(profile.load("desktop-cpu")) == (platform.machine() == "x86_64")
    for name in profile.names():
        if name != "desktop-cpu":
            assert not machine.stands_for(profile.load(name))


def test_the_description_names_processor_and_threads() -> None:
    """Who reads the manifest elsewhere can tell what was measured on."""
    said = machine.description(3)
    assert "3 threads" in said
    assert platform.machine() in said
