"""Recipes, quantized SGD, averaging policies and learning-rate schedules as pure functions."""

from typing import TYPE_CHECKING, Any

from ..ops.quantizer import Quantizer
from .averaging.aswa import ASWA
from .averaging.base import AverageState, Policy, due
from .averaging.ema import EMA
from .averaging.lawa import LAWA
from .averaging.mean import Averaging
from .averaging.sqwa import SQWA, SQWASchedule
from .averaging.swag import SWAG
from .averaging.swap import SWAP
from .diagnosis import RoleStudy, find_breaking_role
from .functional import ELEMENTWISE
from .layouts import register_layout
from .phases import Phases
from .presets import as_recipe, fixed_point, recipe, recipe_names, register_recipe, swalp
from .recipe import FULL_PRECISION, Recipe
from .roles import OPERANDS, ROLES, SECTIONS, SUMS
from .schedules import SWALPSchedule, SWASchedule
from .seeds import restart_seeds
from .sgd import SGD, Hyperparameters, SGDState, Slots, StepInputs, sgd_step, sgd_steps
from .tensor_rounding import TensorRandomBits, apply

__all__ = [
    "ASWA",
    "EMA",
    "FULL_PRECISION",
    "LAWA",
    "OPERANDS",
    "ROLES",
    "SECTIONS",
    "SGD",
    "SQWA",
    "SWAG",
    "SWAP",
    "AverageState",
    "Averaging",
    "Hyperparameters",
    "Phases",
    "Policy",
    "Quantizer",
    "Recipe",
    "RoleStudy",
    "SGDState",
    "SQWASchedule",
    "ELEMENTWISE",
    "SUMS",
    "SWALPSchedule",
    "SWASchedule",
    "Slots",
    "StepInputs",
    "TensorRandomBits",
    "apply",
    "as_recipe",
    "due",
    "find_breaking_role",
    "fixed_point",
    "recipe",
    "recipe_names",
    "register_layout",
    "register_recipe",
    "restart_seeds",
    "sgd_step",
    "sgd_steps",
    "swalp",
]

_RENAMED = {
    "Draw": "TensorRandomBits",
    "Hyper": "Hyperparameters",
    "Step": "StepInputs",
    "Window": "LAWA",
}
"""Names of the first drafts, which go on for one release with a warning."""

if not TYPE_CHECKING:  # type checkers report the names of drafts

    def __getattr__(name: str) -> Any:
        if name not in _RENAMED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import warnings

        new = _RENAMED[name]
        warnings.warn(
            f"qemu_swalp.training.{name} is called {new} now", DeprecationWarning, stacklevel=2
        )
        return globals()[new]
