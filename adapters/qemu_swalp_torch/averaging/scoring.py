"""Scores of averages for policies that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from qemu_swalp.interop.torch import tensor_of

from .tensors import copy_into, named_tensors, restored


def scored_by(
    model: nn.Module, evaluate: Callable[[nn.Module], float]
) -> Callable[[Mapping[str, Any]], float]:
    """The `score` of `qemu_swalp.training.ASWA` that a function of the model gives: more is better.

    The model holds the weights in question while `evaluate(model)` runs, without gradient, and is
    then as before.

    >>> import torch
    >>> from qemu_swalp.training import ASWA
    >>> from qemu_swalp_torch import Averager
    >>> model = torch.nn.Linear(1, 1)
    >>> score = scored_by(model, lambda m: -abs(m.weight.item() - 3))
    >>> averager = Averager(model, ASWA(score=score))
    >>> for weight in (2.0, 4.0, 9.0):
    ...     _ = torch.nn.init.constant_(model.weight, weight)
    ...     averager.update()
    >>> averager.average()["weight"].item(), model.weight.item()
    (3.0, 9.0)
    """

    @torch.no_grad()
    def score(params: Mapping[str, Any]) -> float:
        weights = {name: p for name, p in named_tensors(model).items() if name in params}
        with restored(weights):
            copy_into({name: tensor_of(params[name]) for name in weights}, weights)
            return float(evaluate(model))

    return score
