"""The simulation of all cases."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.report import Outcome, Row, progress, summarize
from . import tables
from .cases import cases, rows_of
from .settings import Settings


def run(settings: Settings) -> Outcome:
    """All cases, each with all seeds and replicas at once."""
    chosen = list(cases(settings))
    with progress(len(chosen) * settings.steps) as bar:
        rows = [row for case in chosen for row in rows_of(case, settings, bar)]
    return outcome_of(settings, [{"rows": rows}])


def outcome_of(settings: Settings, lines: Sequence[Row]) -> Outcome:
    """What is shown of runs, by their lines."""
    rows = [row for line in lines for row in line["rows"]]
    by = ("part", "part_is", "numbers", "rounding", "weights", "method")
    summary = summarize(rows, by, ("distance", "bias"))
    facts = {
        "floor": tables.floor(settings),
        "slopes": tables.slopes(settings, summary),
        "bound": tables.bound(settings),
    }
    return Outcome(
        rows,
        summary,
        tables.text(settings, summary, facts),
        lambda figure: tables.draw(figure, settings, summary, facts),
        facts,
    )
