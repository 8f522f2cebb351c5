"""MNIST softmax regression with L2, weights in fixed point, a sweep over fractional bits (Yang et
al. 2019, section 4).

Run on the core (NumPy), on an adapter, or on several, whose tables must agree within the spread
over seeds: their matrix products differ in the last bit, which stochastic rounding turns into
another sample of the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .. import Fixed
from .common.data import mnist
from .common.report import Outcome, Row, over, pivot, progress, summarize
from .common.settings import Settings as Common, option
from .common.sweep_plots import TITLES, legend, sweep_panels
from .softmax.core import METRICS, Softmax, Training, rows_of, trainer

INTEGER_BITS = 4
"""Sign included: weights lie in [-8, 8)."""


@dataclass(frozen=True)
class Settings(Common):
    """Options of `qemu-swalp reproduce logistic-regression`."""

    seeds: int = option(3, "number of runs, with seeds SEED, SEED + 1, …", quick=2, above=0)
    fractions: tuple[int, ...] = option(
        (2, 4, 6, 8, 10, 12),
        "fractional bits of the weights; the word has four more",
        quick=(2, 6),
        above=0,
        most=20,
    )
    framework: tuple[str, ...] = option(
        ("core",),
        "where to run; Keras on the backend that KERAS_BACKEND names",
        choices=("core", "torch", "keras"),
    )
    epochs: int = option(10, "passes over the training images", quick=2, above=0)
    start: int = option(
        2, "epochs before averaging, which then takes every step", quick=1, above=-1
    )
    learning_rate: float = option(0.2, "constant learning rate", above=0)
    batch: int = option(128, "samples in a mini-batch", quick=32, above=0)
    decay: float = option(1e-3, "λ of the L2 term λ/2 ‖W‖²", above=0)
    data_dir: str = option(
        "", "folder that holds mnist.npz; without it the file is downloaded once", recorded=False
    )


def run(settings: Settings) -> Outcome:
    """Float and each number of fractional bits, on each framework asked for."""
    training = Training(
        settings.learning_rate,
        settings.batch,
        settings.epochs,
        settings.start,
        settings.decay,
        settings.run_seeds,
    )
    trainers = dict(map(trainer, settings.framework))
    problem = Softmax(mnist(settings.data_dir), settings.decay)
    formats = [None, *(Fixed(f + INTEGER_BITS, f) for f in settings.fractions)]
    rows: list[Row] = []
    with progress(2 * len(trainers) * len(formats) * training.steps(len(problem.train))) as bar:
        for name, train in trainers.items():
            for format in formats:
                stacks = train(problem, training, format, bar, f"{name} {format or 'float32'}")
                rows += rows_of(problem, training, format, stacks, framework=name)
    return outcome_of(settings, [{"rows": rows}])


def outcome_of(settings: Settings, lines: Sequence[Row]) -> Outcome:
    """What is shown of runs, by their lines."""
    rows = [row for line in lines for row in line["rows"]]
    summary = summarize(rows, ("framework", "format", "bits", "method"), METRICS)
    frameworks = list(dict.fromkeys(row["framework"] for row in summary))
    return Outcome(
        rows,
        summary,
        _text(settings, frameworks, summary),
        lambda figure: _draw(figure, frameworks, summary),
    )


def _of(summary: list[Row], framework: str) -> list[Row]:
    return [row for row in summary if row["framework"] == framework]


def _text(settings: Settings, frameworks: list[str], summary: list[Row]) -> str:
    parts = [
        f"{settings.epochs} epochs, rate {settings.learning_rate:g} (constant; decayed: then down"
        f" to 1%), batch {settings.batch}, λ = {settings.decay:g}, average from epoch"
        f" {settings.start}; {over(settings.seeds)}"
    ]
    for framework in frameworks:
        of_framework = _of(summary, framework)
        for metric, title, digits in zip(METRICS, TITLES, (4, 4, 2), strict=True):
            parts += [
                f"{title} on {framework}",
                pivot(of_framework, "bits", metric, digits, "fractional bits", settings.seeds),
            ]
    parts += [_agreement(summary, *pair) for pair in combinations(frameworks, 2)]
    return "\n\n".join(parts)


def _agreement(summary: list[Row], first: str, second: str) -> str:
    """How far two frameworks' means lie apart, in standard deviations over seeds (of both,
    pooled).
    """
    gaps = {}
    for one, other in zip(_of(summary, first), _of(summary, second), strict=True):
        for metric in METRICS:
            pooled = ((one[metric]["std"] ** 2 + other[metric]["std"] ** 2) / 2) ** 0.5
            gap = abs(one[metric]["mean"] - other[metric]["mean"])
            if pooled:
                gaps[f"{metric} of {one['method']} at {one['bits']}"] = gap / pooled
    if not gaps:
        return f"{first} and {second}: with one seed there is no spread to compare by"
    worst = max(gaps, key=gaps.__getitem__)
    return (
        f"{first} and {second}: the means lie {sum(gaps.values()) / len(gaps):.2f} standard"
        f" deviations over seeds apart on average, {gaps[worst]:.2f} at most ({worst})"
    )


def _draw(figure: Any, frameworks: list[str], summary: list[Row]) -> None:
    figure.set_size_inches(14, 4.8)
    panels = figure.subplots(1, 3)
    for framework, style in zip(frameworks, ("-", ":", "--"), strict=False):
        sweep_panels(
            panels, _of(summary, framework), style, f" ({framework})" if len(frameworks) > 1 else ""
        )
    legend(figure, panels[0])
