"""SWALP on scikit-learn's 8×8 digits, in a minute or two."""

from .run import outcome_of, run
from .settings import Settings

__all__ = ["Settings", "outcome_of", "run"]
