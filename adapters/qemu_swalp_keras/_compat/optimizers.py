"""Optimizers of Keras: their variables, and what happens around an update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
from keras.src.utils.tracking import no_automatic_dependency_tracking

UpdateStep = Callable[[Any, Any, Any], None]
"""(gradient, variable, learning_rate), as an optimizer's `update_step`."""


def key_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> Any:
    """What an optimizer tells variables apart by, Keras's and TensorFlow's alike."""
    return optimizer._var_key(variable)


def index_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Index of a variable among those that an optimizer was built with."""
    return int(optimizer._get_variable_index(variable))


@no_automatic_dependency_tracking  # type: ignore[untyped-decorator]
def know_variables(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
    """What an optimizer's `build` does, but for the state that its options ask for."""
    for i, variable in enumerate(variables):
        optimizer._trainable_variables_indices[optimizer._var_key(variable)] = i
    optimizer._trainable_variables = list(variables)
    optimizer.built = True


def own_variables(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The variables that an optimizer itself added, whatever its `variables` are."""
    return list(optimizer._variables)


def forget_variable(optimizer: keras.optimizers.Optimizer, variable: Any) -> None:
    """Take a variable from those that an optimizer added."""
    optimizer._untrack_variable(variable)


def calls_of_apply(optimizer: keras.optimizers.Optimizer) -> Any:
    """Variable that counts the calls of `apply`; `iterations` counts the updates, of which gradient
    accumulation makes fewer.
    """
    return optimizer._iterations


def float32_like(optimizer: keras.optimizers.Optimizer, variable: Any, name: str) -> Any:
    """A new float32 variable of an optimizer, with the shape and the device layout of another."""
    return optimizer.add_variable(
        variable.shape, dtype="float32", name=name, layout=getattr(variable, "_layout", None)
    )


@contextmanager
def recording_state(
    optimizer: keras.optimizers.Optimizer, record: Callable[[Any, str, Any], None]
) -> Iterator[Callable[..., Any]]:
    """Within it record(variable, name, state) is called for state that an optimizer makes like a
    variable. The value is the function that makes it.
    """
    add = optimizer.add_variable_from_reference

    def recorded(reference_variable: Any, name: str | None = None, **kwargs: Any) -> Any:
        state = add(reference_variable, name=name, **kwargs)
        record(reference_variable, name or "var", state)
        return state

    optimizer.add_variable_from_reference = recorded
    try:
        yield recorded
    finally:
        del optimizer.add_variable_from_reference


def before_weight_decay(
    optimizer: keras.optimizers.Optimizer, function: Callable[[Sequence[Any]], None]
) -> Callable[[], None]:
    """Call function(variables) when gradients are complete, before the weights decay. The value
    ends it.
    """
    decay = optimizer._apply_weight_decay

    def apply_weight_decay(variables: Sequence[Any]) -> None:
        function(variables)
        decay(variables)

    optimizer._apply_weight_decay = apply_weight_decay
    return partial(delattr, optimizer, "_apply_weight_decay")


def without_weight_decay(optimizer: keras.optimizers.Optimizer) -> None:
    """Have an optimizer's own update see to weight decay."""
    optimizer._apply_weight_decay = lambda variables: None


def decays(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether weight decay applies to a variable."""
    return bool(optimizer.weight_decay) and bool(optimizer._use_weight_decay(variable))


def exclude_alike(optimizer: keras.optimizers.Optimizer, variable: Any, other: Any) -> None:
    """Exclude another variable from weight decay, if this one was excluded itself."""
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None) or set()
    if key_of(optimizer, variable) in excluded:
        optimizer._exclude_from_weight_decay = {*excluded, key_of(optimizer, other)}


def around_update(
    optimizer: keras.optimizers.Optimizer,
    before: Callable[[Any, Any], Any],
    after: Callable[[Any], None],
) -> Callable[[], None]:
    """Have each variable updated by before(gradient, variable), and after(variable) called then.
    The value ends it.

    `update_step` is what an optimizer defines; TensorFlow calls it after the all-reduce, in each
    replica. Keras's own optimizers for PyTorch update all variables at once instead.
    """
    if keras.backend.backend() != "torch":
        update_one = optimizer.update_step

        def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
            update_one(before(gradient, variable), variable, learning_rate)
            after(variable)

        optimizer.update_step = update_step
        return partial(delattr, optimizer, "update_step")
    update_all = optimizer._backend_update_step

    def backend_update_step(
        grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        gradients = [before(g, v) for g, v in zip(grads, variables, strict=True)]
        update_all(gradients, variables, learning_rate)
        for variable in variables:
            after(variable)

    optimizer._backend_update_step = backend_update_step
    return partial(delattr, optimizer, "_backend_update_step")


class ShowsMovingAverage:
    """A wrapper that has `use_ema`'s average from its inner optimizer, as `SwapEMAWeights` asks for
    it when loss scaling is around the wrapper.
    """

    inner_optimizer: Any

    @property
    def _model_variables_moving_average(self) -> list[Any]:
        average: list[Any] = self.inner_optimizer._model_variables_moving_average
        return average


def publicly(serialized: dict[str, Any]) -> dict[str, Any]:
    """A serialized optimizer by its public class: `keras.optimizers.SGD(…)` on PyTorch makes one of
    a class that other backends lack.
    """
    if serialized["module"].startswith("keras.src.backend."):
        return serialized | {"module": "keras.optimizers", "registered_name": None}
    return serialized
