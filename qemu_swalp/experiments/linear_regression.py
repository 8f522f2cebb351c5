"""SWALP on least squares (Yang et al. 2019, section 4): below the quantization floor, with the
weights in fixed point.

f(w) = 1/(2n) ‖Xw - y‖², X of n × d standard normal numbers, y = Xv + noise with v uniform in [-1,
1]^d; w* is its least-squares solution. Mini-batches are drawn with replacement. The average takes
every iterate, w_0 = 0 included (algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import Fixed, quantize
from .._util.tables import table
from ..training import SGD, Averaging, Recipe, fixed_point
from .common.figure import BLUE, GRAY, VERMILION
from .common.report import Outcome, Progress, Row, over, pivot, progress, summarize
from .common.settings import Settings as Common, option
from .common.sgd_runs import Reals, Snapshot, descend, draws, log_spaced

INTEGER_BITS = 2
"""Sign included: weights lie in [-2, 2)."""


@dataclass(frozen=True)
class Settings(Common):
    """Options of `qemu-swalp reproduce linear-regression`."""

    chosen: ClassVar[tuple[str, ...]] = ("seeds",)
    """The first seed is that of the problem, which all runs have in common."""

    fractions: tuple[int, ...] = option(
        (4, 6, 8),
        "fractional bits of the weights; the word has two more",
        above=0,
        quick=(4,),
        most=20,
    )
    steps: int = option(50_000, "mini-batch steps", quick=400, above=1)
    learning_rate: float = option(0.05, "constant learning rate α", above=0)
    batch: int = option(64, "samples in a mini-batch", above=0)
    dimension: int = option(256, "number of weights d", quick=16, above=0)
    samples: int = option(4096, "number of samples n", quick=256, above=0)
    noise: float = option(1.0, "standard deviation of the noise in y", above=0)


class Problem:
    """The data in float32, and their exact solution in float64."""

    def __init__(self, settings: Settings) -> None:
        n, d = settings.samples, settings.dimension
        if n <= d:
            raise ValueError(
                f"--samples must exceed --dimension for a unique optimum, got {n} and {d}"
            )
        random = np.random.default_rng(settings.seed)
        self.x = random.standard_normal((n, d)).astype(np.float32)
        truth = random.uniform(-1, 1, d)
        x = self.x.astype(np.float64)
        self.y = (x @ truth + settings.noise * random.standard_normal(n)).astype(np.float32)
        self.optimum = np.linalg.lstsq(x, self.y.astype(np.float64), rcond=None)[0]
        self.mu = float(np.linalg.eigvalsh(x.T @ x / n)[0])
        residual = x @ self.optimum - self.y
        self.variance = float(np.mean(residual**2 * np.sum(x**2, axis=1))) / settings.batch
        """σ² = E‖mini-batch gradient‖² at w*, where the full gradient is 0."""

    def gradient(self, weight: Reals, batch: Any) -> Reals:
        """Of 1/(2B) Σ (x_i·w - y_i)² over each run's mini-batch."""
        x = self.x[batch]
        residual = (x @ weight[:, :, None])[:, :, 0] - self.y[batch]
        return np.asarray((residual[:, None, :] @ x)[:, 0, :] / np.float32(batch.shape[1]))

    def distance(self, weight: Reals) -> Reals:
        """‖w - w*‖² of each run."""
        return np.asarray(np.sum((weight - self.optimum) ** 2, axis=-1, dtype=np.float64))

    def floor(self, format: Fixed) -> float:
        """‖Q(w*) - w*‖², Q to nearest: the least distance that weights in the format can have."""
        return float(self.distance(quantize(self.optimum, format)))

    def bound(self, format: Fixed, rate: float, steps: Any) -> Any:
        """E‖w̄_T - w*‖² ≤ ‖w_0 - w*‖²/(α²μ²T²) + (α²σ² + δ²d/4)/(α²μ²T), δ the format's spacing, σ²
        taken at w*.
        """
        start, d = float(self.optimum @ self.optimum), len(self.optimum)
        noise = rate**2 * self.variance + format.epsilon**2 * d / 4
        return start / (rate * self.mu * steps) ** 2 + noise / ((rate * self.mu) ** 2 * steps)


def run(settings: Settings) -> Outcome:
    """Float SGD and SWA, then SGD-LP and SWALP for each format."""
    problem = Problem(settings)
    formats = [None, *_formats(settings)]
    rows: list[Row] = []
    with progress(len(formats) * settings.steps) as bar:
        for format in formats:
            rows += _rows(problem, settings, _train(problem, settings, format, bar), format)
    return outcome_of(settings, [{"rows": rows}])


def outcome_of(settings: Settings, lines: Sequence[Row]) -> Outcome:
    """What is shown of runs, by their lines."""
    problem = Problem(settings)
    rows = [row for line in lines for row in line["rows"]]
    limits = [
        {
            "format": str(f),
            "floor": problem.floor(f),
            "bound": problem.bound(f, settings.learning_rate, settings.steps),
        }
        for f in _formats(settings)
    ]
    summary = summarize(rows, ("format", "method"), ("distance",))
    curves = _curves(rows)
    facts = {"mu": problem.mu, "gradient_variance": problem.variance, "limits": limits}
    return Outcome(
        rows,
        summary,
        _text(problem, settings, summary, limits),
        lambda figure: _draw(figure, problem, settings, curves),
        facts | {"distance": curves},
    )


