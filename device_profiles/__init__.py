"""What can this kind of device do? One TOML file per device, read into a frozen schema."""

from device_profiles.errors import InvalidProfile, ProfileError, UnknownJetPack, UnknownProfile
from device_profiles.jetpack import with_jetpack
from device_profiles.profile import (
    COLUMNS,
    UNSOURCED_NOTE,
    Precision,
    Profile,
    Runtime,
    Software,
    first_capability,
    load,
    names,
    nearest_names,
    parse,
    table_rows,
)

__all__ = [
    "COLUMNS",
    "UNSOURCED_NOTE",
    "InvalidProfile",
    "Precision",
    "Profile",
    "ProfileError",
    "Runtime",
    "Software",
    "UnknownJetPack",
    "UnknownProfile",
    "first_capability",
    "load",
    "names",
    "nearest_names",
    "parse",
    "table_rows",
    "with_jetpack",
]
