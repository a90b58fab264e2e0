"""What is installed: the pins, the Makefile, and the wheel in an environment that has only the base."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("device_profiles", "edge_agent", "exporter", "hub")
COMMANDS = ("edge-export", "edge-agent", "edge-hub", "edge-ask")
# What runs on a device of JetPack 6, and what the tests need there.
ON_310 = ("agent", "hub", "postgres", "otel", "signing", "dev")
ON_311 = (*ON_310, "exporter", "tensorrt", "bench")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml, with [tool.setuptools] beside it."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return {**table["project"], "setuptools": table["tool"]["setuptools"]}


@pytest.fixture(scope="module")
def pins() -> list[Requirement]:
    """The lines of constraints.txt."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def pinned(pins: list[Requirement], python: str) -> dict[str, str]:
    """Version by name of the pins that hold on one Python."""
    found: dict[str, str] = {}
    for pin in pins:
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} is pinned twice for Python {python}"
            found[name] = str(pin.specifier).removeprefix("==")
    return found


def test_constraints_pin_exact_public_versions(pins: list[Requirement]) -> None:
    """Every line is one exact version that any index can have: no range, URL, path or local version."""
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        assert pin.url is None, pin
        assert Version(specifier.version).local is None, pin
        assert str(Version(specifier.version)) == specifier.version, pin


@pytest.mark.parametrize(("python", "extras"), [("3.10", ON_310), ("3.11", ON_311)])
def test_every_direct_requirement_is_pinned_to_what_it_allows(
    project: dict[str, Any], pins: list[Requirement], python: str, extras: tuple[str, ...]
) -> None:
    """Whatever pyproject.toml asks for is pinned for each Python that was tested, inside the asked range."""
    versions = pinned(pins, python)
    wanted = [*project["dependencies"]]
    wanted += [line for extra in extras for line in project["optional-dependencies"][extra]]
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            version = versions.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement.name} is not pinned for Python {python}"
            assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


@pytest.mark.parametrize(
    ("machine", "system", "wanted"),
    [("x86_64", "linux", True), ("aarch64", "linux", False), ("x86_64", "win32", False), ("arm64", "darwin", False)],
)
def test_tensorrt_extra_is_empty_where_it_has_no_wheel(
    project: dict[str, Any], machine: str, system: str, wanted: bool
) -> None:
    """`make setup` names the extra everywhere; only x86-64 Linux then installs something for it."""
    assert "tensorrt," in (ROOT / "Makefile").read_text("utf-8")
    here = {"platform_machine": machine, "sys_platform": system}
    for requirement in map(Requirement, project["optional-dependencies"]["tensorrt"]):
        assert requirement.marker is not None
        assert requirement.marker.evaluate(here) == wanted


def test_this_run_uses_the_pinned_versions(project: dict[str, Any], pins: list[Requirement]) -> None:
    """The versions that the tests run with are the ones that constraints.txt calls tested."""
    versions = pinned(pins, "{}.{}".format(*sys.version_info[:2]))
    extras = project["optional-dependencies"]
    here = closure(direct([*project["dependencies"], *(line for extra in ON_310 for line in extras[extra])]))
    assert len(here) > 30
    strays = {name: version for name, version in here.items() if versions.get(name) != Version(version).public}
    assert not strays, f"not what constraints.txt pins: {strays}"


def direct(requirements: list[str]) -> tuple[str, ...]:
    """The names among these requirement lines that are required on this Python."""
    wanted = map(Requirement, requirements)
    return tuple(each.name for each in wanted if each.marker is None or each.marker.evaluate())


