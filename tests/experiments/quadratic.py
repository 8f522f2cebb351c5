"""The least problem with SWALP's theory in it: fixed point SGD on f(w) = μ/2 (w - w*)², one weight,
unit noise.

With g = μ(w - w*) + n and w = Q(w - αg), Q stochastic rounding to multiples of δ, let v be the
stationary E(w - w*)² and r = E[ν(1 - ν)], ν the fraction of α|g|/δ. As w lies on the grid, rounding
adds the variance δ²r to a step, and from v = (1 - αμ)²v + α²σ² + δ²r follows

    v = (α²σ² + δ²r)/(2αμ - α²μ²).

While α|g| < δ, δ²r = αδE|g| - α²E g², and so v = δE|g|/(2μ), for every α. The noise of a step, n
and rounding together, is a martingale difference of variance (2αμ - α²μ²)v, and w̄_T - w* the sum
over steps j of that noise times (1 - (1 - αμ)^(T-j+1))/(αμ(T + 1)), plus what is left of w_0: about
2v/(αμT) in the square.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat

import numpy as np

from qemu_swalp import Fixed
from qemu_swalp.experiments.common.report import Row
from qemu_swalp.experiments.common.sgd_runs import Indices, Reals, descend
from qemu_swalp.training import SGD, Averaging, fixed_point

WORD = 24
"""Bits of a weight: the range is never reached."""


@dataclass(frozen=True)
class Quadratic:
    """The problem, with w_0 = 0 and σ = 1."""

    rate: float = 0.01
    steps: int = 20_000
    replicas: int = 4_000
    optimum: float = 0.3
    mu: float = 1.0
    seed: int = 0

    def measure(self, fraction: int) -> Row:
        """Squared distances to the optimum, mean over replicas and its standard error, beside what
        theory says.
        """
        format = Fixed(WORD, fraction)
        noise = np.random.default_rng(self.seed)

        def gradient(weight: Reals, batch: Indices) -> Reals:
            normal = noise.standard_normal(weight.shape, dtype=np.float32)
            return np.float32(self.mu) * (weight - np.float32(self.optimum)) + normal

        nothing: Indices = np.empty(0, np.intp)
        last = next(
            descend(
                np.zeros(self.replicas, np.float32),
                gradient,
                repeat(nothing),
                SGD(self.rate, recipe=fixed_point(WORD, fraction), seed=self.seed),
                Averaging(include_start=True, exact=format),
                range(1, self.steps + 1),
                (self.steps,),
            )
        )
        low, averaged = (
            (w.astype(np.float64) - self.optimum) ** 2 for w in (last.weight, last.average)
        )
        return {
            "fraction": fraction,
            "SGD-LP": float(low.mean()),
            "SGD-LP error": _standard_error(low),
            "SWALP": float(averaged.mean()),
            "SWALP error": _standard_error(averaged),
        } | self.predict(fraction)

    def predict(self, fraction: int) -> Row:
        """What theory says of `measure`, and the bound on SWALP."""
        delta, am = 2.0**-fraction, self.rate * self.mu
        v = self._stationary(delta)
        left = 1 - (1 - am) ** np.arange(self.steps, 0, -1)
        count = self.steps + 1
        start = self.optimum * (1 - (1 - am) ** count) / (am * count)
        bound = (self.optimum / (am * self.steps)) ** 2 + (self.rate**2 + delta**2 / 4) / (
            am**2 * self.steps
        )
        averaged = start**2 + (2 * am - am**2) * v * float(left @ left) / (am * count) ** 2
        return {
            "SGD-LP theory": v,
            "SWALP theory": averaged,
            "bound": bound,
            "floor": (round(self.optimum / delta) * delta - self.optimum) ** 2,
        }

    def _stationary(self, delta: float) -> float:
        """v of the module's equation; g is taken as normal, which it is up to the grid of w."""
        v, am = 0.0, self.rate * self.mu
        normal = np.linspace(-8, 8, 200_001)
        density = np.exp(-(normal**2) / 2)
        density /= density.sum()
        for _ in range(20):  # a contraction: v enters r only through the deviation √(1 + μ²v) of g
            nu = np.modf(np.abs(normal) * np.sqrt(1 + self.mu**2 * v) * self.rate / delta)[0]
            v = (self.rate**2 + delta**2 * float(density @ (nu * (1 - nu)))) / (2 * am - am**2)
        return v


def _standard_error(sample: Reals) -> float:
    return float(sample.std(ddof=1) / np.sqrt(len(sample)))
