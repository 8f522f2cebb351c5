"""Phases of a training: a change of recipe at the end of a step of the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any

from torch.optim import Optimizer


class StepWatcher:
    """Calls `after(number of steps made)` after each step of an optimizer, outside its hooks, which
    a change of recipe registers anew.

    `step` becomes a method of the optimizer itself, bound as learning-rate schedulers of PyTorch
    expect it, and carries their marks.
    """

    def __init__(self, optimizer: Optimizer, after: Callable[[int], None]) -> None:
        self.optimizer, self.steps = optimizer, 0
        self._after: Callable[[int], None] | None = after
        inner = optimizer.step
        self._own = "step" in vars(optimizer)

        @wraps(inner)
        def step(_: Optimizer, *args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            if self._after is not None:
                self.steps += 1
                self._after(self.steps)
            return result

        self._inner, self._method = inner, MethodType(step, optimizer)
        optimizer.step = self._method  # type: ignore[method-assign]

    def remove(self) -> None:
        """Leave the optimizer as it was; where others have wrapped `step` since, it only stops."""
        self._after = None
        if vars(self.optimizer).get("step") is not self._method:
            return
        if self._own:
            self.optimizer.step = self._inner  # type: ignore[method-assign]
        else:
            del self.optimizer.step
