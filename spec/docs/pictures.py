"""Draws the pictures of the README and the site: `python spec/docs/pictures.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from evidence import results
from matplotlib.figure import Figure

import qemu_swalp as q

HERE = Path(__file__).parent
FOLDER = HERE / "pages" / "pictures"
THEMES = {"light": ("#222222", "#8888"), "dark": ("#dddddd", "#8888")}
"""Theme → colour of text and axes, and of the grid. The background is transparent."""
BLUE, ORANGE, GRAY = "#4c8ed9", "#e08214", "#8c8c8c"  # readable on white and on near-black


def formats(figure: Any) -> None:
    """Positive values of two formats of eight bits, by magnitude."""
    figure.set_size_inches(7.2, 1.9)
    axes = figure.subplots()
    names = ("fixed<8,4>", "e4m3fn")
    for row, (name, color) in enumerate(zip(names, (ORANGE, BLUE), strict=True)):
        values = [v for v in q.parse(name).values() if v > 0]
        axes.vlines(values, row - 0.35, row + 0.35, color=color, lw=0.8)
    axes.set_xscale("log", base=2)
    axes.set(yticks=range(2), yticklabels=names, xlabel="magnitude")


def blocks(figure: Any) -> None:
    """The error of the same array under one scale, a scale for each row, and for each run of 8."""
    figure.set_size_inches(7.2, 1.4)
    rng = np.random.default_rng(0)
    rows = 2.0 ** np.array([0, -2, -4, -6, -1, -3])[:, None]
    columns = np.repeat([1, 0.3, 0.1], 8)
    x = (rng.standard_normal((6, 24)) * rows * columns).astype(np.float32)
    geometries = {"one scale": "bfp<6>", "for each row": "bfp<6,axis=0>"}
    geometries["for each run of 8"] = "bfp<6,axis=-1,size=8>"
    for axes, (title, name) in zip(figure.subplots(1, 3), geometries.items(), strict=True):
        error = np.abs(q.quantize(x, name) / x - 1)
        axes.imshow(np.log10(np.maximum(error, 1e-3)), cmap="cividis", vmin=-3, vmax=0)
        axes.set_title(f"{title}\n{name}", fontsize=9)
        axes.set(xticks=[], yticks=[], xlabel=f"mean relative error {error.mean():.0%}")


def stochastic(figure: Any) -> None:
    """Eight weights that receive 200 updates of a tenth of a step of their format."""
    figure.set_size_inches(7.2, 2.8)
    axes = figure.subplots()
    update = 0.1 * 2.0**-4
    axes.plot(np.arange(201) * update, color=GRAY, ls="--", lw=2, label="exact", zorder=3)
    for mode, color in (("nearest_even", ORANGE), ("stochastic", BLUE)):
        paths = np.zeros((201, 8), np.float32)
        for step in range(200):
            bits = q.RandomBits(seed=0, step=step)
            paths[step + 1] = q.quantize(paths[step] + update, "fixed<8,4>", mode, random=bits)
        lines = axes.step(range(201), paths, color=color, lw=0.8)
        lines[0].set_label(mode)
    axes.set(xlabel="updates", ylabel="weight in fixed<8,4>")
    axes.legend(frameon=False)


def swalp(figure: Any) -> None:
    """Gradient norm and test error of softmax regression over fractional bits."""
    figure.set_size_inches(7.2, 2.8)
    ((*_, outcome, _),) = results("digits")
    summary = outcome.summary
    methods = {"SGD-LP": (ORANGE, "o-"), "SGD-LP decayed": (GRAY, "s--"), "SWALP": (BLUE, "D-")}
    panels = figure.subplots(1, 2)
    for value, axes in zip(("gradient_norm", "test_error"), panels, strict=True):
        for method, (color, style) in methods.items():
            rows = [row for row in summary if row["part"] == 1 and row["method"] == method]
            bits = [row["bits"] for row in rows]
            means, deviations = ([row[value][key] for row in rows] for key in ("mean", "std"))
            axes.errorbar(
                bits, means, deviations, fmt=style, color=color, capsize=3, ms=5, label=method
            )
        axes.set(xlabel="fractional bits of the weights", xticks=bits)
    panels[0].set(yscale="log", title="gradient norm")
    panels[1].set(title="test error, %", ylim=(0, None))
    panels[1].legend(frameon=False)


PICTURES: dict[str, Callable[[Any], None]] = {
    "formats": formats,
    "blocks": blocks,
    "stochastic": stochastic,
    "swalp": swalp,
}


def save(name: str, theme: str, path: Path) -> None:
    """Draw a picture in the colours of a theme; the same bytes on every run."""
    text, grid = THEMES[theme]
    colors = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[str, Any] = dict.fromkeys(colors, text) | {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": grid,
    }
    with mpl.rc_context(style):
        figure = Figure(layout="constrained")
        PICTURES[name](figure)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Draw every picture in every theme."""
    FOLDER.mkdir(exist_ok=True)
    for name in PICTURES:
        for theme in THEMES:
            save(name, theme, FOLDER / f"{name}-{theme}.svg")


if __name__ == "__main__":
    main()
