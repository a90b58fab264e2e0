"""What one kind of device can do: the schema of a profile, and how its TOML file is read.

Knows nothing of models or bundles, and nothing of the machine it runs on: a figure that a profile cannot know
(the memory of "some desktop") is None, and whoever needs it asks the machine. Frozen values only.
"""

from __future__ import annotations

import sys
from difflib import SequenceMatcher
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from device_profiles.errors import InvalidProfile, UnknownProfile

if sys.version_info >= (3, 11):
    import tomllib
else:  # JetPack 6 is Python 3.10
    import tomli as tomllib

Precision = Literal["fp32", "fp16", "fp8", "int8", "fp4", "int4"]
Runtime = Literal["tensorrt", "tensorrt-rtx", "cuda", "cpu"]

Name = Annotated[str, Meta(pattern="^[a-z0-9]+(-[a-z0-9]+)*$")]
Version = Annotated[str, Meta(pattern=r"^\d+(\.\d+)*$")]
ComputeCapability = Annotated[str, Meta(pattern=r"^\d+\.\d$")]
Bytes = Annotated[int, Meta(gt=0)]
GigabytesPerSecond = Annotated[float, Meta(gt=0)]

# The oldest compute capability whose tensor cores take the format
# (TensorRT-RTX 1.5 support matrix, table "Supported Hardware"; Thor's 11.0 lies above both).
_FIRST_CAPABILITY: Final[dict[str, tuple[int, int]]] = {"fp8": (8, 9), "fp4": (10, 0)}
_MARK: Final = "*"

COLUMNS: Final = ("profile", "device", "memory", "GB/s", "SM", "precisions", "runtimes", "software")
UNSOURCED_NOTE: Final = f"{_MARK} no published source; an orientation only"


