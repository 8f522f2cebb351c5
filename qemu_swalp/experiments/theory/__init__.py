"""SWALP's theorems where they hold and where they do not (Yang et al. 2019, section 4).

Problems of one weight, or a few, with normal noise of unit variance in every gradient, and many
replicas of each, so that the distance E(w - w*)² and the bias E w - w* are told apart:

1. f(w) = (w - w*)²/2 (theorem 1): rounding with many and few random bits, and to nearest.
2. f(w) = log(1 + e^(kw)) - pkw + λw²/2, strongly convex and lopsided (theorem 2): the average
   keeps a bias, whose square falls with δ², while the iterate's distance falls with δ.
3. the quadratic in block floating point: weights of two magnitudes share an exponent, or not.
"""

from .run import outcome_of, run
from .settings import Settings

__all__ = ["Settings", "outcome_of", "run"]
