"""SWALP on scikit-learn's 8×8 digits, in a minute or two: weights alone on the core, then every number of a network.

Part one: softmax regression with L2, weights in fixed point, a sweep over the fractional bits. Part two
(`digits_network`): a network in block floating point, on PyTorch or on Keras; left out, with a sentence, where PyTorch
is absent and Keras not asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .. import Fixed
from . import digits_network, load_on
from .data import Dataset, digits
from .report import Outcome, Progress, Row, pivot, progress, summarize
from .settings import Settings as Common
from .settings import option
from .softmax import METRICS, Softmax, Training, rows_of, train_on_core
from .sweep import legend, sweep_panel, sweep_panels

INTEGER_BITS = 4
"""Sign included: weights lie in [-8, 8)."""
LEFT_OUT = "Part two, a network with every number in block floating point, is left out: {}; or choose --framework keras"


@dataclass(frozen=True)
class Settings(Common):
    """Options of `qemu-swalp reproduce digits`."""

    fractions: tuple[int, ...] = option((2, 4, 6, 8), "part one: fractional bits of the weights; the word has 4 more",
                                        quick=(4,), above=0, most=20)
    epochs: int = option(200, "part one: passes over the training images", quick=4, above=0)
    start: int = option(50, "part one: epochs before averaging, which then takes every step", quick=2, above=-1)
    learning_rate: float = option(0.5, "part one: constant learning rate", above=0)
    batch: int = option(32, "part one: samples in a mini-batch", above=0)
    decay: float = option(1e-3, "part one: λ of the L2 term λ/2 ‖W‖²", above=0)
    framework: str = option("torch", "part two: where to run; Keras on the backend that KERAS_BACKEND names",
                            choices=("torch", "keras"))
    words: tuple[int, ...] = option((8, 6, 4), "part two: bits of a block floating point number", quick=(4,), above=1,
                                    most=24)
    network_epochs: int = option(20, "part two: passes over the training images", quick=2, above=0)
    network_start: int = option(10, "part two: epochs before averaging, which then takes every step", quick=1, above=-1)
    network_rate: float = option(0.2, "part two: constant learning rate", above=0)
    network_batch: int = option(32, "part two: samples in a mini-batch", quick=128, above=0)
    network_decay: float = option(5e-4, "part two: weight decay", above=-1)
    momentum: float = option(0.9, "part two: momentum", above=-1)
    hidden: int = option(64, "part two: hidden units", quick=16, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network_start >= self.network_epochs:
            raise ValueError("--network-start must be less than --network-epochs, or nothing is averaged; got "
                             f"{self.network_start} and {self.network_epochs}")


def run(settings: Settings) -> Outcome:
    """Part one, and part two unless PyTorch is absent and nothing else asked for. ImportError where Keras is absent."""
    data = digits()
    training = Training(settings.learning_rate, settings.batch, settings.epochs, settings.start, settings.decay,
                        settings.run_seeds)
    steps = 2 * (1 + len(settings.fractions)) * training.steps(len(data.train))
    network, reason = _network(settings.framework)
    if network:
        steps += digits_network.total_steps(settings, len(data.train))
    with progress(steps) as bar:
        rows = _regression(settings, training, data, bar)
        network_rows = digits_network.rows(network.train, settings, data, bar) if network else []
    regression = summarize(rows, ("bits", "method"), METRICS)
    errors = summarize(network_rows, ("bits", "method"), ("test_error",))
    text = _regression_text(settings, regression)
    text += _network_text(settings, network.FRAMEWORK, errors) if network else [LEFT_OUT.format(reason)]
    return Outcome([{"part": 1} | row for row in rows] + [{"part": 2} | row for row in network_rows],
                   [{"part": 1} | row for row in regression] + [{"part": 2} | row for row in errors],
                   "\n\n".join(text), lambda figure: _draw(figure, regression, errors))


def _network(framework: str) -> tuple[ModuleType | None, str]:
    """The module of part two, or what PyTorch lacks for it."""
    try:
        return load_on(framework, "digits_network"), ""
    except ImportError as error:
        if framework != "torch":
            raise
        return None, str(error)


def _regression(settings: Settings, training: Training, data: Dataset, bar: Progress) -> list[Row]:
    problem = Softmax(data, settings.decay)
    rows: list[Row] = []
    for format in (None, *(Fixed(f + INTEGER_BITS, f) for f in settings.fractions)):
        stacks = train_on_core(problem, training, format, bar, f"softmax regression, {format or 'float32'}")
        rows += rows_of(problem, training, format, stacks)
    return rows


def _regression_text(settings: Settings, summary: list[Row]) -> list[str]:
    return [
        f"Part one: softmax regression on the core, weights in fixed point, {settings.epochs} epochs, average from "
        f"epoch {settings.start}; mean ± standard deviation over {settings.seeds} seeds",
        "norm of the gradient of the training loss",
        pivot(summary, "bits", "gradient_norm", 4, "fractional bits"),
        "test error, %",
        pivot(summary, "bits", "test_error", 2, "fractional bits"),
    ]


def _network_text(settings: Settings, framework: str, summary: list[Row]) -> list[str]:
    return [
        f"Part two: a network on {framework}, every number in block floating point, {settings.network_epochs} epochs, "
        f"average from epoch {settings.network_start}",
        "test error, %",
        pivot(summary, "bits", "test_error", 2, "bits of a number"),
        "The methods of a line make the same number of steps. SGD and SWA (SGD-LP and SWALP) are the last iterate and\n"
        "the average of one run at a constant rate; decayed is a run of its own, whose rate goes down to 1%.",
    ]


def _draw(figure: Any, regression: list[Row], errors: list[Row]) -> None:
    figure.set_size_inches(14 + 4.4 * bool(errors), 4.8)
    panels = figure.subplots(1, 3 + bool(errors))
    sweep_panels(panels[:3], regression)
    legend(figure, panels[0])
    second = "; network, all in block floating point" if errors else ""
    figure.suptitle(f"digits: softmax regression, weights in fixed point{second}")
    if errors:
        sweep_panel(panels[3], errors, "test_error")
        panels[3].set(title="network: test error, %", xlabel="bits of every number")
