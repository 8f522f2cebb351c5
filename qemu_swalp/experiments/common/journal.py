"""What survives an interruption: finished runs as JSON lines, unfinished ones as checkpoints."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from .report import RUNS, Row, environment, plain, read_lines
from .settings import RunSettings


class Job(Protocol):
    """One training run: a named tuple of plain values."""

    def _asdict(self) -> dict[str, Any]: ...


J = TypeVar("J", bound=Job)


class Journal(Generic[J]):
    """The folder `out`: `runs.jsonl`, a line for each finished run, and `checkpoints`, one for each
    that is not.

    With `resume` what is there already counts; without it everything runs anew, and lines are added
    to those there. `identity` gives, as plain values, everything that the numbers of a run depend
    on.
    """

    def __init__(
        self, out: Path, experiment: str, settings: RunSettings, identity: Callable[[J], Any]
    ) -> None:
        self.lines, self.checkpoints = out / RUNS, out / "checkpoints"
        self.experiment, self.settings, self.identity = experiment, settings, identity
        out.mkdir(parents=True, exist_ok=True)
        self.finished = (
            {line["key"]: line for line in read_lines(self.lines)} if settings.resume else {}
        )
        for key in self.finished:  # killed between writing the line and dropping the checkpoint
            self._path(key).unlink(missing_ok=True)

    def key(self, job: J) -> str:
        """A name for everything that the run's numbers depend on."""
        text = json.dumps(self.identity(job), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def missing(self, jobs: list[J]) -> list[J]:
        """Those that have no line yet."""
        return [job for job in jobs if self.key(job) not in self.finished]

    def line(self, job: J) -> Row:
        """Of a finished run."""
        return self.finished[self.key(job)]

    def checkpoint(self, job: J) -> Checkpoint:
        """Where the run keeps its state."""
        return Checkpoint(self._path(self.key(job)), self.settings.resume)

    def _path(self, key: str) -> Path:
        return self.checkpoints / f"{key}.pt"

    def finish(self, job: J, result: dict[str, Any], seconds: float) -> Row:
        """Append the run's line, and drop its checkpoint."""
        line: Row = plain(
            {
                "key": self.key(job),
                "experiment": self.experiment,
                **job._asdict(),
                **result,
                "seconds": round(seconds, 1),
                "settings": self.settings.record(),
                "command": self.settings.command(self.experiment),
                "environment": environment() | {"device": _name_of(self.settings.device)},
            }
        )
        whole = not self.lines.is_file() or self.lines.read_bytes().endswith(b"\n")
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(
                ("" if whole else "\n")
                + json.dumps(line, ensure_ascii=False, allow_nan=False)
                + "\n"
            )
        self.checkpoint(job).path.unlink(missing_ok=True)
        self.finished[line["key"]] = line
        return line


def _name_of(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


class Checkpoint:
    """A file that is always whole: the last state saved, and how long the run has taken so far."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path, self.resume = path, resume
        self.before, self.start = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """That the run has taken, interruptions left out."""
        return self.before + time.perf_counter() - self.start

    def load(self) -> dict[str, Any] | None:
        """The last state; None if nothing was saved, or without `--resume`."""
        import torch

        if not self.resume or not self.path.is_file():
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        self.before, self.start = state.pop("seconds"), time.perf_counter()
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the last state."""
        import torch

        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save(state | {"seconds": self.seconds}, part)
        part.replace(self.path)
