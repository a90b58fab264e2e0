"""Profiles as users of the package see them: what ships, what is refused, what an unknown name gets."""

from __future__ import annotations

import re
from importlib.resources import files

import msgspec
import pytest

import device_profiles
from device_profiles import InvalidProfile, UnknownProfile
from device_profiles.profile import COLUMNS, UNSOURCED_NOTE

EXPECTED = {
    "desktop-cpu",
    *(f"desktop-rtx-{model}" for model in ("3060", "3080", "4060", "4090", "5090")),
    "desktop-gb10",
    "jetson-orin",
    "jetson-orin-nano-4gb",
    "jetson-orin-nano-8gb",
    "jetson-orin-nx-8gb",
    "jetson-orin-nx-16gb",
    "jetson-agx-orin-32gb",
    "jetson-agx-orin-64gb",
    "jetson-thor-t4000",
    "jetson-thor-t5000",
}

VALID = """
device = "a box"
architecture = "aarch64"
compute_capability = "8.7"
memory_bytes = 4294967296
shared_memory = true
precisions = ["int4", "fp16", "fp32"]
runtimes = ["tensorrt", "cpu"]
[software]
tensorrt = "10.3"
"""


def test_ships_every_promised_profile() -> None:
    """The profiles that the design promises ship, and no others."""
    assert set(device_profiles.names()) == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_profile_loads_under_its_own_name(name: str) -> None:
    """Each file obeys the schema and is found under the name of the file."""
    assert device_profiles.load(name).name == name


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("cpu", "desktop-cpu"),
        ("orin", "jetson-orin"),
        ("rtx-4090", "desktop-rtx-4090"),
        ("gb10", "desktop-gb10"),
    ],
)
def test_alias_names_its_profile(alias: str, name: str) -> None:
    """A short name loads the profile that claims it."""
    assert device_profiles.load(alias).name == name


def test_every_alias_is_claimed_once_and_shadows_no_profile() -> None:
    """No alias is claimed twice or hides a profile, so that a name means one thing."""
    claimed = [alias for name in device_profiles.names() for alias in device_profiles.load(name).aliases]
    assert len(claimed) == len(set(claimed))
    assert not set(claimed) & set(device_profiles.names())


def test_orin_family_promises_no_more_than_its_smallest_member() -> None:
    """What the family profile says is true of every Orin profile."""
    family = device_profiles.load("jetson-orin")
    members = [device_profiles.load(name) for name in device_profiles.names() if "orin-" in name]
    assert len(members) == 6
    assert family.memory_bytes == min(member.memory_bytes or 0 for member in members) == 4 * 2**30
    assert family.memory_bandwidth_gb_per_s == min(member.memory_bandwidth_gb_per_s or 0 for member in members)
    for member in members:
        assert member.software == family.software
        assert member.compute_capability == family.compute_capability == "8.7"
        assert set(family.precisions) <= set(member.precisions)
        assert family.runtimes == member.runtimes


def test_orin_family_is_jetpack_62() -> None:
    """The family is what JetPack 6.2 brings."""
    software = device_profiles.load("jetson-orin").software
    assert (software.jetpack, software.tensorrt, software.cuda) == ("6.2", "10.3", "12.6")
    assert (software.python, software.onnxruntime) == ("3.10", "1.23")


def test_desktop_cpu_leaves_memory_to_the_machine() -> None:
    """Some desktop's memory is no constant: the profile gives none instead of a guess."""
    cpu = device_profiles.load("desktop-cpu")
    assert cpu.memory_bytes is None
    assert cpu.memory_bandwidth_gb_per_s is None
    assert cpu.runtimes == ("cpu",)


def test_sizes_are_whole_gibibytes() -> None:
    """Memory sizes are counted in powers of two; a slip of the pen would not be a whole number of them."""
    for name in device_profiles.names():
        memory = device_profiles.load(name).memory_bytes
        assert memory is None or memory % 2**30 == 0, name


