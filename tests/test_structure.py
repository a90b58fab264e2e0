"""The shape of the repository: tests mirror the sources; device code is light and runs on Python 3.10.

Reads the sources as text and syntax trees; the order of the packages themselves is import-linter's business.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("device_profiles", "edge_agent", "exporter", "hub")
DEVICE_PACKAGES = (
    "device_profiles",
    "edge_agent",
    "hub",
)  # what is installed on a Jetson: Python 3.10, no PyTorch

# Modules without a test file of their own, and why.
UNTESTED = {
    "device_profiles/errors.py": "the tree of errors; whoever raises one tests it",
    "edge_agent/deploy/events.py": "values without behaviour, spoken by test_plan",
    "edge_agent/deploy/host.py": "a protocol without behaviour; the type checker holds its fakes to it",
    "edge_agent/events.py": "values without behaviour, spoken by test_core",
    "edge_agent/options.py": "two declarations, used by every command that test_cli and test_serve_cli run",
    "edge_agent/errors.py": "the tree of errors; whoever raises one tests it",
    "exporter/errors.py": "the tree of errors; whoever raises one tests it",
    "exporter/order.py": "values without behaviour, given by test_cli and test_pipeline",
    "hub/errors.py": "the tree of errors; whoever raises one tests it",
    "hub/provision/subject.py": "names only, given by test_register and test_acl",
    "hub/report/figures.py": "values without behaviour, computed by test_groups",
    "hub/store/migrations/env.py": "what alembic runs; test_migrate runs it",
    "hub/store/migrations/versions/v0001_questions.py": "a step that test_migrate takes",
    "hub/store/migrations/versions/v0002_hedged.py": "a step that test_migrate takes",
    "hub/store/migrations/versions/v0003_stages.py": "a step that test_migrate takes",
    "hub/events.py": "values without behaviour, spoken by test_core",
    "hub/running_hub.py": "a protocol without behaviour; HubService is held to it by the type checker",
}

FORBIDDEN_ON_DEVICE = {
    "torch",
    "transformers",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "optimum",
    "gguf",
    "exporter",
}

# Names of the standard library that came after 3.10 and that this project could be tempted by.
NEWER_MODULES = {"tomllib"}
NEWER_BUILTINS = {"ExceptionGroup", "BaseExceptionGroup", "PythonFinalizationError"}
NEWER_NAMES = {
    "asyncio": {"Barrier", "Runner", "TaskGroup", "timeout", "timeout_at"},
    "collections.abc": {"Buffer"},
    "contextlib": {"chdir"},
    "datetime": {"UTC"},
    "enum": {"EnumCheck", "ReprEnum", "StrEnum", "member", "nonmember", "verify"},
    "hashlib": {"file_digest"},
    "importlib.resources.abc": {"Traversable"},
    "inspect": {"getmembers_static", "markcoroutinefunction"},
    "itertools": {"batched"},
    "logging": {"getHandlerByName", "getHandlerNames", "getLevelNamesMapping"},
    "math": {"cbrt", "exp2", "fma", "sumprod"},
    "operator": {"call"},
    "os": {"process_cpu_count"},
    "typing": {
        *("LiteralString", "Never", "NotRequired", "ReadOnly", "Required", "Self", "TypeAliasType", "TypeIs"),
        *("TypeVarTuple", "Unpack", "assert_never", "assert_type", "dataclass_transform", "override"),
        *("reveal_type",),
    },
}


def sources(*packages: str) -> list[Path]:
    """Every Python file of the packages."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """The path of a source file as this repository speaks of it."""
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Every import of a file, wherever it stands: module, names taken from it, line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (), node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", tuple(alias.name for alias in node.names), node.lineno


def below_a_version_check(tree: ast.AST) -> set[int]:
    """The lines that stand below an `if sys.version_info ...`."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "sys.version_info" in ast.unparse(node.test)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def index(node: ast.Subscript) -> list[ast.expr]:
    """What stands between the brackets."""
    return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]


def newer_than_python_310(text: str) -> list[str]:
    """What in this text does not run on Python 3.10, each as `line: what`."""
    try:
        tree = ast.parse(text, feature_version=(3, 10))
    except SyntaxError as error:
        return [f"{error.lineno}: {error.msg}"]
    checked = below_a_version_check(tree)
    found = []
    for module, names, line in imported(tree):
        if module in NEWER_MODULES and line not in checked:
            found.append(f"{line}: module {module}")
        found += [f"{line}: {module}.{name}" for name in names if name in NEWER_NAMES.get(module, ())]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in NEWER_NAMES.get(node.value.id, ()):
                found.append(f"{node.lineno}: {node.value.id}.{node.attr}")
        elif isinstance(node, ast.Name) and node.id in NEWER_BUILTINS:
            found.append(f"{node.lineno}: {node.id}")
        elif isinstance(node, ast.Subscript) and any(isinstance(part, ast.Starred) for part in index(node)):
            found.append(f"{node.lineno}: star in an index")
        elif type(node).__name__ in {"TypeAlias", "TryStar"}:
            found.append(f"{getattr(node, 'lineno', 0)}: {type(node).__name__}")
        elif getattr(node, "type_params", None):
            found.append(f"{getattr(node, 'lineno', 0)}: type parameters")
    return found


