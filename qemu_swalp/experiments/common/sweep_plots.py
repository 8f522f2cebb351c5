"""Pictures of a sweep over numbers of bits, of the metrics and methods of `softmax`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..softmax.core import LOW_PRECISION, METHODS, METRICS
from .figure import BLUE, GRAY, ORANGE, VERMILION
from .report import Row

TITLES = ("gradient norm", "training loss", "test error, %")
"""Of METRICS."""
STYLES: dict[str, tuple[str, Any]] = {
    "SGD": (GRAY, (0, (1, 1))),
    "SGD decayed": (GRAY, (0, (5, 1, 1, 1))),
    "SWA": (GRAY, (0, (5, 2))),
    "SGD-LP": (VERMILION, "o"),
    "SGD-LP decayed": (ORANGE, "s"),
    "SWALP": (BLUE, "D"),
}
"""Method → color, and the dashes of its line where it is float32, else its marker."""


def sweep_panels(
    panels: Sequence[Any], summary: Sequence[Row], style: str = "-", suffix: str = ""
) -> None:
    """A panel for each of METRICS over the fractional bits."""
    for axes, metric, title in zip(panels, METRICS, TITLES, strict=True):
        sweep_panel(axes, summary, metric, style, suffix)
        axes.set(title=title, xlabel="fractional bits")
    panels[0].set_yscale("log")


def sweep_panel(
    axes: Any, summary: Sequence[Row], metric: str, style: str = "-", suffix: str = ""
) -> None:
    """One metric over the column `bits`: low precision as points with their deviations, float32 as
    horizontal lines.
    """
    for method, (color, mark) in STYLES.items():
        points = [
            (row["bits"], row[metric]["mean"], row[metric]["std"])
            for row in summary
            if row["method"] == method
        ]
        if method in METHODS:
            axes.axhline(points[0][1], color=color, ls=mark, label=f"{method}, float32{suffix}")
        else:
            axes.errorbar(
                *zip(*points, strict=True),
                color=color,
                ls=style,
                marker=mark,
                ms=5,
                capsize=3,
                label=method + suffix,
            )
    axes.set_xticks(sorted({row["bits"] for row in summary if row["method"] in LOW_PRECISION}))
    axes.grid(alpha=0.25)


def legend(figure: Any, axes: Any) -> None:
    """The legend of a panel, below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=9)
