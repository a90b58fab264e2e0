"""Disks that fail: one that kills at an operation, and one that records so that what was not synced can be lost.

The model of what a power cut leaves is POSIX's, and weaker than ext4's or XFS's:

- of a file, what was synced is there; of what was written since, all, none, a part, or zeros of the full length;
- of the changes of a directory, those before its last sync happened; each later one happened or not, in any
  combination that can be (a name cannot move that never was given). A rename is one change.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.deploy.disk import Disk

_ALL_SUBSETS: Final = 3  # so many unsynced changes are tried in each combination, more by draw


class Killed(BaseException):
    """The process is dead; nothing catches this."""


class QuickDisk(Disk):
    """Takes a sync for done: where no power cut is played, it only takes time."""

    def sync(self, handle: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        assert path.is_dir()


class KillingDisk(QuickDisk):
    """Kills before the `fatal`-th operation, counted from 0; of a write, half is written."""

    def __init__(self, fatal: int) -> None:
        self.fatal = fatal
        self.done = 0

    def _next(self) -> None:
        if self.done >= self.fatal:
            raise Killed
        self.done += 1

    def mkdir(self, path: Path) -> None:
        self._next()
        super().mkdir(path)

    def create(self, path: Path) -> int:
        self._next()
        return super().create(path)

    def append(self, path: Path) -> int:
        self._next()
        return super().append(path)

    def write(self, handle: int, data: bytes) -> None:
        try:
            self._next()
        except Killed:
            super().write(handle, data[: len(data) // 2])
            raise
        super().write(handle, data)

    def sync(self, handle: int) -> None:
        self._next()

    def close(self, handle: int) -> None:  # a dead process has no descriptors
        super().close(handle)

    def rename(self, old: Path, new: Path) -> None:
        self._next()
        super().rename(old, new)

    def link(self, old: Path, new: Path) -> None:
        self._next()
        super().link(old, new)

    def unlink(self, path: Path) -> None:
        self._next()
        super().unlink(path)

    def rmdir(self, path: Path) -> None:
        self._next()
        super().rmdir(path)

    def sync_directory(self, path: Path) -> None:
        self._next()


Entry = tuple[str, int]  # "directory" or "file", and its number
Tree = frozenset[tuple[str, bytes | None]]  # each path below the root, and what a file holds
Name = tuple[int, str]  # the number of a directory, and a name in it


class _Change(msgspec.Struct, frozen=True):
    """A change of names: this entry gets the name `new`, loses the name `old`, or both at once."""

    entry: Entry
    new: Name | None = None
    old: Name | None = None


class _Write(msgspec.Struct, frozen=True):
    """More bytes of a file."""

    file: int
    data: bytes


class _Sync(msgspec.Struct, frozen=True):
    """A file or directory is synced."""

    entry: Entry


_Op = _Change | _Write | _Sync
_ROOT: Final[Entry] = ("directory", 0)


class RecordingDisk(QuickDisk):
    """Does everything, and records what it does below `root`; what is there already is taken for synced.

    Files and directories have numbers, so that they stay what they are where a rename is lost.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ops: list[_Op] = []
        self._numbers = itertools.count(1)
        self._names: dict[Name, Entry] = {}
        self._open: dict[int, Entry] = {}
        self._first: dict[int, bytes] = {}
        for path in sorted(root.rglob("*")):
            entry = ("directory" if path.is_dir() else "file", next(self._numbers))
            self._names[self._name(path)] = entry
            if path.is_file():
                self._first[entry[1]] = path.read_bytes()
        self._first_names = dict(self._names)

    def _entry(self, path: Path) -> Entry:
        return _ROOT if path == self.root else self._names[self._name(path)]

    def _name(self, path: Path) -> Name:
        return self._entry(path.parent)[1], path.name

    def _change(self, entry: Entry, new: Path | None = None, old: Path | None = None) -> None:
        names = None if new is None else self._name(new), None if old is None else self._name(old)
        self.ops.append(_Change(entry, *names))
        _apply(self._names, _Change(entry, *names))

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._change(("directory", next(self._numbers)), path)

    def create(self, path: Path) -> int:
        handle = super().create(path)
        self._open[handle] = ("file", next(self._numbers))
        self._change(self._open[handle], path)
        return handle

    def append(self, path: Path) -> int:
        handle = super().append(path)
        self._open[handle] = self._entry(path)
        return handle

    def write(self, handle: int, data: bytes) -> None:
        super().write(handle, data)
        self.ops.append(_Write(self._open[handle][1], data))

    def clone(self, handle: int, source: int) -> bool:
        return False  # so that copies are written

    def sync(self, handle: int) -> None:
        self.ops.append(_Sync(self._open[handle]))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._change(self._entry(old), new, old)

    def link(self, old: Path, new: Path) -> None:
        super().link(old, new)
        self._change(self._entry(old), new)

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._change(self._entry(path), old=path)

    def rmdir(self, path: Path) -> None:
        super().rmdir(path)
        self._change(self._entry(path), old=path)

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.ops.append(_Sync(self._entry(path)))

    def power_cuts(self, after: int, draw: random.Random) -> Iterator[Tree]:
        """What may be on the disk after the first `after` operations."""
        changes, unsynced = self._changes(after)
        for lost in _subsets(unsynced, draw):
            names = dict(self._first_names)
            for index, change in enumerate(changes):
                if index not in lost:
                    _apply(names, change)
            for rest in ("none", "zeros") if lost else ("none", "all", "part", "zeros"):
                yield frozenset(_tree(names, self._contents(after, rest), 0, ""))

    def _changes(self, after: int) -> tuple[list[_Change], list[int]]:
        """All changes of names, and the numbers of those that were not synced: of any of their directories."""
        changes: list[_Change] = []
        waiting: list[set[int]] = []
        for op in self.ops[:after]:
            if isinstance(op, _Change):
                changes.append(op)
                waiting.append({name[0] for name in (op.new, op.old) if name is not None})
            elif isinstance(op, _Sync) and op.entry[0] == "directory":
                for directories in waiting:
                    directories.discard(op.entry[1])
        return changes, [index for index, directories in enumerate(waiting) if directories]

    def _contents(self, after: int, rest: str) -> dict[int, bytes]:
        """The content of each file, of which `rest` is left of what was not synced."""
        written: dict[int, bytes] = dict(self._first)
        safe = {file: len(data) for file, data in written.items()}
        for op in self.ops[:after]:
            if isinstance(op, _Write):
                written[op.file] = written.get(op.file, b"") + op.data
            elif isinstance(op, _Sync):
                safe[op.entry[1]] = len(written.get(op.entry[1], b""))
        return {file: _cut(data, safe.get(file, 0), rest) for file, data in written.items()}


