"""Functions with their derivatives: what an elementwise unit evaluates at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qemu_swalp.training.derivatives import slope

Function = Callable[..., Tensor]


def softplus(x: Tensor, beta: Tensor, threshold: Tensor) -> Tensor:
    """log(1 + exp(β·x))/β; x where β·x exceeds the threshold, as in PyTorch."""
    z = x * beta
    stable = z.clamp_min(0) + torch.log1p(torch.exp(-z.abs()))  # exp(z) may be infinite
    return torch.where(z > threshold, x, stable / beta)


def _softplus_slope(x: Tensor, beta: Tensor, threshold: Tensor) -> Tensor:
    z = x * beta
    return torch.where(z > threshold, torch.ones_like(x), torch.sigmoid(z))


def _by_base(x: Tensor, p: Tensor) -> Tensor:
    return torch.where(p == 0, 0, p * x ** (p - 1))


def _by_exponent(x: Tensor, p: Tensor) -> Tensor:
    return torch.where((x == 0) & (p >= 0), 0, x**p * torch.log(x))


def _log_above(x: Tensor, least: Tensor) -> Tensor:
    return torch.log(x).clamp_min(least)


FUNCTIONS: dict[str, tuple[Function, ...]] = {
    "exp2": (torch.exp2, lambda x: torch.exp2(x) * math.log(2)),
    "expm1": (torch.expm1, torch.exp),
    "log2": (torch.log2, lambda x: 1 / (x * math.log(2))),
    "log10": (torch.log10, lambda x: 1 / (x * math.log(10))),
    "log1p": (torch.log1p, lambda x: 1 / (x + 1)),
    "sin": (torch.sin, torch.cos),
    "cos": (torch.cos, lambda x: -torch.sin(x)),
    "tan": (torch.tan, lambda x: 1 + torch.tan(x) ** 2),
    "asin": (torch.asin, lambda x: (1 - x * x) ** -0.5),
    "acos": (torch.acos, lambda x: -((1 - x * x) ** -0.5)),
    "atan": (torch.atan, lambda x: 1 / (1 + x * x)),
    "sinh": (torch.sinh, torch.cosh),
    "cosh": (torch.cosh, torch.sinh),
    "asinh": (torch.asinh, lambda x: (1 + x * x) ** -0.5),
    "acosh": (torch.acosh, lambda x: (x * x - 1) ** -0.5),
    "atanh": (torch.atanh, lambda x: 1 / (1 - x * x)),
    "erfc": (torch.erfc, lambda x: -torch.exp(-x * x) * (2 / math.sqrt(math.pi))),
    "logsigmoid": (torch.nn.functional.logsigmoid, lambda x: torch.sigmoid(-x)),
    "softplus": (softplus, _softplus_slope),
    "log_above": (_log_above, lambda x, least: 1 / x.clamp_min(1e-12)),
    "power": (torch.pow, _by_base, _by_exponent),
}
"""By name: the function and its derivatives by the operands that are no constants, as PyTorch
computes them in float64. `softplus` has the constants β and threshold. `log_above` is a logarithm
no less than a constant, with the slope of PyTorch's binary cross entropy.
"""

EVALUATED: dict[str, Function] = {
    "exp": torch.exp,
    "log": torch.log,
    "tanh": torch.ops.aten.tanh,
    "erf": torch.erf,
    **{name: function for name, (function, *_) in FUNCTIONS.items()},
    **{slope(name, i): f for name, (_, *by) in FUNCTIONS.items() for i, f in enumerate(by)},
}
"""What is evaluated in float64, then rounded."""
