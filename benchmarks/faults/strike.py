"""Makes the faults of a schedule happen, each in a thread of its own, and notes when who was down.

A fault waits for the one before it to be mended where both are of one party. Knows nothing of questions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from .gate import Gate, Mode
from .history import MACHINE, Died, Down, Hit, Log
from .overhear import Overhearer
from .processes import Program
from .schedule import REPLAYER, Fault

TICK_S: Final = 0.05
STILL_S: Final = 0.3  # a tick this late says that the whole machine stood still


class Striker:
    """Strikes `programs` by process, `gates` by link and the fleet's deliveries through `overhearer`."""

    def __init__(
        self, log: Log, programs: Mapping[str, Program], gates: Mapping[str, Gate], overhearer: Overhearer
    ) -> None:
        self._log = log
        self._programs = programs
        self._gates = gates
        self._overhearer = overhearer
        self._turn = {party: threading.Lock() for party in [*programs, *gates, REPLAYER]}
        self._over = threading.Event()
        self.failure: SystemExit | None = None  # a process did not come back: from then on nobody knows what is up

    def run(self, schedule: Sequence[Fault], start_s: float) -> list[threading.Thread]:
        """Begin; the threads end with the last fault, but for the one that watches, which ends with `end`."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        threads = []
        for fault in schedule:
            threads.append(threading.Thread(target=self._strike_at, args=(fault, start_s), daemon=True))
            threads[-1].start()
        return threads

    def end(self) -> None:
        """Nothing that happens from now on is noted."""
        self._over.set()

    def _strike_at(self, fault: Fault, start_s: float) -> None:
        self._over.wait(max(start_s + fault.at_s - time.monotonic(), 0.0))
        with self._turn[fault.party]:
            from_s = time.monotonic()
            try:
                up_at_s = self._strike(fault)
            except SystemExit as error:  # in a thread it would go by unseen
                self.failure = error
                return
            if fault.kind not in ("slow-link", "replay"):
                self._log.add(Down(party=fault.party, from_s=from_s, to_s=up_at_s))
            self._log.add(Hit(kind=fault.kind, party=fault.party, from_s=from_s, to_s=up_at_s))

    def _strike(self, fault: Fault) -> float:
        """Do it, wait, and mend it; when the party was up again."""
        what, _ = fault.kind.split("-") if "-" in fault.kind else (fault.kind, "")
        if what == "replay":
            self._overhearer.replay_much(True)
            self._wait(fault)
            self._overhearer.replay_much(False)
        elif what == "kill":
            return self._kill(fault)
        elif what == "stop":
            self._programs[fault.party].stop()
            self._wait(fault)
            self._programs[fault.party].go_on()
        else:
            gate = self._gates[fault.party]
            gate.set(_MODES[what], delay_ms=fault.delay_ms)
            self._wait(fault)
            gate.set("open", reset=what in ("lose", "deafen"))
        return time.monotonic()

    def _kill(self, fault: Fault) -> float:
        program = self._programs[fault.party]
        program.kill()
        self._wait(fault)
        program.start()
        gate = self._gates.get(fault.party)
        return time.monotonic() if gate is None else gate.first_knock_s

    def _wait(self, fault: Fault) -> None:
        self._over.wait(fault.duration_s)

    def _watch(self) -> None:
        """Notes when the machine stood still, and which process ended that nobody had ended; starts it again."""
        last_s = time.monotonic()
        while not self._over.wait(TICK_S):
            now = time.monotonic()
            if now - last_s > TICK_S + STILL_S:
                self._log.add(Down(party=MACHINE, from_s=last_s, to_s=now))
            last_s = now
            for name, program in self._programs.items():
                if (status := program.died()) is not None and self._turn[name].acquire(blocking=False):
                    if program.died() is not None:
                        self._log.add(Died(party=name, at_s=now, status=status))
                        program.kill()
                        program.start()
                        last_s = time.monotonic()
                    self._turn[name].release()


_MODES: Final[dict[str, Mode]] = {"cut": "shut", "hold": "held", "lose": "held", "deafen": "deaf", "slow": "open"}