class Software(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Versions that the device brings. None: the profile does not fix it, or the device has no such thing.

    `onnxruntime` is the newest release that installs there; None means no limit is known.
    """

    jetpack: Version | None = None
    tensorrt: Version | None = None
    tensorrt_rtx: Version | None = None
    cuda: Version | None = None
    python: Version | None = None
    onnxruntime: Version | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of device.

    `memory_bytes` and `memory_bandwidth_gb_per_s` (10^9 bytes per second) belong to the memory that holds the
    weights: the GPU's own, or the one that CPU and GPU share (`shared_memory`). None: each machine decides.
    `precisions` is what the device runs and gains from, fewest bits first; `runtimes` is best first.
    `unsourced` names the fields whose figure has no published source.
    """

    name: Name
    device: str
    aliases: tuple[Name, ...] = ()
    architecture: Literal["x86_64", "aarch64"]
    compute_capability: ComputeCapability | None = None
    memory_bytes: Bytes | None = None
    memory_bandwidth_gb_per_s: GigabytesPerSecond | None = None
    shared_memory: bool
    precisions: tuple[Precision, ...]
    runtimes: tuple[Runtime, ...]
    software: Software
    unsourced: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for why in _contradictions(self):
            raise ValueError(why)


def first_capability(precision: str) -> tuple[int, int] | None:
    """The oldest compute capability whose tensor cores take `precision`; None if that is not what limits it.

    >>> first_capability("fp8"), first_capability("int8")
    ((8, 9), None)
    """
    return _FIRST_CAPABILITY.get(precision)


def _contradictions(profile: Profile) -> list[str]:
    """Every way in which the fields of a profile exclude each other."""
    found = []
    capability = profile.compute_capability
    number = tuple(int(part) for part in capability.split(".")) if capability else None
    for precision, first in _FIRST_CAPABILITY.items():
        if precision in profile.precisions and (number is None or number < first):
            found.append(f"{precision} needs compute capability {first[0]}.{first[1]}, this is {capability}")
    if not profile.runtimes or profile.runtimes[-1] != "cpu":
        found.append("runtimes must end with cpu, which every device has")
    if capability is None and profile.runtimes != ("cpu",):
        found.append("a device without compute_capability has no runtime but cpu")
    if "tensorrt" in profile.runtimes and profile.software.tensorrt is None:
        found.append("runtime tensorrt needs software.tensorrt")
    if "tensorrt-rtx" in profile.runtimes and profile.software.tensorrt_rtx is None:
        found.append("runtime tensorrt-rtx needs software.tensorrt_rtx")
    if profile.precisions[-1:] != ("fp32",):
        found.append("precisions must end with fp32, which every device runs")
    known = {*Profile.__struct_fields__, *Software.__struct_fields__}
    strangers = [field for field in profile.unsourced if field not in known]
    return found + [f"unsourced names {field!r}, which is no field" for field in strangers]


def parse(name: str, text: str) -> Profile:
    """The profile `name` from the text of its TOML file. Raises InvalidProfile.

    The file's name is the profile's name, so the file must not give one.
    """
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidProfile(name, str(error)) from error
    if "name" in table:
        raise InvalidProfile(name, "it has a key `name`; the file's own name is the profile's name")
    try:
        return msgspec.convert({**table, "name": name}, Profile)
    except msgspec.ValidationError as error:
        raise InvalidProfile(name, str(error)) from error


@cache
def _profiles() -> dict[str, Profile]:
    """Every profile that ships with this package, by name, sorted."""
    found = {
        entry.name[: -len(".toml")]: entry.read_text(encoding="utf-8")
        for entry in files("device_profiles").iterdir()
        if entry.name.endswith(".toml")
    }
    return {name: parse(name, found[name]) for name in sorted(found)}


@cache
def _aliases() -> dict[str, str]:
    """Profile name by alias. Raises InvalidProfile where two profiles claim one name."""
    owners: dict[str, str] = {}
    for profile in _profiles().values():
        for alias in profile.aliases:
            if alias in owners or alias in _profiles():
                raise InvalidProfile(profile.name, f"alias {alias!r} is taken")
            owners[alias] = profile.name
    return owners


def names() -> tuple[str, ...]:
    """The names of all profiles, sorted; aliases are not among them."""
    return tuple(_profiles())


def load(name: str) -> Profile:
    """The profile called `name`, or of which `name` is an alias.

    Raises UnknownProfile, whose text gives the nearest names.

    >>> load("cpu").name
    'desktop-cpu'
    """
    profile = _profiles().get(_aliases().get(name, name))
    if profile is None:
        raise UnknownProfile(name, nearest_names(name))
    return profile


def nearest_names(name: str, count: int = 3) -> tuple[str, ...]:
    """The `count` names and aliases most like `name`, best first.

    Names that contain `name` come before names that only look like it (Ratcliff-Obershelp ratio).
    """

    def likeness(candidate: str) -> tuple[bool, float]:
        return name.lower() in candidate, SequenceMatcher(None, name.lower(), candidate).ratio()

    return tuple(sorted((*_profiles(), *_aliases()), key=likeness, reverse=True)[:count])


def table_rows() -> tuple[tuple[str, ...], ...]:
    """One row of text per profile, in the order of `COLUMNS`; `UNSOURCED_NOTE` explains the mark."""
    return tuple(_row(profile) for profile in _profiles().values())


def _row(profile: Profile) -> tuple[str, ...]:
    def shown(field: str, text: str) -> str:
        return text + _MARK if field in profile.unsourced else text

    memory, bandwidth = profile.memory_bytes, profile.memory_bandwidth_gb_per_s
    shared = ", shared" if profile.shared_memory and memory else ""
    software = [
        shown(field, f"{field.replace('_', '-')} {version}")
        for field, version in msgspec.structs.asdict(profile.software).items()
        if version is not None
    ]
    return (
        profile.name,
        shown("device", profile.device),
        shown("memory_bytes", f"{memory / 2**30:g} GiB{shared}" if memory else "the machine's"),
        shown("memory_bandwidth_gb_per_s", f"{bandwidth:g}" if bandwidth else "the machine's"),
        shown("compute_capability", profile.compute_capability or "-"),
        shown("precisions", " ".join(profile.precisions)),
        shown("runtimes", " ".join(profile.runtimes)),
        ", ".join(software) or "-",
    )
