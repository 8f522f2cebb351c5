"""What Keras calls again in the backward pass, to keep less in memory: `keras.remat`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from keras import ops, tree

from ..backend import backend, counter
from .operators import operator_mode
from .pausing import is_paused, paused
from .scope import Scope, current, running


def repeated(remat: Callable[..., Any]) -> Callable[..., Any]:
    """What the backward pass computes again is rounded again."""

    @wraps(remat)
    def rounded(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def called(*args: Any, **options: Any) -> Any:
            if is_paused():
                return remat(function)(*args, **options)
            # JAX would trace `training`, by which random bits are chosen.
            traced = {name: x for name, x in options.items() if _holds_tensors(x)}
            fixed = {name: x for name, x in options.items() if name not in traced}
            scope = current()
            if scope is None or backend() != "jax":
                repeatable = Repeatable(partial(function, **fixed))
                return remat(lambda *a, **k: repeatable(*a, **k))(*args, **traced)
            # What JAX traces there may leave it as a result only.
            first = scope.step
            repeatable = Repeatable(partial(_with_steps, scope, first, partial(function, **fixed)))
            result, steps = remat(lambda *a, **k: repeatable(*a, **k))(*args, **traced)
            if steps is not None:
                with paused():
                    scope.step = first + counter(steps)
            return result

        return called

    return rounded


def _with_steps(
    scope: Scope, first: Any, function: Callable[..., Any], *args: Any, **options: Any
) -> tuple[Any, Any]:
    """What a function gives, and how many random steps it moved on from the first; None: none."""
    result = function(*args, **options)
    if scope.step is first:
        return result, None
    with paused():
        return result, ops.convert_to_tensor(scope.step - first, "int32")


def _holds_tensors(x: Any) -> bool:
    return any(ops.is_tensor(part) for part in tree.flatten(x))


class Repeatable:
    """A function that a layer calls, and that is called again in the backward pass: with the same
    roundings by the same random bits, uncounted.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.scope = function, current()
        self.moment = None if self.scope is None else self.scope.moment()
        self.steps: list[Any] | None = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The first call, or another one."""
        if self.steps is None:
            return self._first(*args, **options)
        before = running.scope, running.repeats
        running.scope, running.repeats = self.scope, iter(self.steps)
        try:
            if self.scope is None or self.moment is None:
                return self.function(*args, **options)
            with self.scope.at(self.moment), operator_mode():
                return self.function(*args, **options)
        finally:
            running.scope, running.repeats = before

    def _first(self, *args: Any, **options: Any) -> Any:
        before, self.steps = running.steps, []
        running.steps = self.steps
        try:
            return self.function(*args, **options)
        finally:
            running.steps = before
            if before is not None:
                before += self.steps
