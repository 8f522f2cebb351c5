"""A byte-level transformer on the source of Python's own standard library: what averaging gives on
today's formats, as they were published.

`settings` says what can be chosen, `corpus` what is read, `model` is the network, `session` one
training run and its three readings, `tables` shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ..common.report import Outcome, Row
from . import tables
from .settings import Settings

__all__ = ["Settings", "outcome_of", "run"]


def run(settings: Any) -> Outcome:
    """All runs that are missing. ImportError, which says what to install, without PyTorch."""
    import_module("qemu_swalp_torch")
    return import_module(".runs", __name__).run(settings)  # type: ignore[no-any-return]


def outcome_of(settings: Any, lines: Sequence[Row]) -> Outcome:
    """What is shown of runs, by their lines."""
    return tables.outcome_of(settings, lines)