def _formats(settings: Settings) -> list[Fixed]:
    return [Fixed(fraction + INTEGER_BITS, fraction) for fraction in settings.fractions]


def _train(
    problem: Problem, settings: Settings, format: Fixed | None, bar: Progress
) -> list[Snapshot]:
    recipe = Recipe() if format is None else fixed_point(format.word, format.fraction)
    start = np.zeros((settings.seeds, settings.dimension), np.float32)
    return list(
        descend(
            start,
            problem.gradient,
            draws(settings.samples, settings.batch, settings.run_seeds),
            SGD(settings.learning_rate, recipe=recipe, seed=settings.seed),
            Averaging(include_start=True, exact=format),
            bar.steps(settings.steps, _name(format)),
            set(log_spaced(settings.steps)),
        )
    )


def _name(format: Fixed | None) -> str:
    return "float32" if format is None else str(format)


def _methods(format: Fixed | None) -> tuple[str, str]:
    return ("SGD", "SWA") if format is None else ("SGD-LP", "SWALP")


def _rows(
    problem: Problem, settings: Settings, snapshots: list[Snapshot], format: Fixed | None
) -> list[Row]:
    """A row for each method and seed: the last distance, and the curve that leads to it."""
    steps = [snapshot.step for snapshot in snapshots]
    iterates = [problem.distance(snapshot.weight) for snapshot in snapshots]
    averages = [problem.distance(snapshot.average) for snapshot in snapshots]
    return [
        {
            "format": _name(format),
            "method": method,
            "seed": seed,
            "distance": float(curve[-1]),
            "curve": {"step": steps, "distance": [float(f"{value:.5g}") for value in curve]},
        }
        for method, distances in zip(_methods(format), (iterates, averages), strict=True)
        for seed, curve in zip(settings.run_seeds, np.transpose(distances), strict=True)
    ]


def _curves(rows: list[Row]) -> dict[str, Row]:
    """Format → steps, and the distances of iterate and average, means over the seeds."""
    curves: dict[str, Row] = {}
    for format in dict.fromkeys(row["format"] for row in rows):
        of_format = [row for row in rows if row["format"] == format]
        curves[format] = {"step": of_format[0]["curve"]["step"]}
        for name, method in zip(
            ("iterate", "average"), dict.fromkeys(row["method"] for row in of_format), strict=True
        ):
            of_method = [r["curve"]["distance"] for r in of_format if r["method"] == method]
            curves[format][name] = np.mean(of_method, axis=0).tolist()
    return curves


def _text(problem: Problem, settings: Settings, summary: list[Row], limits: list[Row]) -> str:
    means = {(row["format"], row["method"]): row["distance"]["mean"] for row in summary}
    lines = [
        (
            f := row["format"],
            f"{row['floor']:.3e}",
            f"{row['bound']:.3e}",
            f"{means[f, 'SGD-LP'] / row['floor']:.3g}",
            f"{means[f, 'SWALP'] / row['floor']:.3g}",
        )
        for row in limits
    ]
    return "\n\n".join(
        [
            (
                f"‖w - w*‖² after {settings.steps} steps (α = {settings.learning_rate:g}, batch"
                f" {settings.batch}, μ = {problem.mu:.3f});"
                f" {over(settings.seeds)}"
            ),
            pivot(summary, "format", "distance", 2, seeds=settings.seeds),
            (
                "against the floor ‖Q(w*) - w*‖², the least distance of any weights in the format,"
                " and the bound on SWALP"
            ),
            table(["format", "floor", "bound", "SGD-LP / floor", "SWALP / floor"], lines),
        ]
    )


def _draw(figure: Any, problem: Problem, settings: Settings, curves: dict[str, Any]) -> None:
    figure.set_size_inches(4.2 * len(settings.fractions) + 0.6, 4.4)
    panels = figure.subplots(1, len(settings.fractions), sharey=True, squeeze=False)[0]
    plain = curves["float32"]
    for axes, fraction in zip(panels, settings.fractions, strict=True):
        format = Fixed(fraction + INTEGER_BITS, fraction)
        curve = curves[str(format)]
        axes.loglog(plain["step"], plain["iterate"], color=GRAY, ls="-.", label="SGD, float32")
        axes.loglog(plain["step"], plain["average"], color=GRAY, label="SWA, float32")
        axes.loglog(curve["step"], curve["iterate"], color=VERMILION, ls="-.", label="SGD-LP")
        axes.loglog(curve["step"], curve["average"], color=BLUE, lw=2.2, label="SWALP")
        axes.axhline(
            problem.floor(format), color="black", ls="--", lw=1, label="floor ‖Q(w*) − w*‖²"
        )
        steps = np.array(curve["step"], float)
        axes.loglog(
            steps,
            problem.bound(format, settings.learning_rate, steps),
            color=BLUE,
            ls=":",
            label="bound on SWALP",
        )
        axes.set(title=f"weights in {format}", xlabel="steps")
        axes.grid(alpha=0.25)
    top = 3 * float(problem.optimum @ problem.optimum)
    panels[0].set(ylabel="‖w − w*‖², mean over seeds", ylim=(None, top))
    panels[0].legend(fontsize=9, loc="lower left")
