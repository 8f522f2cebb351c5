"""What `show --plot` and `compare --plot` draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import Analysis, BinadeFormat, ElementFormat, quantize
from ..formats.binade import binade

MOST_TICKS = 3000
"""More values than these are drawn as their number in each binade."""
MOST_BINADES = 64
"""In more binades than these the error is drawn by its greatest value alone."""
SAMPLES = 20_000
VALUES, ERROR, OUTSIDE = "#1f4e79", "#c0392b", "0.92"
SCALES = range(-16, 17)
FAR = 48
"""Densities are drawn from 2^-FAR to 2^FAR at most."""


def draw_format(figure: Any, title: str, element: ElementFormat, unit: str) -> None:
    """The values of a format on a number line and in binades, and the relative error of nearest
    rounding.

    unit : what the values are multiplied by in a block, as in "·s".
    """
    figure.set_size_inches(10, 7.5)
    figure.suptitle(title, fontsize=13)
    low, high = magnitude_range(element)
    if element.value_count <= MOST_TICKS:
        line, binades, error = figure.subplots(3, 1, height_ratios=(1, 1.1, 2.6))
        values = np.array(element.values())
        line.vlines(values, 0, 1, lw=0.9, color=VALUES)
        line.set(yticks=[], ylim=(0, 1), title="all values")
        binades.vlines(values[values > 0], 0.52, 1, lw=0.9, color=VALUES)
        binades.vlines(-values[values < 0], 0, 0.48, lw=0.9, color=VALUES)
        binades.set(
            yticks=[0.24, 0.76],
            yticklabels=["negative", "positive"],
            ylim=(0, 1),
            title="magnitudes",
        )
        binades.tick_params(axis="y", length=0)
    else:
        binades, error = figure.subplots(2, 1, height_ratios=(1, 1.6))
        _density(binades, element, "", VALUES)
        binades.set(yscale="log", title="values in each binade")
    _errors(error, element, low, high)
    error.set_xlabel(f"magnitude{f', in units of the scale ({unit})' if unit else ''}")
    for axes in (binades, error):
        axes.set_xscale("log", base=2)
        axes.set_xlim(low / 4, high * 4)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)


def magnitude_range(element: ElementFormat) -> tuple[float, float]:
    """Least and greatest magnitude of the values other than zero."""
    high = max(element.max, -element.min)
    if isinstance(element, BinadeFormat):
        return element.min_positive, high
    return min(abs(v) for v in element.values() if v), high


def values_by_binade(element: ElementFormat) -> tuple[np.ndarray, np.ndarray]:
    """(binade, number of positive values in it), from that of the least to that of the greatest of
    them.

    >>> from qemu_swalp import parse
    >>> [each.tolist() for each in values_by_binade(parse("e2m1fn"))]
    [[-1, 0, 1, 2], [1, 2, 2, 2]]
    """
    if isinstance(element, BinadeFormat):
        binades = np.arange(binade(element.min_positive), binade(element.max) + 1)
        ranks = [element.rank(math.ldexp(1.0, int(e))) for e in binades]
        return binades, np.diff([*ranks, element.positive_count + 1])
    positive = [v for v in element.values() if v > 0]
    if not positive:
        return np.arange(0), np.arange(0)
    binades = np.array([binade(v) for v in positive])
    first, last = binades[0], binades[-1]
    return np.arange(first, last + 1), np.bincount(binades - first)


def _density(axes: Any, element: ElementFormat, label: str, color: Any) -> None:
    binades, counts = values_by_binade(element)
    edges = np.ldexp(1.0, np.append(binades, binades[-1:] + 1))
    axes.stairs(
        np.where(counts > 0, counts, np.nan), edges, label=label, color=color, lw=1.6, baseline=None
    )


def _errors(axes: Any, element: ElementFormat, low: float, high: float) -> None:
    """|Q(x) − x|/|x| of nearest rounding, and its greatest value in each binade, or each eighth of
    one.
    """
    first, last = math.frexp(low)[1] - 3, math.frexp(high)[1] + 2
    wide = last - first > MOST_BINADES
    x = np.geomspace(low / 4, high * 4, SAMPLES)
    sign = 1.0 if element.max == high else -1.0
    if element.value_count <= 2**16:  # the worst cases lie half way between neighbours
        values = np.sort([abs(v) for v in element.values() if v * sign >= 0])
        x = np.sort(np.concatenate([x, (values[1:] + values[:-1]) / 2]))
    x = x[(x > 0) & np.isfinite(x)]
    relative = np.abs(quantize(sign * x, element, overflow="saturate") - sign * x) / x
    edges = 2.0 ** np.arange(first, last + 1, 1 if wide else 1 / 8)
    worst = np.zeros(edges.size - 1)
    np.maximum.at(
        worst, np.clip(np.searchsorted(edges, x, "right") - 1, 0, worst.size - 1), relative
    )
    inside = worst[(edges[1:] > low) & (edges[:-1] < high) & (worst > 0)]
    least = max(float(inside.min(initial=1.0)) / 8, 2.0**-60)
    axes.axvspan(
        low / 4, low, color=OUTSIDE, lw=0, zorder=0, label="below the least or beyond the range"
    )
    axes.axvspan(high, high * 4, color=OUTSIDE, lw=0, zorder=0)
    if not wide:
        axes.plot(
            x, np.maximum(relative, least / 4), lw=0.4, color=ERROR, alpha=0.55, label="error"
        )
    axes.stairs(
        np.where(worst > 0, worst, np.nan),
        edges,
        color=ERROR,
        lw=1.8,
        baseline=None,
        label="greatest in a binade" if wide else "greatest in an eighth of a binade",
    )
    axes.set(yscale="log", ylim=(least, max(2.0, 1.5 * float(inside.max(initial=0.0)))))
    axes.set_title("relative error of nearest rounding", loc="left")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=9)


def draw_comparison(
    figure: Any,
    elements: Mapping[str, ElementFormat],
    over_scales: Mapping[str, Mapping[str, Any]],
    per_tensor: Mapping[str, Sequence[Analysis]],
) -> None:
    """Values in each binade; SQNR over the scale of each tensor; SQNR of each tensor of a file.

    over_scales : tensor → format → SQNR at 2^k for k in SCALES. per_tensor : format → analyses of
        the file's tensors.
    """
    panels = figure.subplots(1, 1 + len(over_scales) + bool(per_tensor))
    figure.set_size_inches(5.2 * len(panels), 4.8)
    colors = [f"C{i}" for i in range(len(elements))]
    for (name, element), color in zip(elements.items(), colors, strict=True):
        _density(panels[0], element, name, color)
    panels[0].set_xscale("log", base=2)
    panels[0].set_yscale("log", base=2)
    ends = [end for element in elements.values() for end in magnitude_range(element)]
    panels[0].set_xlim(max(min(ends), 2.0**-FAR) / 2, min(max(ends), 2.0**FAR) * 2)
    panels[0].set(
        title="density and range",
        xlabel="magnitude (of blocks: in units of the scale)",
        ylabel="values in a binade",
    )
    for axes, (tensor, curves) in zip(panels[1:], over_scales.items(), strict=False):
        for (name, curve), color in zip(curves.items(), colors, strict=True):
            axes.plot([2.0**k for k in SCALES], curve, color=color, lw=1.6, label=name)
        axes.set_xscale("log", base=2)
        axes.set(title=f"{tensor} tensor", xlabel="multiplied by", ylabel="SQNR, dB")
    if per_tensor:
        for (name, analyses), color in zip(per_tensor.items(), colors, strict=True):
            panels[-1].plot(
                range(1, len(analyses) + 1),
                [a.sqnr_db for a in analyses],
                "o-",
                ms=3.5,
                lw=0.8,
                color=color,
                label=name,
            )
        panels[-1].set(
            title="tensors of the file", xlabel="number of the tensor", ylabel="SQNR, dB"
        )
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(len(elements), 6),
    )
