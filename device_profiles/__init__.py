"""What can this kind of device do? One TOML file per device, read into a frozen schema."""

from device_profiles.errors import InvalidProfile, ProfileError, UnknownProfile
from device_profiles.profile import (
    COLUMNS,
    UNSOURCED_NOTE,
    Precision,
    Profile,
    Runtime,
    Software,
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
    "UnknownProfile",
    "load",
    "names",
    "nearest_names",
    "parse",
    "table_rows",
]
