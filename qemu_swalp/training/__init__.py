"""Layer 5: quantized SGD, averaging and learning-rate schedules as pure functions."""

from .averaging import AverageState, Averaging, due
from .recipe import (
    FULL_PRECISION,
    ROLES,
    Draw,
    Quantizer,
    Recipe,
    apply,
    fixed_point,
    swalp,
)
from .schedules import SWALPSchedule
from .sgd import SGD, Hyper, SGDState, Slots, sgd_step

__all__ = [
    "FULL_PRECISION",
    "ROLES",
    "SGD",
    "AverageState",
    "Averaging",
    "Draw",
    "Hyper",
    "Quantizer",
    "Recipe",
    "SGDState",
    "SWALPSchedule",
    "Slots",
    "apply",
    "due",
    "fixed_point",
    "sgd_step",
    "swalp",
]
