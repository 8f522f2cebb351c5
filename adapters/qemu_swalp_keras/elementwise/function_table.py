"""Functions with their derivatives, on the tensors of any backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from qemu_swalp.training.derivatives import slope

Function = Callable[..., Any]


def _softplus(x: Any, beta: Any, threshold: Any) -> Any:
    """log(1 + exp(β·x))/β; x where β·x exceeds the threshold."""
    z = x * beta
    stable = ops.maximum(z, 0) + ops.log1p(ops.exp(-ops.abs(z)))  # exp(z) may be infinite
    return ops.where(z > threshold, x, stable / beta)


def _softplus_slope(x: Any, beta: Any, threshold: Any) -> Any:
    z = x * beta
    return ops.where(z > threshold, ops.ones_like(x), _sigmoid(z))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + ops.exp(-x))


def _log_sigmoid(x: Any) -> Any:
    return ops.minimum(x, 0) - ops.log1p(ops.exp(-ops.abs(x)))


def _by_base(x: Any, p: Any) -> Any:
    return ops.where(p == 0, 0, p * x ** (p - 1))


def _by_exponent(x: Any, p: Any) -> Any:
    return ops.where(ops.logical_and(x == 0, p >= 0), 0, x**p * ops.log(x))


FUNCTIONS: dict[str, tuple[Function, ...]] = {
    "exp2": (ops.exp2, lambda x: ops.exp2(x) * math.log(2)),
    "expm1": (ops.expm1, ops.exp),
    "log2": (ops.log2, lambda x: 1 / (x * math.log(2))),
    "log10": (ops.log10, lambda x: 1 / (x * math.log(10))),
    "log1p": (ops.log1p, lambda x: 1 / (x + 1)),
    "sin": (ops.sin, ops.cos),
    "cos": (ops.cos, lambda x: -ops.sin(x)),
    "tan": (ops.tan, lambda x: 1 + ops.tan(x) ** 2),
    "asin": (ops.arcsin, lambda x: (1 - x * x) ** -0.5),
    "acos": (ops.arccos, lambda x: -((1 - x * x) ** -0.5)),
    "atan": (ops.arctan, lambda x: 1 / (1 + x * x)),
    "sinh": (ops.sinh, ops.cosh),
    "cosh": (ops.cosh, ops.sinh),
    "asinh": (ops.arcsinh, lambda x: (1 + x * x) ** -0.5),
    "acosh": (ops.arccosh, lambda x: (x * x - 1) ** -0.5),
    "atanh": (ops.arctanh, lambda x: 1 / (1 - x * x)),
    "erfc": (ops.erfc, lambda x: -ops.exp(-x * x) * (2 / math.sqrt(math.pi))),
    "logsigmoid": (_log_sigmoid, lambda x: _sigmoid(-x)),
    "softplus": (_softplus, _softplus_slope),
    "power": (ops.power, _by_base, _by_exponent),
}
"""By name: the function and its derivatives by the operands that are no constants, computed in
float64, as `qemu_swalp_torch.ops.function_table` has them. `softplus` has the constants β and
threshold.
"""

EVALUATED: dict[str, Function] = {
    "exp": ops.exp,
    "log": ops.log,
    "tanh": ops.tanh,
    "erf": ops.erf,
    **{name: function for name, (function, *_) in FUNCTIONS.items()},
    **{slope(name, i): f for name, (_, *by) in FUNCTIONS.items() for i, f in enumerate(by)},
}
"""What is evaluated in float64, then rounded."""
