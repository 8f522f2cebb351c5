"""Pictures by matplotlib, without a display."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..._util.extras import EXPERIMENTS, require


def save_picture(draw: Callable[[Any], None], path: Path) -> None:
    """Draw on an empty matplotlib figure and write it as a PNG. ImportError without matplotlib."""
    figure = require("matplotlib.figure", EXPERIMENTS).Figure(
        layout="constrained"
    )  # without pyplot: Agg draws it
    draw(figure)
    figure.savefig(path, dpi=150)
