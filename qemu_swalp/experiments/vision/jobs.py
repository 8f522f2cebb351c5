"""The training runs that a call asks for."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..common.report import Row
from .settings import Settings

PLAIN = ("sgd", "swa", "ema", "lawa", "aswa")
"""Methods that one run of the recipe gives at once."""
KINDS = ("plain", "decayed", "sqwa", "swap")


class Job(NamedTuple):
    """One training run. kind : one of KINDS. word : bits of its numbers, None: float32."""

    kind: str
    word: int | None
    seed: int

    @property
    def numbers(self) -> str:
        """What a table calls its numbers."""
        return "float32" if self.word is None else f"{self.word} bits"

    @staticmethod
    def of(line: Row) -> Job:
        """The run that a line of runs.jsonl is of."""
        return Job(line["kind"], line["word"], line["seed"])

    def identity(self, settings: Settings) -> list[Any]:
        """Everything that its numbers depend on."""
        averages = [method for method in PLAIN if method in settings.method]
        return [settings.identity(self.kind), list(self), averages if self.kind == "plain" else []]


def jobs(settings: Settings) -> list[Job]:
    """The runs that the methods, numbers and seeds ask for, seed by seed."""
    kinds = ["plain"] if set(settings.method) & set(PLAIN) else []
    kinds += [kind for kind in KINDS if kind in settings.method]
    words: list[int | None] = [None] if "float" in settings.precision else []
    words += settings.words if "low" in settings.precision else ()
    return [
        Job(kind, word, seed) for seed in settings.run_seeds for word in words for kind in kinds
    ]
