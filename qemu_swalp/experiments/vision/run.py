"""All runs of a call: those that are missing are made, and all are shown together."""

from __future__ import annotations

import time
from pathlib import Path

from ..common.report import Outcome, Row, progress
from ..softmax.on_torch import threads
from . import tables
from .datasets import load_dataset
from .journal import Job, Journal
from .runs import decayed, plain, sqwa, steps_of
from .settings import Settings
from .swap import swap

KINDS = {"plain": plain, "decayed": decayed, "sqwa": sqwa, "swap": swap}
PLAIN = ("sgd", "swa", "ema", "lawa", "aswa")
"""Methods that one run of the recipe gives at once."""


def jobs(settings: Settings) -> list[Job]:
    """The runs that the methods, numbers and seeds ask for, seed by seed."""
    kinds = ["plain"] if set(settings.method) & set(PLAIN) else []
    kinds += [kind for kind in KINDS if kind in settings.method]
    words: list[int | None] = [None] if "float" in settings.precision else []
    words += settings.words if "low" in settings.precision else ()
    return [
        Job(kind, word, seed) for seed in settings.run_seeds for word in words for kind in kinds
    ]


def run(name: str, settings: Settings) -> Outcome:
    """Make the runs, and take what `--resume` finds. Each is appended to runs.jsonl as soon as it
    is finished.
    """
    averages = tuple(method for method in PLAIN if method in settings.method)
    source = load_dataset(
        settings.dataset,
        settings.data_dir,
        settings.subset,
        settings.validation,
        settings.test_subset,
    )
    journal = Journal(Path(settings.out), name, settings, averages)
    wanted = jobs(settings)
    missing = [job for job in wanted if journal.key(job) not in journal.finished]
    total = sum(steps_of(settings, job.kind, len(source)) for job in missing)
    with progress(total) as bar, threads(settings.threads):
        for job in missing:
            start = time.perf_counter()
            result = KINDS[job.kind](job, settings, source, journal.checkpoint(job), bar)
            journal.finish(job, result, time.perf_counter() - start)
    lines = [journal.finished[journal.key(job)] for job in wanted]
    rows = [row for line in lines for row in tables.rows_of(line, settings)]
    summary = tables.summary_of(name, rows)
    curves: list[Row] = [
        {"kind": job.kind, "numbers": job.numbers, "seed": job.seed, "curve": line["curve"]}
        for job, line in zip(wanted, lines, strict=True)
    ]
    return Outcome(
        rows,
        summary,
        tables.text(name, settings, len(source), summary),
        lambda figure: tables.draw(figure, settings, curves),
        {"runs": curves},
    )
