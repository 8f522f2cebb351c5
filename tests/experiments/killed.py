"""Runs experiments of `qemu-swalp reproduce` again and again with `--resume`: first ended by
SIGKILL at one place after another, then to their end. Arguments: those of `qemu-swalp` as JSON, a
list for each experiment.

PyTorch is imported once, and every run is a fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qemu_swalp_torch  # noqa: F401  # imported before the forks
import torch

from qemu_swalp.cli import main
from qemu_swalp.experiments.common.session import Session


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def within_step(count: int) -> None:
    """After the count-th backward, before the weights are written."""
    whole, left = Session.descend, iter(range(count))

    def descend(self: Session, *arguments: Any) -> None:
        if next(left, None) is None:
            self.optimizer.zero_grad()
            die()
        whole(self, *arguments)

    Session.descend = descend  # type: ignore[method-assign,assignment]


def within_checkpoint(count: int) -> None:
    """With half of the count-th checkpoint written."""
    whole, left = torch.save, iter(range(count - 1))

    def save(state: Any, path: Path) -> None:
        whole(state, path)
        if next(left, None) is None:
            os.truncate(path, path.stat().st_size // 2)
            die()

    torch.save = save  # type: ignore[assignment]


def within_line(missing: int) -> None:
    """With so many bytes of a finished run's line unwritten; none: before its checkpoint goes."""
    whole = Path.unlink

    def unlink(self: Path, **options: Any) -> None:
        if self.suffix == ".pt" and self.is_file():
            lines = self.parents[1] / "runs.jsonl"
            os.truncate(lines, lines.stat().st_size - missing)
            die()
        whole(self, **options)

    Path.unlink = unlink  # type: ignore[method-assign,assignment]


PLACES: tuple[tuple[Callable[[int], None], int], ...] = (
    (within_step, 2),
    (within_checkpoint, 1),
    (within_checkpoint, 2),
    (within_step, 4),
    (within_line, 30),
    (within_line, 0),
)


def run(arguments: list[str], *place: Any) -> int:
    """The status of a run, killed at that place if one is given."""
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    if place:
        place[0](place[1])
    os._exit(main(arguments))


if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        for place in PLACES:
            status = run(arguments, *place)
            assert os.WIFSIGNALED(status), (place, status)
            assert os.WTERMSIG(status) == signal.SIGKILL, (place, status)
        assert run(arguments) == 0