def test_every_figure_has_a_source_or_the_mark() -> None:
    """A line with a capacity, bandwidth or capability names its source, or its field is marked."""
    figures = ("compute_capability", "memory_bytes", "memory_bandwidth_gb_per_s")
    for name in device_profiles.names():
        text = (files("device_profiles") / f"{name}.toml").read_text(encoding="utf-8")
        unsourced = device_profiles.load(name).unsourced
        for line in text.splitlines():
            field = line.split(" ")[0]
            if field in figures and field not in unsourced:
                assert re.search(r"# .*(https://|same page|whitepaper)", line), f"{name}: {line}"


def test_unknown_name_gives_the_nearest() -> None:
    """A slip in a name is answered with the names that come closest."""
    with pytest.raises(UnknownProfile, match=r"unknown profile 'jetson-orin-nano': .*jetson-orin-nano-8gb") as caught:
        device_profiles.load("jetson-orin-nano")
    assert caught.value.nearest[:2] == ("jetson-orin-nano-4gb", "jetson-orin-nano-8gb")
    assert device_profiles.nearest_names("rtx4090")[0] == "rtx-4090"
    assert "\n" not in str(caught.value)


def test_profile_is_frozen() -> None:
    """A profile that was handed out cannot be changed under another reader."""
    with pytest.raises(AttributeError):
        device_profiles.load("cpu").device = "another"  # type: ignore[misc]


def test_valid_text_parses() -> None:
    """The text that the refusals below start from is itself accepted."""
    assert device_profiles.parse("a-box", VALID).compute_capability == "8.7"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("shared_memory = true", "shared_memory = true\nfans = 2", "unknown field `fans`"),
        ("shared_memory = true", "", "missing required field `shared_memory`"),
        ("4294967296", '"4 GB"', "Expected `int"),
        ("4294967296", "0", ">= 1"),
        ("4294967296", "", "Invalid value"),
        ('"8.7"', '"sm87"', "matching regex"),
        ('"int4"', '"int3"', "Invalid enum value 'int3'"),
        ('"int4"', '"fp8"', "fp8 needs compute capability 8.9, this is 8.7"),
        ('"int4"', '"fp4"', "fp4 needs compute capability 10.0"),
        (', "fp32"]', "]", "precisions must end with fp32"),
        (', "cpu"]', "]", "runtimes must end with cpu"),
        ('compute_capability = "8.7"', "", "no runtime but cpu"),
        ('tensorrt = "10.3"', "", "needs software.tensorrt"),
        ('"tensorrt",', '"tensorrt-rtx",', "needs software.tensorrt_rtx"),
        ("shared_memory", 'unsourced = ["speed"]\nshared_memory', "unsourced names 'speed'"),
        ("shared_memory", 'name = "another"\nshared_memory', "the file's own name"),
    ],
)
def test_contradiction_is_refused_with_its_reason(old: str, new: str, why: str) -> None:
    """A profile that breaks the schema, or contradicts itself, is refused by name with the reason."""
    assert old in VALID
    with pytest.raises(InvalidProfile, match=r"profile a-box is not valid") as caught:
        device_profiles.parse("a-box", VALID.replace(old, new))
    assert why in str(caught.value)


def test_table_has_one_row_per_profile_and_marks_what_has_no_source() -> None:
    """The table lists every profile in full columns; an unsourced figure carries the mark of the note."""
    rows = device_profiles.table_rows()
    assert [row[0] for row in rows] == list(device_profiles.names())
    assert {len(row) for row in rows} == {len(COLUMNS)}
    mark = UNSOURCED_NOTE[0]
    marked = {row[0] for row in rows if any(mark in cell for cell in row)}
    assert marked == {name for name in device_profiles.names() if device_profiles.load(name).unsourced}
    by_name = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows}
    assert by_name["desktop-rtx-3060"]["GB/s"] == "360*"
    assert by_name["jetson-orin"]["memory"] == "4 GiB, shared"
    assert by_name["desktop-cpu"]["memory"] == "the machine's"


def test_profile_survives_json() -> None:
    """A profile written as JSON and read back is the same value."""
    for name in device_profiles.names():
        profile = device_profiles.load(name)
        assert msgspec.json.decode(msgspec.json.encode(profile), type=device_profiles.Profile) == profile
