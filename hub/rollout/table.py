"""How rollouts look in a terminal. Takes the documents of `view.py`; what nodes say is text, never markup."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from hub.rollout.view import View, size


def rollouts_table(documents: list[View]) -> Table:
    """One row for each rollout, the last one first."""
    table = Table("rollout", "bundle", "status", "wave", "nodes", "travelled", "why")
    for one in reversed(documents):
        phases = ", ".join(f"{count} {phase}" for phase, count in one["phases"].items())
        known = one["status"] != "damaged"
        bundle, wave = (
            (f"{one['bundle']} v{one['version']}", f"{one['wave']} of {one['waves']}") if known else ("?", "?")
        )
        cells = (one["name"], bundle, one["status"], wave)
        table.add_row(*map(Text, (*cells, phases, size(one["fetched_bytes"]), one["why"])))
    return table


def nodes_table(one: View) -> Table:
    """One row for each node of a rollout."""
    table = Table("node", "wave", "phase", "travelled", "trial", "why")
    for row in one["nodes"]:
        far = row["progress"]
        phase = row["phase"] if far is None else f"{row['phase']} {100 * far:.0f}%"
        table.add_row(
            *map(Text, (row["node"], str(row["wave"] + 1), phase, size(row["fetched_bytes"]), _trial(row), row["why"]))
        )
    return table


def _trial(row: View) -> str:
    if not row["answered"] and not row["failed"]:
        return ""
    slower = "" if row["slower"] is None else f", {100 * row['slower']:+.0f}%"
    return f"{row['answered']} answered, {row['failed']} failed{slower}"
