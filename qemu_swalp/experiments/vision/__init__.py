"""Networks on image data with every number in low precision: one training engine for all of them,
on PyTorch.

`settings`, `presets` and `jobs` say what can be chosen, `datasets`, `cifar`, `imagenet` and
`models` what is trained on what, `session` is one training run, `runs` and `swap` are the kinds of
it, `tables` shows them beside `paper_results`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from ..common.report import Outcome, Row
from . import tables
from .presets import PRESETS, settings_of

__all__ = ["PRESETS", "Experiment", "experiment"]


class Experiment(NamedTuple):
    """What a module of an experiment has."""

    Settings: type[Any]
    run: Callable[[Any], Outcome]
    outcome_of: Callable[[Any, Sequence[Row]], Outcome]


def experiment(name: str) -> Experiment:
    """The experiment of that name. Importing PyTorch waits until it runs."""
    return Experiment(settings_of(name), partial(_run, name), partial(tables.outcome_of, name))


def _run(name: str, settings: Any) -> Outcome:
    import_module("qemu_swalp_torch")  # whose ImportError says what to install
    return import_module(".run", __name__).run(name, settings)  # type: ignore[no-any-return]
