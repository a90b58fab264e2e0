"""Runs every benchmark here, each in a process of its own: their tables, then one JSON line for all.

    python benchmarks/run.py [NAME...]

A benchmark is a file `bench_NAME.py` that prints a table and, last, one line of JSON. Knows nothing of what
they measure. Exits with 1 if one of them fails, after running the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_one(script: Path) -> Any:
    """Run one benchmark, pass its table through, and return its last line as JSON; None where it failed."""
    last = ""
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(last, end="", flush=True)
            last = line
    if process.returncode != 0:
        print(last, end="")
        print(f"{script.name} failed with exit code {process.returncode}", file=sys.stderr)
        return None
    print()
    return json.loads(last)


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all of them in alphabetical order."""
    found = {path.stem.removeprefix("bench_"): path for path in sorted(Path(__file__).parent.glob("bench_*.py"))}
    unknown = [name for name in names if name not in found]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}: there are {', '.join(found)}", file=sys.stderr)
        return 2
    results = {}
    for name in names or found:
        print(f"== {name}", flush=True)
        results[name] = run_one(found[name])
    print(json.dumps(results))
    return 1 if None in results.values() else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
