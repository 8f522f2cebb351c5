"""Sections that run one after the other, whatever becomes of each."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from qemu_swalp._util.tables import table

Row = dict[str, Any]
Section = Callable[["Settings"], Iterator[Row]]


@dataclass(frozen=True)
class Settings:
    """What the sections are told."""

    stand_in: bool
    """Whether no GPU is there: sizes are small then, and times mean nothing."""
    formats: tuple[str, ...]
    until: float
    """On the clock `time.monotonic`, when no further row is begun."""

    def over(self) -> bool:
        return time.monotonic() > self.until


class Skipped(Exception):
    """What a section raises that cannot run; the message says why."""


@dataclass
class Outcome:
    """Of a section."""

    name: str
    status: str
    """"ok", "failed", "skipped", "left out"."""
    seconds: float
    rows: list[Row]
    error: str = ""


def run(
    name: str, section: Section, settings: Settings, show: Callable[[Row], object] = lambda _: None
) -> Outcome:
    """Run a section and print its rows; what it raises is part of the outcome. show : what is told
    of each row at once.
    """
    print(f"\n== {name}", flush=True)
    if settings.over():
        print("left out: the time is over")
        return Outcome(name, "left out", 0.0, [], "the time is over")
    began, rows, error, skipped = time.monotonic(), [], "", False
    try:
        for row in section(settings):
            rows.append(row)
            show(row)
            if settings.over():
                error = "cut short: the time is over"
                break
    except Skipped as reason:
        error, skipped = str(reason), True
    except Exception as raised:
        error = f"{type(raised).__name__}: {str(raised)[:2000]}"
        traceback.print_exc(limit=-4)
    seconds = time.monotonic() - began
    bad = [row for row in rows if not row.get("ok", True)]
    if rows:
        print(table(*cells(rows)))
    failed = bad or (error and not skipped and not error.startswith("cut short"))
    status = "failed" if failed else "skipped" if skipped else "ok"
    print(f"{status}, {seconds:.1f} s" + (f"; {error}" if error else ""), flush=True)
    return Outcome(name, status, seconds, rows, error)


def cells(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """(header, lines) of a table."""
    header = list(dict.fromkeys(key for row in rows for key in row))
    return header, [[_cell(row.get(key, "")) for key in header] for row in rows]


def alive() -> bool:
    """Whether the GPU still answers this process."""
    import torch

    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:60]
