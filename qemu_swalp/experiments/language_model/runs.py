"""All runs of a call: those that are missing are made, and all are shown together."""

from __future__ import annotations

from pathlib import Path

from ..common.journal import Journal
from ..common.report import Outcome, progress
from ..softmax.on_torch import threads
from . import corpus, tables
from .session import Job, Run, steps_of
from .settings import Settings

NAME = "language-model"


def jobs(settings: Settings) -> list[Job]:
    """Seed by seed, so that every recipe has a run soon."""
    return [Job(recipe, seed) for seed in settings.run_seeds for recipe in settings.recipes]


def run(settings: Settings) -> Outcome:
    """Make the runs, and take what `--resume` finds. Each is appended to runs.jsonl as soon as it
    is finished.
    """
    text = corpus.load()
    facts = text.facts()
    identity = {
        key: value for key, value in settings.record().items() if key not in settings.chosen
    }
    journal: Journal[Job] = Journal(
        Path(settings.out), NAME, settings, lambda job: [identity, list(job), facts["sha256"]]
    )
    wanted = jobs(settings)
    missing = journal.missing(wanted)
    with progress(len(missing) * steps_of(settings)) as bar, threads(settings.threads):
        for job in missing:
            checkpoint = journal.checkpoint(job)
            result = Run(job, settings, text, checkpoint, bar).make()
            journal.finish(job, {"corpus": facts, **result}, checkpoint.seconds)
    return tables.outcome_of(settings, [journal.line(job) for job in wanted])
