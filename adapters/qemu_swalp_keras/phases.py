"""Phases in `fit` and `train_on_batch`: a change of recipe between two training steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, wraps
from typing import Any

import keras

from ._compat import in_variables, replace_method, state_of
from .averaging.model_swap import quantized_within
from .backend import backend
from .optim.phases import round_as_from


@cache
def install() -> None:
    """See which model an optimizer trains, and its training steps, once in a process."""
    replace_method(keras.Model, "compile", _compile)
    replace_method(keras.Model, "make_train_function", _make_train_function)


def _compile(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def compile(model: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(model, *args, **kwargs)
        for phase in _phases(model):
            phase.models.add(model)
        return result

    return compile


def _make_train_function(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def make_train_function(model: Any, force: bool = False) -> Any:
        phases = _phases(model)
        if model.train_function is None or force:
            for phase in phases:  # a model may be a clone, and its optimizer a new one
                phase.models.add(model)
                round_as_from(model, phase.since)
        result = method(model, force=force)
        if phases and not isinstance(model.train_function, PhasedStep):
            model.train_function = PhasedStep(model, model.train_function)
        return result

    return make_train_function


def _phases(model: Any) -> list[Any]:
    """The phases of the optimizers of a compiled model, where there are several."""
    found = quantized_within(getattr(model, "optimizer", None))
    return [optimizer.phase for optimizer in found if optimizer.phase.phases.several]


class PhasedStep:
    """A model's training function, of one step or of `steps_per_execution`.

    A change of recipe is another program: Keras makes and compiles the function anew after it.
    """

    def __init__(self, model: Any, function: Callable[..., Any]) -> None:
        self.model, self.function = model, function

    def __call__(self, *arguments: Any) -> Any:
        phases = _phases(self.model)
        if any(phase.is_held for phase in phases):
            return self.function(*arguments)
        steps = self.model.steps_per_execution
        if any(x.known is None or (steps > 1 and x.may_be_over(steps)) for x in phases):
            changed, arguments = self._change(phases, arguments)
            for phase in phases:
                _check_ends_between(phase, steps)
            if changed:
                return self.model.train_function(*arguments)
        with ExitStack() as stack:
            for phase in phases:
                stack.enter_context(phase.held())
            result = self.function(*arguments)
        for phase in phases:
            phase.called(steps)
        if any(phase.may_be_over() for phase in phases):
            if backend() != "jax":
                self._change(phases, ())
            else:
                logs, state = result
                result = (logs, self._change(phases, (state,))[1][0])
        return result

    def _change(self, phases: list[Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        """Go on by the recipes of the present step: whether they are others, and the arguments of
        the training function, in which JAX has the model's state.
        """
        if backend() == "jax":
            state, *data = arguments
            in_variables(self.model, state)
        changed = [phase.change() for phase in phases]
        if any(changed):
            self.model.make_train_function(force=True)
        if backend() == "jax":
            arguments = (state_of(self.model), *data)
        return any(changed), arguments


def _check_ends_between(phase: Any, steps: int) -> None:
    """Raise ValueError if a phase ends within the next call of so many steps."""
    if phase.until is not None and phase.known + steps > phase.until:
        raise ValueError(
            f"a phase ends with step {phase.until}, within the next steps_per_execution={steps},"
            " which are one program; take a number that divides the steps of phases and epochs, or"
            " steps_per_execution=1"
        )
