"""What theory says of the cases, the tables, the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._util.tables import table
from ..common.figure import BLUE, GRAY, GREEN, ORANGE, PURPLE, VERMILION
from ..common.report import Row, over, spread
from .cases import OPTIMUM, PARTS
from .settings import Settings


def floor(settings: Settings) -> float:
    """(Q(w*) - w*)² of part one: the least distance of any number in the format."""
    delta = 2.0**-settings.fraction
    return float((round(OPTIMUM / delta) * delta - OPTIMUM) ** 2)


def bound(settings: Settings) -> float:
    """Theorem 1's on the average of part one."""
    rate, steps, delta = settings.learning_rate, settings.steps, 2.0**-settings.fraction
    return (OPTIMUM / (rate * steps)) ** 2 + (rate**2 + delta**2 / 4) / (rate**2 * steps)


def slopes(settings: Settings, summary: Sequence[Row]) -> Row:
    """Of part two, the exponents of δ by which the iterate's distance falls and the square of the
    average's bias: least squares in logarithms.
    """
    means: dict[str, list[float]] = {"SGD-LP": [], "SWALP": []}
    for row in summary:
        if row["part"] == "2" and row["method"] in means:
            value = row["distance"] if row["method"] == "SGD-LP" else row["bias"]
            power = 1 if row["method"] == "SGD-LP" else 2
            means[row["method"]].append(power * float(np.log2(abs(value["mean"]))))
    exponents = [-fraction for fraction in settings.fractions]
    return {
        method: float(np.polyfit(exponents, values, 1)[0]) if len(exponents) > 1 else None
        for method, values in means.items()
    }


def text(settings: Settings, summary: Sequence[Row], facts: Row) -> str:
    """A table for each part."""
    parts = [
        f"{settings.steps} steps, α = {settings.learning_rate:g}, {settings.replicas} replicas;"
        f" {over(settings.seeds)}"
    ]
    for part, title in PARTS.items():
        lines = [
            [
                *(row[key] for key in ("numbers", "rounding", "weights", "method")),
                spread(row["distance"], 2, settings.seeds),
                spread(row["bias"], 2, settings.seeds),
            ]
            for row in summary
            if row["part"] == part
        ]
        header = ["numbers", "rounding", "weights", "method", "E(w - w*)²", "bias"]
        parts += [f"Part {part}: {title}", table(header, lines, left=range(4))]
        if part == "1":
            parts.append(
                f"Least distance of any number of the format: {facts['floor']:.2e}; theorem 1 has"
                f" SWALP at {facts['bound']:.2e} at most."
            )
        if part == "2" and facts["slopes"]["SWALP"] is not None:
            parts.append(
                f"As δ falls, SGD-LP's distance falls with δ^{facts['slopes']['SGD-LP']:.2f}, the"
                f" square of SWALP's bias with δ^{facts['slopes']['SWALP']:.2f}."
            )
    return "\n\n".join(parts)


def draw(figure: Any, settings: Settings, summary: Sequence[Row], facts: Row) -> None:
    """A panel for each part."""
    figure.set_size_inches(16, 4.8)
    first, second, third = figure.subplots(1, 3)
    _draw_rounding(first, settings, summary, facts)
    _draw_spacing(second, settings, summary)
    _draw_blocks(third, summary)
    for axes in (first, second, third):
        axes.grid(alpha=0.25)
        axes.legend(fontsize=9)


def _draw_rounding(first: Any, settings: Settings, summary: Sequence[Row], facts: Row) -> None:
    styles = {
        "stochastic_a": (BLUE, "-"),
        "stochastic_b": (GREEN, "-"),
        "stochastic_c": (PURPLE, ":"),
    }
    for mode, (color, style) in styles.items():
        points = [
            (settings.random_bits.index(int(bits.rstrip(">"))), row["distance"]["mean"])
            for row in summary
            if row["part"] == "1" and row["method"] == "SWALP"
            for name, _, bits in (_mode(row["rounding"]).partition("<"),)
            if name == mode
        ]
        first.plot(*zip(*points, strict=True), color=color, ls=style, marker="o", ms=4, label=mode)
    nearest = [row for row in summary if row["rounding"] == "nearest_even"]
    for row in nearest:
        if row["method"] == "SWALP":
            first.axhline(row["distance"]["mean"], color=VERMILION, label="nearest_even")
    first.axhline(facts["floor"], color="black", ls="--", lw=1, label="floor (Q(w*) − w*)²")
    first.axhline(facts["bound"], color=GRAY, ls=":", label="theorem 1")
    first.set_xticks(range(len(settings.random_bits)), settings.random_bits)
    first.set(title="SWALP, quadratic: E(w̄ − w*)²", xlabel="random bits", yscale="log")


def _draw_spacing(second: Any, settings: Settings, summary: Sequence[Row]) -> None:
    deltas = [2.0**-fraction for fraction in settings.fractions]
    for method, value, power, color, label in (
        ("SGD-LP", "distance", 1, VERMILION, "SGD-LP: E(w − w*)²"),
        ("SWALP", "bias", 2, BLUE, "SWALP: (E w̄ − w*)²"),
    ):
        means = [
            abs(row[value]["mean"]) ** power
            for row in summary
            if row["part"] == "2" and row["method"] == method
        ]
        second.loglog(deltas, means, color=color, marker="o", ms=4, label=label)
    second.set_xticks(deltas, [f"$2^{{-{fraction}}}$" for fraction in settings.fractions])
    second.minorticks_off()
    second.set(title="lopsided function", xlabel="δ")


def _draw_blocks(third: Any, summary: Sequence[Row]) -> None:
    names = list(dict.fromkeys(row["numbers"] for row in summary if row["part"] == "3"))
    for weights, method, color, marker in (
        ("large weights", "SGD-LP", VERMILION, "o"),
        ("large weights", "SWALP", BLUE, "o"),
        ("small weights", "SGD-LP", ORANGE, "v"),
        ("small weights", "SWALP", GREEN, "v"),
    ):
        found = {
            row["numbers"]: row["distance"]["mean"]
            for row in summary
            if row["part"] == "3" and (row["weights"], row["method"]) == (weights, method)
        }
        third.plot(
            [names.index(name) for name in found], list(found.values()),
            color=color, marker=marker, ls="", label=f"{method}, {weights}",
        )  # fmt: skip
    third.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names], fontsize=8)
    third.set(title="block floating point: E(w − w*)²", yscale="log")


def _mode(rounding: str) -> str:
    """With its random bits said in every case."""
    return rounding if "<" in rounding else f"{rounding}<32>"
