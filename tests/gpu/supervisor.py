"""Goes through sections in processes that may lose the GPU, crash or hang: it touches no GPU."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qemu_swalp._util.tables import table
from tests.gpu.report import Outcome, cells

CHILD = (sys.executable, "-m", "tests.gpu.child")
PATIENCE = 150.0
"""Seconds after which a process that has shown no further row is taken to hang: no row takes so
long, the compilation of its kernels included.
"""
GRACE = 20.0
"""Seconds after the time is over in which a row that was begun may end."""


@dataclass
class Shown:
    """What a process has written."""

    about: dict[str, str] = field(default_factory=dict)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    begun: str = ""
    """The section that has not ended."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Its rows."""


@dataclass
class Supervisor:
    """command : of a child (`tests/gpu/child.py`), whose arguments follow. A process that ends
    between two sections, of which the first has failed, has lost the GPU; so has one that hangs
    there.
    """

    stand_in: bool
    until: float
    """On the clock `time.monotonic`, when no further row is begun."""
    command: Sequence[str] = CHILD
    patience: float = PATIENCE
    grace: float = GRACE
    about: dict[str, str] = field(default_factory=dict)

    def run(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The outcome of each section, whatever becomes of the others."""
        outcomes: list[dict[str, Any]] = []
        while left := list(names[len(outcomes) :]):
            if time.monotonic() > self.until:
                over = "the time is over"
                return outcomes + [asdict(Outcome(n, "left out", 0.0, [], over)) for n in left]
            began = time.monotonic()
            shown, end = self._child(left)
            self.about = self.about or shown.about
            outcomes += shown.outcomes
            if len(shown.outcomes) == len(left):
                break
            if shown.outcomes and not shown.begun:
                print("\nthe GPU answers its process no more; a new one goes on", flush=True)
                continue
            name, seconds = left[len(shown.outcomes)], time.monotonic() - began
            if shown.rows:
                print(table(*cells(shown.rows)))
            print(f"failed: {name}: {end}; a new process goes on after it", flush=True)
            outcomes.append(asdict(Outcome(name, "failed", seconds, shown.rows, end)))
        return outcomes

    def _child(self, names: list[str]) -> tuple[Shown, str]:
        """What a process shows of these sections, and how it ended, in words."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "shown.jsonl"
            seconds = str(self.until - time.monotonic())
            process = subprocess.Popen(
                [*self.command, str(file), seconds, *names, *["--stand-in"] * self.stand_in],
                start_new_session=True,
            )
            try:
                end = self._wait(process, file)
            finally:
                _stop(process)
            return _read(file), end

    def _wait(self, process: subprocess.Popen[bytes], file: Path) -> str:
        size, moved = 0, time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(0.1)
                how = f"by {signal.Signals(-status).name}" if status < 0 else f"in status {status}"
                return f"its process ended {how}"
            now = time.monotonic()
            if file.exists() and file.stat().st_size != size:
                size, moved = file.stat().st_size, now
            if now - moved > self.patience:
                return f"hung: no row in {self.patience:g} s, so its process was stopped"
            if now > self.until + self.grace:
                return f"hung: no row in {self.grace:g} s after the time was over; stopped"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started; one that a driver does not let go of is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def _read(file: Path) -> Shown:
    shown = Shown()
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    for line in map(json.loads, lines):  # what follows the last "\n" was cut off by a stop
        if "about" in line:
            shown.about = line["about"]
        elif "begun" in line:
            shown.begun = line["begun"]
        elif "row" in line:
            shown.rows.append(line["row"])
        else:
            shown.outcomes.append(line["outcome"])
            shown.begun, shown.rows = "", []
    return shown