def closure(names: tuple[str, ...]) -> dict[str, str]:
    """Version by name of installed distributions: these, and all that they require in turn without extras."""
    found: dict[str, str] = {}
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            distribution = importlib.metadata.distribution(name)
            found[name] = distribution.version
            needs = [Requirement(line) for line in distribution.requires or ()]
            needed = [each for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
            waiting += [canonicalize_name(each.name) for each in needed]
    return found


def test_every_package_folder_is_in_the_wheel(project: dict[str, Any]) -> None:
    """A folder with an __init__.py that is missing from the list of packages would not be installed."""
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(project["setuptools"]["packages"]) == folders


def test_the_four_commands_are_entry_points(project: dict[str, Any]) -> None:
    """The four commands, and only they, are installed."""
    assert tuple(project["scripts"]) == COMMANDS


def test_changelog_speaks_of_this_version(project: dict[str, Any]) -> None:
    """The newest entry of CHANGELOG.md is the version in pyproject.toml, or what is not released yet."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert project["version"] in headings
    assert next(heading for heading in headings if heading != "Unreleased") == project["version"]


def test_licence_file_is_the_declared_one(project: dict[str, Any]) -> None:
    """The licence that is declared is the one whose text ships."""
    assert project["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text("utf-8")


def test_python_floor_is_that_of_jetpack_6(project: dict[str, Any]) -> None:
    """Python 3.10 is allowed, 3.9 is not."""
    allowed = SpecifierSet(project["requires-python"])
    assert allowed.contains("3.10.0")
    assert not allowed.contains("3.9.18")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["setup", "demo", "test", "check", "bench", "bench-agent", "models", "clean"])
def test_make_knows_the_target(target: str) -> None:
    """`make --dry-run TARGET` finds every rule and file that the target needs."""
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_setup_refuses_an_old_python_in_one_line(tmp_path: Path) -> None:
    """With a Python below 3.10, `make setup` makes nothing and says which Python it found and what to do."""
    old = tmp_path / "python3"
    pretend = "import sys; sys.version_info = (3, 9, 18); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", f"PYTHON={old}", "setup"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is Python 3.9, edgefleet needs 3.10 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


# --- the wheel ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(project: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that holds the built wheel and the base requirements, nothing else.

    It is made without an index, so that the test runs wherever the others do: the base requirements are
    linked, distribution by distribution, from the environment of this run. No extra is reachable from it.
    """
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, sources)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(sources))
    (wheel,) = folder.glob("*.whl")

    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    (site_packages,) = environment.glob("lib/python3*/site-packages")
    link_base_requirements(site_packages, project["dependencies"])
    python = str(environment / "bin" / "python")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    )
    run(sys.executable, "-m", "pip", "--python", python, "check")
    return environment / "bin"


def link_base_requirements(site_packages: Path, requirements: list[str]) -> None:
    """Make the base requirements, and what they require, importable from `site_packages`."""
    for name in closure(direct(requirements)):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            source = Path(str(distribution.locate_file(top)))
            if top != "__pycache__" and source.exists() and not (site_packages / top).exists():
                (site_packages / top).symlink_to(source)


def run(*command: str, cwd: Path | None = None) -> str:
    """What the command printed; fails the test with its errors where it fails. Sees none of our own paths."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_wheel_alone_lists_profiles(installed: Path, tmp_path: Path) -> None:
    """In an empty environment with only the base, `edge-export --list-profiles` lists every profile."""
    text = run(str(installed / "edge-export"), "--list-profiles", cwd=tmp_path)
    for name in ("desktop-cpu", "desktop-rtx-5090", "jetson-orin", "jetson-thor-t5000"):
        assert name in text


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_wheel_alone_shows_help(installed: Path, tmp_path: Path, command: str) -> None:
    """In an empty environment with only the base, every command explains itself."""
    assert "Usage: " in run(str(installed / command), "--help", cwd=tmp_path)


@pytest.mark.slow
def test_wheel_environment_has_no_extra(installed: Path, tmp_path: Path) -> None:
    """The environment of these tests is honest: what only an extra brings is not importable there."""
    absent = ("torch", "onnxruntime", "sqlalchemy", "iotcore", "pytest")
    script = f"import importlib.util as u; print([name for name in {absent!r} if u.find_spec(name)])"
    assert run(str(installed / "python"), "-c", script, cwd=tmp_path).strip() == "[]"
