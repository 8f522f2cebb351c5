"""The table and the picture of the runs of the language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..._util.tables import table
from ..common.figure import BLUE, BROWN, GRAY, GREEN, ORANGE, PURPLE, SKY, VERMILION
from ..common.report import Outcome, Row, over, spread, summarize
from .settings import Settings

METHODS = {
    "last": ("last iterate", VERMILION, "o"),
    "decayed": ("decayed", ORANGE, "s"),
    "swa": ("SWA(LP)", BLUE, "D"),
    "ema": ("EMA", GREEN, "^"),
    "lawa": ("LAWA", PURPLE, "v"),
}
"""Method → its name, color and marker."""
COLORS = (GRAY, SKY, BLUE, GREEN, ORANGE, VERMILION, PURPLE, BROWN)
NUMBERS = {"rounded": "numbers rounded as in training", "in_float": "in float"}


def outcome_of(settings: Settings, lines: Sequence[Row]) -> Outcome:
    """What is shown of runs, by their lines."""
    facts = lines[0]["corpus"]
    python = lines[0]["environment"]["versions"]["python"]
    rows: list[Row] = [
        {"recipe": line["recipe"], "seed": line["seed"]} | row
        for line in lines
        for row in line["rows"]
    ]
    summary = summary_of(rows)
    curves = [{key: line[key] for key in ("recipe", "seed", "curve")} for line in lines]
    return Outcome(
        rows,
        summary,
        text(settings, facts | {"python": python}, summary),
        lambda figure: draw(figure, settings, curves, summary),
        {"corpus": facts, "runs": curves},
    )


def summary_of(rows: Sequence[Row]) -> list[Row]:
    """Mean and deviation over the seeds, of both ways to judge."""
    return summarize(rows, ("recipe", "method"), tuple(NUMBERS))


def text(settings: Settings, facts: Row, summary: Sequence[Row]) -> str:
    """A table for each way to judge, and what was read."""
    parts = [
        f"bits a byte on held-out files, {settings.steps} steps of {settings.batch} ×"
        f" {settings.context} bytes, averages and the decay from step {settings.fork} on;"
        f" {over(settings.seeds)}"
    ]
    for value, what in NUMBERS.items():
        parts += [what, table(*pivot(summary, value, settings.seeds))]
    missing = f"; it lacks {', '.join(facts['missing'])}" if facts["missing"] else ""
    parts.append(
        f"Text: the standard library of Python {facts['python']}{missing};"
        f" {facts['training_bytes']:,} bytes to train on, {facts['held_out_bytes']:,} held out;"
        f" SHA-256 {facts['sha256'][:16]}."
        " Last iterate and averages are of one run at a constant\nrate; decayed parts from it and"
        " makes the same number of steps. The last layer is in float in all of them."
    )
    return "\n\n".join(parts)


def pivot(summary: Sequence[Row], value: str, seeds: int) -> tuple[list[str], list[list[str]]]:
    """Header and lines: a line for each recipe, the methods in columns."""
    cells = {(row["recipe"], row["method"]): spread(row[value], 3, seeds) for row in summary}
    recipes = list(dict.fromkeys(recipe for recipe, _ in cells))
    header = ["recipe", *(name for name, *_ in METHODS.values())]
    return header, [[recipe, *(cells[recipe, m] for m in METHODS)] for recipe in recipes]


def draw(figure: Any, settings: Settings, runs: Sequence[Row], summary: Sequence[Row]) -> None:
    """Training loss by step; and what each method reaches, recipe by recipe."""
    figure.set_size_inches(12, 4.8)
    losses, reached = figure.subplots(1, 2)
    recipes = list(dict.fromkeys(run["recipe"] for run in runs))
    for run in runs:
        color = COLORS[recipes.index(run["recipe"]) % len(COLORS)]
        for decayed, style in ((False, "-"), (True, ":")):
            points = [
                (point["step"], point["train_bits"])
                for point in run["curve"]
                if point["decayed"] == decayed
            ]
            label = run["recipe"] + (", decayed" if decayed else "")
            losses.plot(*zip(*points, strict=True), color=color, ls=style, lw=1.2, label=label)
    losses.axvline(settings.fork, color="0.8", lw=1, zorder=0)
    losses.set(title="training loss, bits a byte", xlabel="step")
    _legend(losses)
    for shift, (method, (name, color, marker)) in enumerate(METHODS.items(), -2):
        found: Mapping[str, Row] = {
            row["recipe"]: row["rounded"] for row in summary if row["method"] == method
        }
        reached.errorbar(
            [recipes.index(recipe) + 0.12 * shift for recipe in found],
            [row["mean"] for row in found.values()],
            [row["std"] for row in found.values()],
            color=color, marker=marker, ls="", ms=5, capsize=3, label=name,
        )  # fmt: skip
    reached.set_xticks(range(len(recipes)), recipes)
    reached.set(title="held-out files, bits a byte")
    _legend(reached)
    for axes in (losses, reached):
        axes.grid(alpha=0.25)


def _legend(axes: Any) -> None:
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), fontsize=8, ncols=2)
