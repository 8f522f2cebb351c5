"""What commands print: text for people, or JSON for programs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .. import Analysis
from ..experiments.common.report import plain

SHARES = ("saturated", "nonfinite", "flushed", "unchanged")


def add_json(command: Any) -> None:
    """The option `--json`."""
    command.add_argument(
        "--json",
        action="store_true",
        help="print JSON instead of tables: numbers in full, null for what is not a number",
    )


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON object; NaN and infinities are null."""
    print(json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False))


def json_number(value: float) -> float | str:
    """A number as JSON can hold it: infinities, NaN and -0 as text."""
    return value if math.isfinite(value) and str(value) != "-0.0" else str(value)


def asks_for_json(chosen: argparse.Namespace) -> bool:
    """Whether `--json` was given."""
    return bool(chosen.json)


def figures_of(analysis: Analysis) -> dict[str, Any]:
    """All that an analysis counts, and what follows from it."""
    derived = ("sqnr_db", "mean_error", "bits_per_element", *(f"share_{name}" for name in SHARES))
    return asdict(analysis) | {name: getattr(analysis, name) for name in derived}
