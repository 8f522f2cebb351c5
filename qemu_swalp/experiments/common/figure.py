"""Pictures by matplotlib, without a display: a whole one, and a file for each of its panels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..._util.extras import EXPERIMENTS, require

PANEL_INCHES = (4.8, 3.6)
"""So that text is legible where a panel is as wide as a phone."""
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
}
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BROWN, GRAY = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#7f7f7f"),
)
"""The colors of Okabe and Ito, which people with any color vision can tell apart, and two more."""


def save_picture(draw: Callable[[Any], None], path: Path) -> None:
    """Draw on an empty matplotlib figure and write it, by its suffix. ImportError without
    matplotlib.
    """
    with require("matplotlib", EXPERIMENTS).rc_context(STYLE):
        figure = _figure()
        draw(figure)
        figure.savefig(path, dpi=150)


def save_panels(draw: Callable[[Any], None], path: Path) -> list[Path]:
    """Write each panel as a picture of its own, NAME-1.svg, NAME-2.svg, …; returns their paths."""
    with require("matplotlib", EXPERIMENTS).rc_context(STYLE | {"svg.hashsalt": path.stem}):
        panels = Panels()
        draw(panels)
        for old in path.parent.glob(f"{path.stem}-[0-9].svg"):
            old.unlink()  # of a picture that had more panels
        written = [path.with_name(f"{path.stem}-{i}.svg") for i in range(1, 1 + len(panels.axes))]
        for axes, file in zip(panels.axes, written, strict=True):
            axes.figure.savefig(file, metadata={"Date": None})
    return written


class Panels:
    """Stands for a figure in what draws on one; each of its axes has a figure of its own."""

    def __init__(self) -> None:
        self.axes: list[Any] = []

    def subplots(
        self,
        rows: int = 1,
        columns: int = 1,
        *,
        squeeze: bool = True,
        sharey: bool = False,
        **_: Any,
    ) -> Any:
        """Axes as `Figure.subplots` arranges them. A shared y axis is shared."""
        made = np.empty((rows, columns), object)
        for place in np.ndindex(rows, columns):
            share = made[0, 0] if sharey and self.axes else None
            made[place] = _figure(PANEL_INCHES).add_subplot(sharey=share)
            self.axes.append(made[place])
        if not squeeze:
            return made
        return made.item() if made.size == 1 else made.squeeze()

    def legend(self, handles: Any, labels: Any, **_: Any) -> None:
        """The common legend below each panel."""
        for axes in self.axes:
            axes.figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)

    def set_size_inches(self, *_: float) -> None:
        """Panels have their own size."""

    def suptitle(self, *_: Any, **__: Any) -> None:
        """Panels have their own titles."""


def _figure(inches: tuple[float, float] | None = None) -> Any:
    """An empty figure that is in no window: without pyplot, Agg draws it."""
    return require("matplotlib.figure", EXPERIMENTS).Figure(inches, layout="constrained")
