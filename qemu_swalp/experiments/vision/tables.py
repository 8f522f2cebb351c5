"""The table and the picture of the runs of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..._util.tables import table
from ..common.figure import BLUE, BROWN, GRAY, GREEN, ORANGE, PURPLE, SKY, VERMILION
from ..common.report import Outcome, Row, over, spread, summarize
from .jobs import Job
from .paper_results import PUBLISHED
from .settings import Settings

NAMES = {
    "sgd": ("SGD", "SGD-LP"),
    "decayed": ("SGD decayed", "SGD-LP decayed"),
    "swa": ("SWA", "SWALP"),
    "ema": ("EMA", "EMA"),
    "lawa": ("LAWA", "LAWA"),
    "aswa": ("ASWA", "ASWA"),
    "sqwa": ("SQWA", "SQWA"),
    "swap": ("SWAP", "SWAP"),
}
"""Method → its name in float32, and in low precision."""
STYLES = {
    "sgd": (VERMILION, "o"),
    "decayed": (ORANGE, "s"),
    "swa": (BLUE, "D"),
    "ema": (GREEN, "^"),
    "lawa": (PURPLE, "v"),
    "aswa": (BROWN, "P"),
    "sqwa": (GRAY, "X"),
    "swap": (SKY, "*"),
}
"""Method → color and marker."""


def name_of(method: str, word: int | None) -> str:
    """Of a method, a study's average included.

    >>> name_of("swa every 1, 9 bits", 8), name_of("sgd", None)
    ('SWALP every 1, 9 bits', 'SGD')
    """
    kind, space, rest = method.partition(" ")
    return NAMES[kind][word is not None] + space + rest


def outcome_of(name: str, settings: Settings, lines: Sequence[Row]) -> Outcome:
    """What is shown of runs, by their lines."""
    rows = [row for line in lines for row in rows_of(line, settings)]
    summary = summary_of(name, rows)
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
        text(name, settings, lines[0]["images"], summary),
        lambda figure: draw(figure, settings, curves),
        {"runs": curves},
    )


def rows_of(line: Row, settings: Settings) -> list[Row]:
    """A run's rows of the methods asked for."""
    numbers = Job.of(line).numbers
    return [
        {
            "numbers": numbers,
            "method": name_of(row["method"], line["word"]),
            "point": "end" if row["epoch"] == settings.epochs else "start",
            "epoch": row["epoch"],
            "seed": line["seed"],
            "key": row["method"],
            "test_error": row["error"],
            "test_loss": row["loss"],
        }
        for row in line["rows"]
        if row["method"].partition(" ")[0] in settings.method
    ]


def summary_of(name: str, rows: Sequence[Row]) -> list[Row]:
    """Mean and deviation over the seeds, and the error that was published."""
    known = PUBLISHED.get(name, {})
    return [
        row | {"published": known.get((row["numbers"], row["key"], row["point"]), "")}
        for row in summarize(
            rows, ("numbers", "method", "key", "point", "epoch"), ("test_error", "test_loss")
        )
    ]


def text(name: str, settings: Settings, images: int, summary: Sequence[Row]) -> str:
    """The table, the published figure beside ours, and what the lines mean."""
    cells = {
        (row["numbers"], row["method"], row["point"]): spread(row["test_error"], 2, settings.seeds)
        for row in summary
    }
    lines = list(dict.fromkeys((row["numbers"], row["method"]) for row in summary))
    header = ["numbers", "method", f"epoch {settings.start}", f"epoch {settings.epochs}"]
    body = [
        [*line, cells.get((*line, "start"), ""), cells.get((*line, "end"), "")] for line in lines
    ]
    if name in PUBLISHED:
        header.append("published, full recipe")
        for line in body:
            line.append(
                "; ".join(
                    f"{row['published']} at the {row['point']}"
                    for row in summary
                    if [row["numbers"], row["method"]] == line[:2] and row["published"]
                )
            )
    sets = f"{images} training images" + (
        f", {settings.validation} more held out" if settings.validation else ""
    )
    notes = [
        (
            f"{name}: test error in %, {sets}, {settings.epochs} epochs, average from epoch"
            f" {settings.start}; {over(settings.seeds)}"
        ),
        table(header, body, left=(0, 1)),
        (
            "SGD and all averages but SQWA and SWAP are of one run, whose rate is the recipe's;"
            " averages are evaluated in\nfloat, SGD-LP and SQWA as they train, activations rounded."
            " Decayed: a run of its own with the same budget."
        ),
    ]
    return "\n\n".join(notes)


def draw(figure: Any, settings: Settings, runs: Sequence[Row]) -> None:
    """Training loss and test error by epoch, a panel each for every kind of numbers; thin lines are
    seeds.
    """
    numbers = list(dict.fromkeys(run["numbers"] for run in runs))
    figure.set_size_inches(5.5 * len(numbers), 8)
    panels = figure.subplots(2, len(numbers), squeeze=False, sharex=True)
    for place, name in enumerate(numbers):
        loss, error = panels[0, place], panels[1, place]
        for run in (run for run in runs if run["numbers"] == name):
            kind = run["kind"]
            style = STYLES["sgd" if kind == "plain" else kind]
            _line(loss, run["curve"], "train_loss", style, kind)
            for method in dict.fromkeys(
                key for point in run["curve"] for key in point if key not in POINT
            ):
                _line(error, run["curve"], method, STYLES[method.partition(" ")[0]], method)
        loss.set(title=f"{name}: training loss", xlabel="epoch", yscale="log")
        error.set(title=f"{name}: test error, %", xlabel="epoch")
        for axes in (loss, error):
            axes.axvline(settings.start, color="0.8", lw=1, zorder=0)
            axes.grid(alpha=0.25)
            handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
            axes.legend(handles.values(), handles.keys(), fontsize=9)


POINT = ("epoch", "train_loss", "train_error")


def _line(axes: Any, curve: Sequence[Row], key: str, style: tuple[str, str], label: str) -> None:
    color, marker = style
    points = [(point["epoch"], point[key]) for point in curve if point.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, ms=4, lw=1, label=label)
