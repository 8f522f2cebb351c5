"""What rounding did in a training run, place by place: figures that add up, as rows and a table."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from .._util.tables import table
from ..arrays import Array
from ..ops.analysis import Analysis, UpdateAnalysis, analyze
from ..ops.quantize import quantize
from ..ops.quantizer import Quantizer
from ..random_bits import RandomBits

WEIGHTS = ("weight", "accumulator")
"""Roles whose roundings can lose updates."""

COLUMNS = {
    "place": "",
    "role": "",
    "quantizer": "",
    "saturated": ".2%",
    "flushed": ".2%",
    "non-finite": ".2%",
    "SQNR, dB": ".1f",
    "lost updates": ".2%",
    "gradient/noise": ".3g",
}
"""Headings of the table, and how their figures are written."""

Label = tuple[str, str]
"""(place, role)."""


class Gradients:
    """First and second moment of the gradients of one parameter over some steps."""

    def __init__(self) -> None:
        self.count, self.squares = 0, 0.0
        self.total: Any = 0.0

    def add(self, gradient: Any) -> None:
        """Count a gradient, a float64 array of NumPy or PyTorch."""
        self.count += 1
        self.squares += float((gradient * gradient).sum())
        self.total = self.total + gradient

    @property
    def to_noise(self) -> float:
        """‖ḡ‖²/tr Σ: infinity where they are all alike, NaN for fewer than two."""
        if self.count < 2:
            return math.nan
        mean = self.total / self.count
        mean_square = float((mean * mean).sum())
        noise = (self.squares - self.count * mean_square) / (self.count - 1)
        return mean_square / noise if noise > 0 else math.inf


class RoundingFigures:
    """Figures of each place and role that was rounded, and of each parameter's gradients; they add
    up until `reset`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the figures."""
        self.quantizers: dict[Label, str] = {}
        self.analyses: dict[Label, Analysis] = defaultdict(Analysis)
        self.updates: dict[Label, UpdateAnalysis] = defaultdict(UpdateAnalysis)
        self.gradients: dict[str, Gradients] = defaultdict(Gradients)
        self.last: dict[Label, Any] = {}
        """The weights as they were rounded last, with which the next update begins."""

    def see(
        self,
        label: Label,
        x: Array,
        quantizer: Quantizer,
        random: RandomBits | None,
        scales: Any = None,
    ) -> None:
        """Count what is about to be rounded, an array of NumPy or PyTorch; under `scales`, where
        they are given.
        """
        form, rounding = quantizer.format, quantizer.rounding
        self.quantizers[label] = str(quantizer)
        self.analyses[label] += analyze(x, form, rounding, random=random, scales=scales)
        if label[1] not in WEIGHTS:
            return
        before, after = self.last.get(label), quantize(x, form, rounding, random=random)
        if before is not None:
            changed = x != before
            lost = changed & (after == before)
            self.updates[label] += UpdateAnalysis(int(changed.sum()), int(lost.sum()))
        self.last[label] = after

    def rows(self) -> list[dict[str, Any]]:
        """One for each place and role, as plain values: place, role, quantizer (None: not rounded),
        saturated, flushed, nonfinite, sqnr_db, lost_updates, gradient_to_noise; None where a figure
        does not apply, NaN where there was too little to see for it.
        """
        rows = []
        for label, analysis in self.analyses.items():
            place, role = label
            gradients = self.gradients.get(place) if role == "weight" else None
            rows.append(
                {
                    "place": place,
                    "role": role,
                    "quantizer": self.quantizers[label],
                    "saturated": analysis.share_saturated,
                    "flushed": analysis.share_flushed,
                    "nonfinite": analysis.share_nonfinite,
                    "sqnr_db": analysis.sqnr_db,
                    "lost_updates": (
                        self.updates[label].zero_update_rate if role in WEIGHTS else None
                    ),
                    "gradient_to_noise": None if gradients is None else gradients.to_noise,
                }
            )
        figures = ("quantizer", "saturated", "flushed", "nonfinite", "sqnr_db", "lost_updates")
        shown = {place for place, role in self.analyses if role == "weight"}
        rows += [
            {
                "place": place,
                "role": "weight",
                **dict.fromkeys(figures),
                "gradient_to_noise": gradients.to_noise,
            }
            for place, gradients in self.gradients.items()
            if place not in shown
        ]
        return rows

    def write(self, writer: Any, step: int | None = None) -> None:
        """Every figure as a scalar named PLACE/ROLE/FIGURE, to a TensorBoard writer with
        `add_scalar`: `torch.utils.tensorboard.SummaryWriter` or `tensorboard.summary.Writer`.
        """
        for row in self.rows():
            for figure, value in row.items():
                if isinstance(value, float):
                    writer.add_scalar(f"{row['place']}/{row['role']}/{figure}", value, step)

    def __str__(self) -> str:
        """The rows as a table; nothing where nothing was seen."""
        return table(
            tuple(COLUMNS),
            (
                [
                    ("" if value is None or value != value else format(value, how))
                    for value, how in zip(row.values(), COLUMNS.values(), strict=True)
                ]
                for row in self.rows()
            ),
            left=range(3),
        )
