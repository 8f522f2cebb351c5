"""Closures that an optimizer evaluates, once or several times a step, and in what gradient mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class Closure:
    """The user's closure, with weights rounded before and gradients after each call.

    hooks : the `StepHooks` of the optimizer.
    """

    def __init__(self, hooks: Any, optimizer: Optimizer, closure: Callable[[], Any]) -> None:
        self.hooks, self.optimizer, self.closure = hooks, optimizer, closure
        self.evaluations = 0

    def __call__(self) -> Any:
        evaluation = self.evaluations
        self.evaluations += 1
        if evaluation:
            self.hooks.before_evaluation(self.optimizer, evaluation)
        float32 = self.hooks.float32
        if float32 is not None:
            float32.show_weights()
        loss = self.closure()
        if float32 is not None:
            float32.load_gradients()
        self.hooks.before_update(self.optimizer, evaluation)
        return loss


def grad_mode(optimizer: Optimizer) -> torch.set_grad_enabled:
    """Context in which an optimizer's step runs: with gradients where it is differentiable."""
    return torch.set_grad_enabled(bool(optimizer.defaults.get("differentiable")))
