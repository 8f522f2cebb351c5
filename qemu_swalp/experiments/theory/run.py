"""The simulation of all cases."""

from __future__ import annotations

from ..common.report import Outcome, progress, summarize
from . import tables
from .cases import cases, rows_of
from .settings import Settings


def run(settings: Settings) -> Outcome:
    """All cases, each with all seeds and replicas at once."""
    chosen = list(cases(settings))
    with progress(len(chosen) * settings.steps) as bar:
        rows = [row for case in chosen for row in rows_of(case, settings, bar)]
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
