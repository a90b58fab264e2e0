"""Builds a meter into a Jinja syntax tree, so that what it is compiled to pays for all it does.

Every loop turn, macro call, output and built value calls the meter, which ends the render when its budget of
characters or of time is spent. Knows nothing of chats; `template.py` says why these bounds are enough.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

BUDGET_UNITS: Final = 16 * 1024 * 1024
BUDGET_S: Final = 2.0
MAX_NESTING: Final = 64
MAX_INTEGER_BITS: Final = 4096


def words(text: str) -> frozenset[str]:
    """The words of `text`.

    >>> sorted(words("for if"))
    ['for', 'if']
    """
    return frozenset(text.split())


# Blocks, inheritance, imports and powers are left out.
_SYNTAX: Final = words(
    "Template TemplateData Output For If Assign AssignBlock Macro CallBlock Break Continue ExprStmt Name NSRef Const "
    "List Tuple Dict Pair Keyword Getattr Getitem Slice Filter Test Call Compare Operand CondExpr Concat And Or Not "
    "Neg Pos Add Sub Mul Div FloorDiv Mod EnvironmentAttribute"
)


class BudgetSpent(Exception):
    """A bound was reached."""


class Meter:
    """What is left of the budget of one render."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._left, self._ends = BUDGET_UNITS, time.monotonic() + BUDGET_S

    def spend(self, units: int) -> None:
        self._left -= 1 + units
        if self._left < 0:
            raise BudgetSpent(f"it builds more than {BUDGET_UNITS} characters")
        if time.monotonic() > self._ends:
            raise BudgetSpent(f"it runs for more than {BUDGET_S} s")

    def toll(self) -> bool:
        """True, or an end: a step that builds nothing, as a loop's condition is."""
        self.spend(0)
        return True

    def charge(self, value: Any) -> Any:
        """`value`, once its whole size is paid for."""
        self._weigh(value, 0)
        return value

    def charge_slice(self, value: Any) -> Any:
        """A part of something whose size was paid for already: only the copied references count."""
        self.spend(len(value) if isinstance(value, (str, list, tuple)) else 0)
        return value

    def weight(self, value: Any) -> int:
        """What `charge` takes for `value`; it is taken."""
        before = self._left
        self._weigh(value, 0)
        return before - self._left

    def walk(self, values: Iterable[Any]) -> Iterator[Any]:
        """`values`, each turn paid for."""
        for value in values:
            self.spend(0)
            yield value

    def collect(self, values: Iterable[Any]) -> list[Any]:
        """`values` as a list, each paid for."""
        return [self.charge(value) for value in values]

    def _weigh(self, value: Any, depth: int) -> None:
        if depth > MAX_NESTING:
            raise BudgetSpent(f"it nests values more than {MAX_NESTING} deep")
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, int):
            if value.bit_length() > MAX_INTEGER_BITS:
                raise BudgetSpent(f"it computes a number of more than {MAX_INTEGER_BITS} bits")
            self.spend(0)
        elif isinstance(value, Mapping):
            self.spend(0)
            for key, item in value.items():
                self._weigh(key, depth + 1)
                self._weigh(item, depth + 1)
        elif isinstance(value, (list, tuple, set, frozenset)):
            self.spend(0)
            for item in value:
                self._weigh(item, depth + 1)
        else:
            self.spend(0)


def check_syntax(tree: nodes.Template) -> None:
    for node in (tree, *tree.find_all(nodes.Node)):
        name = type(node).__name__
        line = f"(line {node.lineno})"
        if name not in _SYNTAX:
            raise SecurityError(f"{name} is not available to chat templates {line}")
        if isinstance(node, (nodes.Filter, nodes.AssignBlock)) and _filters_a_block(node):
            raise SecurityError(f"filters over blocks are not available to chat templates {line}")
        if isinstance(node, nodes.NSRef) and node.attr.startswith("_"):
            raise SecurityError(f"{node.attr!r} is not available to chat templates {line}")


def _filters_a_block(node: nodes.Filter | nodes.AssignBlock) -> bool:
    return node.filter is not None if isinstance(node, nodes.AssignBlock) else node.node is None


class Instrument(NodeTransformer):
    """Puts the meter into the syntax tree, before it is compiled."""

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:  # noqa: N802
        fixed = sum(len(part.data) for part in node.nodes if isinstance(part, nodes.TemplateData))
        node.nodes = [part if isinstance(part, nodes.TemplateData) else _paid(self.visit(part)) for part in node.nodes]
        return [_spend(fixed), node]

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        seen = self._with_toll(node)
        if node.test is not None:  # it runs for the items that it drops, too
            node.test = nodes.And(nodes.Call(nodes.EnvironmentAttribute("toll"), [], [], None, None), node.test)
        return seen

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._with_toll(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._with_toll(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        return _paid(self.generic_visit(node))

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        return _paid(self.generic_visit(node))

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        return _paid(self.generic_visit(node))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        return _paid(self.generic_visit(node))

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        seen = self.generic_visit(node)
        return _paid(seen) if node.ctx == "load" else seen

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        seen = self.generic_visit(node)
        return _paid(seen, "charge_slice") if isinstance(node.arg, nodes.Slice) else seen

    def _with_toll(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        seen = self.generic_visit(node)
        node.body.insert(0, _spend(1))
        return seen


def _paid(node: nodes.Node, toll: str = "charge") -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(toll), [node], [], None, None, lineno=node.lineno)


def _spend(units: int) -> nodes.Node:
    call = nodes.Call(nodes.EnvironmentAttribute("spend"), [nodes.Const(units)], [], None, None)
    return nodes.ExprStmt(call)