def _cut(data: bytes, safe: int, rest: str) -> bytes:
    end = {"none": safe, "all": len(data), "part": (safe + len(data)) // 2, "zeros": safe}[rest]
    return data[:end] + (bytes(len(data) - safe) if rest == "zeros" else b"")


def _apply(names: dict[Name, Entry], change: _Change) -> None:
    if change.old is not None:
        if names.get(change.old) != change.entry:
            return  # it never had that name
        del names[change.old]
    if change.new is not None:
        names[change.new] = change.entry


def _tree(
    names: dict[Name, Entry], contents: dict[int, bytes], directory: int, path: str
) -> Iterator[tuple[str, bytes | None]]:
    for (parent, name), (kind, number) in names.items():
        if parent == directory:
            yield path + name, None if kind == "directory" else contents.get(number, b"")
            if kind == "directory":
                yield from _tree(names, contents, number, f"{path}{name}/")


def write_tree(tree: Tree, root: Path) -> None:
    """Put a state of the disk into the new directory `root`."""
    root.mkdir()
    for path, data in sorted(tree, key=lambda one: one[0]):
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)


def _subsets(unsynced: list[int], draw: random.Random) -> list[frozenset[int]]:
    """Which of the unsynced changes are lost: all combinations of few; of many, none, all, each alone, and some."""
    if len(unsynced) <= _ALL_SUBSETS:
        sizes = range(len(unsynced) + 1)
        return [frozenset(one) for size in sizes for one in itertools.combinations(unsynced, size)]
    some = [frozenset(one for one in unsynced if draw.random() < 0.5) for _ in range(2)]
    return [frozenset(), frozenset(unsynced), *(frozenset((one,)) for one in unsynced), *some]
