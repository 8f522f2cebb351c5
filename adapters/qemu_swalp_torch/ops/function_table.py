"""Functions of one number, with their derivatives: what an elementwise unit evaluates at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[..., Tensor]


def softplus(x: Tensor, beta: Tensor, threshold: Tensor) -> Tensor:
    """log(1 + exp(β·x))/β; x where β·x exceeds the threshold, as in PyTorch."""
    z = x * beta
    return torch.where(z > threshold, x, torch.log1p(torch.exp(z)) / beta)


def _softplus_slope(x: Tensor, beta: Tensor, threshold: Tensor) -> Tensor:
    z = x * beta
    return torch.where(z > threshold, torch.ones_like(x), torch.sigmoid(z))


FUNCTIONS: dict[str, tuple[Function, Function]] = {
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
    "power": (torch.pow, lambda x, p: p * x ** (p - 1)),
}
"""By name: the function and its derivative by the first operand, as PyTorch computes them in
float64. `power` is x^p for a constant p; `softplus` has the constants β and threshold.
"""
