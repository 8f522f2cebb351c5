"""Layer 5: quantized SGD, averaging policies and learning-rate schedules as pure functions."""

from .aswa import ASWA
from .averaging import Averaging
from .breaking import RoleStudy, find_breaking_role
from .ema import EMA
from .policy import AverageState, Policy, due
from .recipe import (
    FULL_PRECISION,
    OPERANDS,
    ROLES,
    STEPS,
    SUMS,
    Draw,
    Quantizer,
    Recipe,
    apply,
    fixed_point,
    swalp,
)
from .recipes import as_recipe, recipe, recipe_names, register_recipe
from .schedules import SWALPSchedule
from .sgd import SGD, Hyper, SGDState, Slots, Step, sgd_step, sgd_steps
from .sqwa import SQWA, SQWASchedule
from .swap import SWAP
from .window import Window

__all__ = [
    "ASWA",
    "EMA",
    "FULL_PRECISION",
    "OPERANDS",
    "ROLES",
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
    "STEPS",
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
