"""The kinds of training run, each a function (job, settings, source, checkpoint, bar) → rows and
curve.

A row is the error of a method at a point of time. After each epoch the run's whole state goes to
its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...training import ASWA, EMA, LAWA, Averaging, Policy
from ..common.journal import Checkpoint
from ..common.report import Progress, Row
from ..common.session import Weights
from .datasets import batches_in
from .jobs import Job
from .session import Session
from .settings import Settings
from .types import Source

Result = dict[str, Any]


def steps_of(settings: Settings, kind: str, images: int) -> int:
    """Steps of a run, at most: SWAP's phase 1 may end before."""
    epoch = batches_in(images, settings.batch)
    if kind == "swap":
        first, second = settings.swap_phases
        return (
            first * batches_in(images, settings.swap_batch) + settings.swap_workers * second * epoch
        )
    return settings.epochs * epoch


class Run:
    """What the kinds share: a session that is resumed, trained epoch by epoch, evaluated and
    saved.
    """

    def __init__(
        self, job: Job, settings: Settings, source: Source, checkpoint: Checkpoint, bar: Progress
    ) -> None:
        self.settings, self.checkpoint, self.bar = settings, checkpoint, bar
        self.session = Session(settings, source, job.word, job.seed)
        self.epoch_steps = batches_in(len(source), settings.batch)
        self.label = f"{job.kind}, {job.numbers}, seed {job.seed}"
        self.rows: list[Row] = []
        self.curve: list[Row] = []

    def train(
        self,
        rate: Callable[[int], float],
        policies: Mapping[str, Policy],
        after: Callable[[], None],
    ) -> Result:
        """All epochs at rate(step); `after` each is called, and everything saved."""
        self.session.follow(policies)
        if state := self.checkpoint.load():
            self.session.load_state_dict(state["session"])
            self.rows, self.curve = state["rows"], state["curve"]
            self.bar.skip(self.session.step)
        while self.session.epoch < self.settings.epochs:
            self.curve.append(
                {"epoch": self.session.epoch + 1}
                | self.session.train_epoch(rate, self.settings.batch, self.bar, self.label)
            )
            after()
            self.checkpoint.save(
                {"session": self.session.state_dict(), "rows": self.rows, "curve": self.curve}
            )
        return {"rows": self.rows, "curve": self.curve}

    def evaluate(self, method: str, weights: Weights | None = None) -> None:
        """A row of a method now, which the curve has too."""
        scores = self.session.evaluate("test", weights)
        epoch = self.session.epoch
        if epoch in (self.settings.start, self.settings.epochs):
            self.rows.append({"method": method, "epoch": epoch} | scores)
        self.curve[-1][method] = scores["error"]


def plain(
    job: Job, settings: Settings, source: Source, checkpoint: Checkpoint, bar: Progress
) -> Result:
    """The recipe's run: last iterate and all averages, at START and at the end."""
    run = Run(job, settings, source, checkpoint, bar)
    session, schedule, epoch = run.session, settings.schedule, run.epoch_steps
    every = settings.evaluate_every or settings.epochs

    def after() -> None:
        if session.epoch in (settings.start, settings.epochs) or session.epoch % every == 0:
            run.evaluate("sgd")
            for name, average in session.averages().items():
                run.evaluate(name, average)

    return run.train(
        lambda step: schedule(step // epoch), policies(settings, epoch, session), after
    )


def policies(settings: Settings, epoch: int, session: Session) -> dict[str, Policy]:
    """The averages of the recipe's run by name; the studies' have their cycle and bits in it."""
    start, first, include = (
        settings.start * epoch,
        settings.cycle[0] or epoch,
        settings.include_start,
    )
    by_name: dict[str, Policy] = {}
    for cycle in settings.cycle if "swa" in settings.method else ():
        for word in settings.average_words:
            quantizer = settings.average_quantizer(word)
            by_name[average_name(cycle, word)] = Averaging(
                start, cycle or epoch, include, quantizer, seed=session.seed
            )
    if "ema" in settings.method:
        by_name["ema"] = EMA(start, first, include, decay=settings.ema_decay)
    if "lawa" in settings.method:
        by_name["lawa"] = LAWA(start, first, include, size=settings.lawa_size)
    if "aswa" in settings.method:
        by_name["aswa"] = ASWA(
            0, epoch, score=lambda weights: -session.evaluate("validation", weights)["error"]
        )
    return by_name


def average_name(cycle: int, word: int) -> str:
    """Of an average of every so many steps, 0: an epoch, in so many bits, 0: float.

    >>> average_name(0, 0), average_name(1, 9)
    ('swa', 'swa every 1, 9 bits')
    """
    parts = (f"every {cycle}" if cycle else "", f"{word} bits" if word else "")
    return " ".join(["swa", ", ".join(part for part in parts if part)]).strip()


def decayed(
    job: Job, settings: Settings, source: Source, checkpoint: Checkpoint, bar: Progress
) -> Result:
    """SGD whose rate falls over all epochs: what the same budget gives without averaging."""
    run = Run(job, settings, source, checkpoint, bar)

    def after() -> None:
        if run.session.epoch == settings.epochs:
            run.evaluate("decayed")

    return run.train(lambda step: settings.decayed(step // run.epoch_steps), {}, after)


def sqwa(
    job: Job, settings: Settings, source: Source, checkpoint: Checkpoint, bar: Progress
) -> Result:
    """SQWA: capture on a cyclic rate, average, quantize again, fine-tune. What is evaluated is the
    low-precision model.

    Its numbers have few bits from the first step on; the paper trains a float model first.
    """
    run = Run(job, settings, source, checkpoint, bar)
    session, schedule = run.session, settings.sqwa_schedule(run.epoch_steps)
    word = job.word and (settings.weight_word or job.word)
    policy = schedule.policy(quantizer=settings.average_quantizer(word), seed=job.seed)

    def after() -> None:
        if session.epoch == settings.sqwa_end:
            session.put(policy.average(session.states["sqwa"]))
            session.forget_momentum()
        if session.epoch == settings.epochs:
            run.evaluate("sqwa")

    return run.train(schedule, {"sqwa": policy}, after)
