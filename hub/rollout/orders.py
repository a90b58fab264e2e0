"""Where do the orders of rollouts lie, and what has become of them? Files of one directory, beside the bundles.

    rollouts/<name>.json    `Order`, written once, by who deploys
    progress/<name>.json    `Progress`, by the hub that carries it out
    stops/<name>            there where somebody wants it stopped, and who

Each file has one writer, and is replaced whole. Knows nothing of nodes.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO, Final

import msgspec

from hub import wire
from hub.errors import RolloutError
from hub.rollout.contents import name_of
from hub.rollout.kept import read_kept, told
from hub.rollout.order import OPEN, Order, Progress
from hub.whole_file import write_whole

ADVICE: Final = "remove it"
_MOST_WHY_CHARS: Final = 400


class Orders:
    """The rollouts in the directory `root`. Everything here raises RolloutError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._orders, self._progress, self._stops = (root / name for name in ("rollouts", "progress", "stops"))

    def names(self) -> list[str]:
        """Every rollout."""
        with told(self._orders):
            return sorted(path.stem for path in self._orders.glob("*.json") if not path.name.startswith("."))

    def order(self, name: str) -> Order:
        """What was ordered."""
        found = read_kept(self._orders / f"{name}.json", Order, ADVICE) if wire.is_name(name) else None
        if found is None:
            raise RolloutError(f"there is no rollout {name!r} in {self.root}: `edge-hub rollout status` tells what is")
        return found

    def progress(self, name: str) -> Progress:
        """How far it has come; at its beginning, where no hub has taken it up yet."""
        return read_kept(self._progress / f"{name}.json", Progress, ADVICE) or Progress()

    def all(self) -> list[tuple[Order, Progress]]:
        """Every rollout whose files can be read, the oldest first."""
        found = [both for name in self.names() if not isinstance(both := self._read(name), RolloutError)]
        return sorted(found, key=lambda both: (both[0].at_s, both[0].name))

    def damaged(self) -> dict[str, str]:
        """The others, and why; the names stay taken. No hub carries them out before that is mended."""
        return {name: str(why) for name in self.names() if isinstance(why := self._read(name), RolloutError)}

    def _read(self, name: str) -> tuple[Order, Progress] | RolloutError:
        try:
            return self.order(name), self.progress(name)
        except RolloutError as error:
            return error

    def stop_of(self, name: str) -> str | None:
        """Why somebody wants it stopped; None where nobody does."""
        path = self._stops / name
        with told(path):
            if not path.exists():
                return None
            return path.read_text("utf-8", errors="replace")[:_MOST_WHY_CHARS].strip() or "stopped"

    def begin(self, order: Order, *, replace: bool) -> None:
        """Let a hub carry it out; `replace` stops one of the same model that is not over. Not safe without a lock.

        A name is used once, and of a model one rollout at a time is under way.
        """
        payload = _checked(order)
        if order.name in self.names():
            raise RolloutError(f"there is a rollout {order.name!r} already: give another --name")
        others = [
            other.name
            for other, progress in self.all()
            if other.replaces == order.replaces and progress.status in OPEN and self.stop_of(other.name) is None
        ]
        if others and not replace:
            raise RolloutError(
                f"rollout {others[0]!r} of {order.replaces} is not over: wait, or add --replace to stop it for this one"
            )
        for other in others:
            self.stop(other, f"replaced by {order.name}")
        with told(self._orders):
            self._orders.mkdir(parents=True, exist_ok=True)
            for left in (self._progress / f"{order.name}.json", self._stops / order.name):
                left.unlink(missing_ok=True)  # of one of that name whose order somebody has removed
            write_whole(self._orders / f"{order.name}.json", payload)

    def stop(self, name: str, why: str) -> None:
        """Let the hub stop it; nothing where that is under way. One that has ended cannot be stopped."""
        self.order(name)
        status = self.progress(name).status
        if status == "done":
            raise RolloutError(f"rollout {name!r} is done: to go back, deploy the bundle before as a downgrade")
        if status in OPEN and self.stop_of(name) is None:
            with told(self._stops):
                self._stops.mkdir(exist_ok=True)
                write_whole(self._stops / name, why[:_MOST_WHY_CHARS].encode())

    def refuse_in_use(self, bundle: str) -> None:
        """Raise where a rollout that is not over brings this bundle, or the last one of its model to those to come.

        And where it cannot be known.
        """
        for why in self.damaged().values():
            raise RolloutError(why)
        newest = {order.replaces: order.name for order, _ in self.all()}
        for order, progress in self.all():
            if name_of(order.bundle, order.version) != bundle:
                continue
            if progress.status in OPEN:
                raise RolloutError(f"rollout {order.name!r} is bringing {bundle}: wait, or stop it first")
            if progress.status == "done" and newest[order.replaces] == order.name:
                raise RolloutError(
                    f"rollout {order.name!r} still brings {bundle} to nodes that come late: deploy a later one before"
                )

    def write_progress(self, name: str, progress: Progress) -> None:
        """Have it on the disk."""
        with told(self._progress):
            self._progress.mkdir(exist_ok=True)
            write_whole(self._progress / f"{name}.json", msgspec.json.encode(progress))

    def only_one(self) -> IO[bytes] | None:
        """The right to carry rollouts out, for as long as what is returned is open; None where another hub has it."""
        with told(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / "carrier.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file


def _checked(order: Order) -> bytes:
    """The file of an order, which whoever reads it will take. Raises RolloutError."""
    try:
        payload = msgspec.json.encode(order)
        msgspec.json.decode(payload, type=Order)  # infinity is written as null, and lengths are looked at only here
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise RolloutError(f"rollout {order.name!r} cannot be ordered: {error}") from None
    return msgspec.json.format(payload, indent=2)