def test_every_module_has_its_test_file() -> None:
    """For `package/module.py` there is `tests/package/test_module.py`, or a reason why not."""
    missing = [
        name_of(path)
        for path in sources(*PACKAGES)
        if path.name != "__init__.py"
        and name_of(path) not in UNTESTED
        and not (ROOT / "tests" / path.relative_to(ROOT).parent / f"test_{path.name}").exists()
    ]
    assert not missing, f"no test file in tests/ for {missing}"


def test_every_test_file_has_its_module() -> None:
    """A test file below tests/PACKAGE is named for a module that exists."""
    orphans = [
        name_of(path)
        for package in PACKAGES
        for path in sorted((ROOT / "tests" / package).rglob("test_*.py"))
        if not (ROOT / path.relative_to(ROOT / "tests").parent / path.name.removeprefix("test_")).exists()
    ]
    assert not orphans, f"no source file for {orphans}"


def test_exceptions_from_the_mirror_are_still_needed() -> None:
    """A module that is excused from having a test file exists and has none."""
    for name in UNTESTED:
        path = ROOT / name
        assert path.exists(), name
        assert not (ROOT / "tests" / path.relative_to(ROOT).parent / f"test_{path.name}").exists(), name


def test_every_source_file_says_what_it_is_for() -> None:
    """Each file opens with a docstring."""
    silent = [name_of(path) for path in sources(*PACKAGES) if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert not silent


def test_device_code_never_imports_what_an_export_needs() -> None:
    """No file of the device packages imports PyTorch, transformers or ONNX, not even inside a function."""
    found = [
        f"{name_of(path)}:{line} {module}"
        for path in sources(*DEVICE_PACKAGES)
        for module, _, line in imported(ast.parse(path.read_text("utf-8")))
        if module.split(".")[0] in FORBIDDEN_ON_DEVICE
    ]
    assert not found


@pytest.mark.slow
def test_importing_the_whole_device_loads_nothing_heavy() -> None:
    """Importing every device module loads neither an export's libraries nor OpenTelemetry, ONNX Runtime or TensorRT."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources(*DEVICE_PACKAGES)
        if name_of(path) != "hub/store/migrations/env.py"  # a script that runs inside alembic only
    ]
    heavy = sorted((FORBIDDEN_ON_DEVICE - {"exporter"}) | {"opentelemetry", "onnxruntime", "tensorrt", "tensorrt_rtx"})
    script = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_tensorrt_stays_in_its_one_file() -> None:
    """TensorRT and TensorRT-RTX are imported in one file, by the device and by the exporter through it."""
    importers = {
        name_of(path)
        for path in sources(*PACKAGES)
        for module, _, _ in imported(ast.parse(path.read_text("utf-8")))
        if module.split(".")[0] in {"tensorrt", "tensorrt_rtx"}
    }
    assert importers == {"edge_agent/runtime/tensorrt.py"}


def test_paho_stays_in_its_one_file() -> None:
    """The MQTT library is imported where the link is made, and nowhere else."""
    importers = {
        name_of(path)
        for path in sources(*PACKAGES)
        for module, _, _ in imported(ast.parse(path.read_text("utf-8")))
        if module.split(".")[0] == "paho"
    }
    assert importers == {"hub/mqtt_link.py"}


def test_opentelemetry_stays_in_its_one_file() -> None:
    """Traces are made through `hub/tracing.py`, which does without where they are not wanted."""
    importers = {
        name_of(path)
        for path in sources(*PACKAGES)
        for module, _, _ in imported(ast.parse(path.read_text("utf-8")))
        if module.split(".")[0] == "opentelemetry"
    }
    assert importers == {"hub/tracing.py"}


def test_device_code_runs_on_python_310() -> None:
    """No file of the device packages uses syntax or standard library that came after Python 3.10."""
    found = [
        f"{name_of(path)}:{what}"
        for path in sources(*DEVICE_PACKAGES)
        for what in newer_than_python_310(path.read_text("utf-8"))
    ]
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    pass\nexcept* ValueError:\n    pass",
        "import tomllib",
        "from typing import Self",
        "import datetime\nnow = datetime.UTC",
        "raise ExceptionGroup('several', [])",
        "a: tuple[*b]",
    ],
)
def test_newer_python_is_recognised(text: str) -> None:
    """The check above sees each kind of newer Python."""
    assert newer_than_python_310(text)


def test_guarded_newer_module_is_allowed() -> None:
    """A newer module below a version check is fine: the other branch serves 3.10."""
    text = "import sys\nif sys.version_info >= (3, 11):\n    import tomllib\nelse:\n    import tomli as tomllib"
    assert newer_than_python_310(text) == []


def test_no_source_file_is_named_for_nothing_in_particular() -> None:
    """No module is called utils, helpers, common, misc or manager: a file answers one question."""
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert [name_of(path) for path in sources(*PACKAGES) if path.stem in vague] == []
