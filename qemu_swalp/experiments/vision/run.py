"""All runs of a call: those that are missing are made, and all are shown together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..common.journal import Journal
from ..common.report import Outcome, Row, progress
from ..softmax.on_torch import threads
from . import tables
from .datasets import load_dataset
from .jobs import Job, jobs
from .runs import decayed, plain, sqwa, steps_of
from .settings import Settings
from .swap import swap

KINDS = {"plain": plain, "decayed": decayed, "sqwa": sqwa, "swap": swap}


def run(name: str, settings: Settings) -> Outcome:
    """Make the runs, and take what `--resume` finds. Each is appended to runs.jsonl as soon as it
    is finished.
    """
    source = load_dataset(
        settings.dataset,
        settings.data_dir,
        settings.subset,
        settings.validation,
        settings.test_subset,
    )
    journal: Journal[Job] = Journal(
        Path(settings.out), name, settings, lambda job: job.identity(settings)
    )
    wanted = jobs(settings)
    missing = journal.missing(wanted)
    total = sum(steps_of(settings, job.kind, len(source)) for job in missing)
    with progress(total) as bar, threads(settings.threads):
        for job in missing:
            checkpoint = journal.checkpoint(job)
            result = KINDS[job.kind](job, settings, source, checkpoint, bar)
            result["images"] = len(source)
            journal.finish(job, result, checkpoint.seconds)
    return outcome_of(name, settings, [journal.line(job) for job in wanted])


def outcome_of(name: str, settings: Settings, lines: Sequence[Row]) -> Outcome:
    """What is shown of runs, by their lines."""
    rows = [row for line in lines for row in tables.rows_of(line, settings)]
    summary = tables.summary_of(name, rows)
    curves: list[Row] = [
        {
            "kind": line["kind"],
            "numbers": Job.of(line).numbers,
            "seed": line["seed"],
            "curve": line["curve"],
        }
        for line in lines
    ]
    return Outcome(
        rows,
        summary,
        tables.text(name, settings, lines[0]["images"], summary),
        lambda figure: tables.draw(figure, settings, curves),
        {"runs": curves},
    )
