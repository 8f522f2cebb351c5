"""Layer 5: quantized SGD, averaging policies and learning-rate schedules as pure functions."""

from .averaging.aswa import ASWA
from .averaging.base import AverageState, Policy, due
from .averaging.ema import EMA
from .averaging.lawa import Window
from .averaging.mean import Averaging
from .averaging.sqwa import SQWA, SQWASchedule
from .averaging.swap import SWAP
from .diagnosis import RoleStudy, find_breaking_role
from .presets import as_recipe, recipe, recipe_names, register_recipe
from .recipe import (
    ELEMENTWISE,
    FULL_PRECISION,
    OPERANDS,
    ROLES,
    SECTIONS,
    SUMS,
    Draw,
    Quantizer,
    Recipe,
    apply,
    fixed_point,
    swalp,
)
from .schedules import SWALPSchedule
from .sgd import SGD, Hyper, SGDState, Slots, Step, sgd_step, sgd_steps

__all__ = [
    "ASWA",
    "EMA",
    "FULL_PRECISION",
    "OPERANDS",
    "ROLES",
    "SECTIONS",
    "SGD",
    "SQWA",
    "SWAP",
    "AverageState",
    "Averaging",
    "Draw",
    "Hyper",
    "Policy",
    "Quantizer",
    "Recipe",
    "RoleStudy",
    "SGDState",
    "SQWASchedule",
    "ELEMENTWISE",
    "SUMS",
    "SWALPSchedule",
    "Slots",
    "Step",
    "Window",
    "apply",
    "as_recipe",
    "due",
    "find_breaking_role",
    "fixed_point",
    "recipe",
    "recipe_names",
    "register_recipe",
    "sgd_step",
    "sgd_steps",
    "swalp",
]
