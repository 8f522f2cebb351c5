"""Recipes, quantized SGD, averaging policies and learning-rate schedules as pure functions."""

from ..ops.quantizer import Quantizer
from .averaging.aswa import ASWA
from .averaging.base import AverageState, Policy, due
from .averaging.ema import EMA
from .averaging.lawa import Window
from .averaging.mean import Averaging
from .averaging.sqwa import SQWA, SQWASchedule
from .averaging.swap import SWAP
from .diagnosis import RoleStudy, find_breaking_role
from .presets import as_recipe, fixed_point, recipe, recipe_names, register_recipe, swalp
from .recipe import FULL_PRECISION, Recipe
from .roles import ELEMENTWISE, OPERANDS, ROLES, SECTIONS, SUMS
from .schedules import SWALPSchedule
from .sgd import SGD, Hyperparameters, SGDState, Slots, StepInputs, sgd_step, sgd_steps
from .tensor_rounding import TensorRandomBits, apply

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
    "Hyperparameters",
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
    "StepInputs",
    "TensorRandomBits",
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
