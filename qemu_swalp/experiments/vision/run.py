"""All runs of a call: those that are missing are made, and all are shown together."""

from __future__ import annotations

from pathlib import Path

from ..common.journal import Journal
from ..common.report import Outcome, progress
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
    return tables.outcome_of(name, settings, [journal.line(job) for job in wanted])
