"""What survives an interruption: finished runs as JSON lines, unfinished ones as checkpoints."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from ..common.report import RUNS, Row, environment, plain, read_lines
from .settings import Settings


class Job(NamedTuple):
    """One training run. kind : "plain", "decayed", "sqwa" or "swap". word : bits of its numbers,
    None: float32.
    """

    kind: str
    word: int | None
    seed: int

    @property
    def numbers(self) -> str:
        """What a table calls its numbers."""
        return "float32" if self.word is None else f"{self.word} bits"

    @staticmethod
    def of(line: Row) -> Job:
        """The run that a line of runs.jsonl is of."""
        return Job(line["kind"], line["word"], line["seed"])


class Journal:
    """The folder `out`: `runs.jsonl`, a line for each finished run, and `checkpoints`, one for each
    that is not.

    With `resume` what is there already counts; without it everything runs anew, and lines are added
    to those there.
    """

    def __init__(
        self, out: Path, experiment: str, settings: Settings, averages: tuple[str, ...]
    ) -> None:
        self.lines, self.checkpoints = out / RUNS, out / "checkpoints"
        self.experiment, self.settings, self.averages = experiment, settings, averages
        out.mkdir(parents=True, exist_ok=True)
        self.finished = (
            {line["key"]: line for line in read_lines(self.lines)} if settings.resume else {}
        )

    def key(self, job: Job) -> str:
        """A name for everything that the run's numbers depend on."""
        identity = [
            self.settings.identity(job.kind),
            list(job),
            list(self.averages) if job.kind == "plain" else [],
        ]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def checkpoint(self, job: Job) -> Checkpoint:
        """Where the run keeps its state."""
        return Checkpoint(self.checkpoints / f"{self.key(job)}.pt", self.settings.resume)

    def finish(self, job: Job, result: dict[str, Any], seconds: float) -> Row:
        """Append the run's line, and drop its checkpoint."""
        line = plain(
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
        return line  # type: ignore[no-any-return]


def _name_of(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


class Checkpoint:
    """A file that is always whole: the last state saved."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path, self.resume = path, resume

    def load(self) -> dict[str, Any] | None:
        """The last state; None if nothing was saved, or without `--resume`."""
        import torch

        if not self.resume or not self.path.is_file():
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the last state."""
        import torch

        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)
