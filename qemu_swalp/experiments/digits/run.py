"""SWALP on scikit-learn's 8×8 digits, in a minute or two: weights alone on the core, then every
number of a network.

Part one: softmax regression with L2, weights in fixed point, a sweep over the fractional bits. Part
two (`mlp`): a network in block floating point, on PyTorch or on Keras; left out, with a sentence,
where PyTorch is absent and Keras not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from ... import Fixed
from .. import load_on_framework
from ..common.data import Dataset, digits
from ..common.report import Outcome, Progress, Row, over, pivot, progress, summarize
from ..common.sweep_plots import legend, sweep_panel, sweep_panels
from ..softmax.core import METRICS, Softmax, Training, rows_of, train_on_core
from . import mlp
from .settings import Settings

INTEGER_BITS = 4
"""Sign included: weights lie in [-8, 8)."""
PARTS = {
    1: "softmax regression, weights in fixed point",
    2: "network, every number in block floating point",
}
BY = ("part", "part_is")
LEFT_OUT = (
    "Part two, a network with every number in block floating point, is left out: {}; or choose"
    " --framework keras"
)


def run(settings: Settings) -> Outcome:
    """Part one, and part two unless PyTorch is absent and nothing else asked for. ImportError where
    Keras is absent.
    """
    data = digits()
    training = Training(
        settings.learning_rate,
        settings.batch,
        settings.epochs,
        settings.start,
        settings.decay,
        settings.run_seeds,
    )
    steps = 2 * (1 + len(settings.fractions)) * training.steps(len(data.train))
    network, reason = _network(settings.framework)
    if network:
        steps += mlp.total_steps(settings, len(data.train))
    with progress(steps) as bar:
        rows = _regression(settings, training, data, bar)
        network_rows = mlp.rows(network, settings, data, bar) if network else []
    outcome = outcome_of(settings, [{"rows": _parts(rows, network_rows)}])
    if network:
        return outcome
    return replace(outcome, text=f"{outcome.text}\n\n{LEFT_OUT.format(reason)}")


def outcome_of(settings: Settings, lines: Sequence[Row]) -> Outcome:
    """What is shown of runs, by their lines."""
    rows = [row for line in lines for row in line["rows"]]
    first, second = ([row for row in rows if row["part"] == part] for part in PARTS)
    regression = summarize(first, (*BY, "format", "bits", "method"), METRICS)
    errors = summarize(second, (*BY, "format", "bits", "framework", "method"), ("test_error",))
    text = _regression_text(settings, regression) + _network_text(settings, errors)
    return Outcome(
        rows,
        regression + errors,
        "\n\n".join(text),
        lambda figure: _draw(figure, regression, errors),
    )


def _parts(regression: list[Row], network: list[Row]) -> list[Row]:
    """The rows of both parts, each with its number and what it is."""
    return [
        {"part": number, "part_is": PARTS[number]} | row
        for number, rows in enumerate((regression, network), 1)
        for row in rows
    ]


def _network(framework: str) -> tuple[ModuleType | None, str]:
    """The module of part two, or what PyTorch lacks for it."""
    try:
        return load_on_framework(framework, "digits"), ""
    except ImportError as error:
        if framework != "torch":
            raise
        return None, str(error)


def _regression(settings: Settings, training: Training, data: Dataset, bar: Progress) -> list[Row]:
    problem = Softmax(data, settings.decay)
    rows: list[Row] = []
    for format in (None, *(Fixed(f + INTEGER_BITS, f) for f in settings.fractions)):
        stacks = train_on_core(
            problem, training, format, bar, f"softmax regression, {format or 'float32'}"
        )
        rows += rows_of(problem, training, format, stacks)
    return rows


def _regression_text(settings: Settings, summary: list[Row]) -> list[str]:
    return [
        (
            f"Part one: softmax regression on the core, weights in fixed point, {settings.epochs}"
            f" epochs, average from epoch {settings.start}; {over(settings.seeds)}"
        ),
        "norm of the gradient of the training loss",
        pivot(summary, "bits", "gradient_norm", 4, "fractional bits", settings.seeds),
        "test error, %",
        pivot(summary, "bits", "test_error", 2, "fractional bits", settings.seeds),
    ]


def _network_text(settings: Settings, summary: list[Row]) -> list[str]:
    if not summary:
        return []
    return [
        (
            f"Part two: a network on {summary[0]['framework']}, every number in block floating"
            f" point, {settings.network_epochs} epochs, average from epoch {settings.network_start}"
        ),
        "test error, %",
        pivot(summary, "bits", "test_error", 2, "bits of a number", settings.seeds),
        (
            "The methods of a line make the same number of steps. SGD and SWA (SGD-LP and SWALP)"
            " are the last iterate and\nthe average of one run at a constant rate; decayed is a run"
            " of its own, whose rate goes down to 1%."
        ),
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
