"""Layer 5: quantized SGD, averaging and learning-rate schedules as pure functions."""

from .averaging import AverageState, Averaging, due
from .recipe import (
    FULL_PRECISION,
    OPERANDS,
    ROLES,
    Draw,
    Quantizer,
    Recipe,
    apply,
    fixed_point,
    swalp,
)
from .recipes import as_recipe, recipe, recipe_names, register_recipe
from .schedules import SWALPSchedule
from .sgd import SGD, Hyper, SGDState, Slots, sgd_step

__all__ = [
    "FULL_PRECISION",
    "OPERANDS",
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
    "as_recipe",
    "due",
    "fixed_point",
    "recipe",
    "recipe_names",
    "register_recipe",
    "sgd_step",
    "swalp",
]
