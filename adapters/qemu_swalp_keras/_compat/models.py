"""Models and layers of Keras: what they hold, how they are trained, state that is theirs."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import keras
from keras.src.backend.common import global_state as _global_state
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell as _ConvLSTMCell
from keras.src.saving.keras_saveable import KerasSaveable as _KerasSaveable

ConvLSTMCell = _ConvLSTMCell
"""What holds the kernels of `ConvLSTM1D` to `ConvLSTM3D`."""


def flat_layers(model: keras.layers.Layer, include_self: bool = True) -> list[Any]:
    """A layer and all layers within it, at any depth, but for those that hold state."""
    found = model._flatten_layers(include_self=include_self)
    return [layer for layer in found if not isinstance(layer, StateLayer)]


def sublayers(layer: keras.layers.Layer) -> list[Any]:
    """The layers that a layer holds itself, not those within them, nor those that hold state."""
    found = layer._flatten_layers(include_self=False, recursive=False)
    return [part for part in found if not isinstance(part, StateLayer)]


def own_trainable_variables(layer: keras.layers.Layer) -> list[Any]:
    """The trainable variables of a layer itself, without those of layers within it; none before it
    is initialized.
    """
    return list(layer.__dict__.get("_trainable_variables", ()))


def input_layer_of(x: Any) -> keras.layers.InputLayer:
    """The layer that made a symbolic input of a model."""
    return x._keras_history.operation


def before_calls(
    model: keras.Model, names: Sequence[str], function: Callable[[], None]
) -> Callable[[], None]:
    """Have function() called before methods of a model. The value removes it again.

    `fit` and `train_on_batch` begin with `make_train_function()`, `evaluate` and `predict` and
    their kin with theirs.
    """
    for name in names:
        if not isinstance(model.__dict__.get(name), _Guarded):
            shadowed = {name: model.__dict__[name]} if name in model.__dict__ else {}
            model.__dict__[name] = _Guarded(getattr(model, name), shadowed)
        model.__dict__[name].functions.append(function)

    def remove() -> None:
        for name in names:
            guarded = model.__dict__.get(name)
            if isinstance(guarded, _Guarded) and function in guarded.functions:
                guarded.functions.remove(function)
                if not guarded.functions:
                    del model.__dict__[name]
                    model.__dict__.update(guarded.shadowed)

    return remove


class _Guarded:
    """A method of a model that calls other functions first."""

    def __init__(self, method: Callable[..., Any], shadowed: dict[str, Any]) -> None:
        self.method, self.shadowed = method, shadowed
        self.functions: list[Callable[[], None]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for function in list(self.functions):
            function()
        return self.method(*args, **kwargs)


def before_epoch_end(model: keras.Model, before: Callable[[], None]) -> Callable[[], None]:
    """In the present `fit`, have before() called after the last batch of an epoch, before its
    validation and `on_epoch_end`. The value ends it, as does the next `fit`.

    After the last batch `fit` asks for the logs of the epoch. So does `evaluate`.
    """
    evaluate, logs_of = model.evaluate, model._get_metrics_result_or_logs
    shadowed = {name: model.__dict__.get(name) for name in ("evaluate", logs_of.__name__)}
    evaluating = 0

    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal evaluating
        evaluating += 1
        try:
            return evaluate(*args, **kwargs)
        finally:
            evaluating -= 1

    def epoch_logs(logs: Any) -> Any:
        if not evaluating:
            before()
        return logs_of(logs)

    def remove() -> None:
        remove_guard()
        for name, function in shadowed.items():
            if function is None:
                model.__dict__.pop(name, None)
            else:
                model.__dict__[name] = function

    model.__dict__.update({"evaluate": guarded, logs_of.__name__: epoch_logs})
    remove_guard = before_calls(model, ["make_train_function"], remove)
    return remove


_STATES = ("trainable", "non_trainable", "optimizer", "metrics")
"""Of what the state is that JAX's trainer hands from step to step."""


def in_variables(model: keras.Model, state: tuple[Any, ...]) -> None:
    """Let the variables hold the state that JAX's trainer has at hand."""
    model._jax_state = {f"{kind}_variables": x for kind, x in zip(_STATES, state, strict=True)}
    model._jax_state_synced = False
    model.jax_state_sync()


def state_of(model: keras.Model) -> tuple[Any, ...]:
    """The state for the next step of JAX's trainer, whose variables hold it until then."""
    state: tuple[Any, ...] = model._get_jax_state(*(True for _ in _STATES))
    model._jax_state_synced = False
    return state


def reads_state_to_train() -> bool:
    """Whether JAX's trainer is reading the state of an optimizer, for a training step that takes it
    over. An exception is harmless then; one in the step would lose the weights.
    """
    frames = (frame for frame, _ in traceback.walk_stack(None))
    return any(frame.f_code.co_name == "_get_jax_state" for frame in islice(frames, 8))


def fit_was_interrupted() -> bool:
    """Whether the running `fit` is being left by an exception: on JAX it finalizes the weights then
    too.
    """
    exception = sys.exc_info()[1]
    if exception is None:
        return False
    raised = {frame for frame, _ in traceback.walk_tb(exception.__traceback__)}
    frames = (frame for frame, _ in traceback.walk_stack(None))
    fit = next((frame for frame in frames if frame.f_code.co_name == "fit"), None)
    return fit in raised


def is_training(options: dict[str, Any]) -> bool:
    """Whether a layer that is called with these options trains: as it was told, else as the layers
    around it.
    """
    training = options.get("training")
    if training is None:
        context = _global_state.get_global_attribute("current_call_ctx")
        training = None if context is None else context.get_value("training")
    return trainer_trains() if training is None else bool(training)


def trainer_trains() -> bool:
    """Whether a model's `train_step` is running: a model whose `call` has no `training` is not
    told.
    """
    return any(f.f_code.co_name == "train_step" for f, _ in traceback.walk_stack(None))


class SavedState(keras.random.SeedGenerator, _KerasSaveable):
    """State of a layer that is a variable of it and saved with it, but none of its weights."""

    def _obj_type(self) -> str:
        return "Metric"  # of the kinds that Keras saves the nearest: a few variables

    def save_own_variables(self, store: Any) -> None:
        """Called when a model is saved."""
        store["state"] = keras.ops.convert_to_numpy(self.state)

    def load_own_variables(self, store: Any) -> None:
        """Called when it is loaded; weights that were saved without it leave it as it is."""
        if "state" in store.keys():  # noqa: SIM118  (no mapping)
            self.state.assign(store["state"][()])


def add_state(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """Give a layer an attribute with state, also after it was built."""
    tracker = layer._tracker
    locked = tracker.locked
    tracker.unlock()
    try:
        setattr(layer, name, value)
        if isinstance(value, SavedState):
            track_variable(layer, name, value.state)
    finally:
        if locked:
            tracker.lock()


def track_variable(layer: keras.layers.Layer, name: str, variable: Any) -> None:
    """Let `tf.saved_model.save` find a variable that is no attribute of the layer, once it has its
    value.
    """
    if keras.backend.backend() == "tensorflow" and variable._value is not None:
        layer._track_trackable(variable._value, name, overwrite=True)  # `value` may be cast


def remove_state(layer: keras.layers.Layer, name: str) -> None:
    """Take such an attribute from a layer."""
    value, tracker = getattr(layer, name), layer._tracker
    locked = tracker.locked
    tracker.unlock()
    try:
        tracker.untrack(value)
        delattr(layer, name)
    finally:
        if locked:
            tracker.lock()


class StateLayer(keras.layers.Layer):
    """Trainable state of a layer: Keras finds trainable variables in layers alone. It computes
    nothing, and is built.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name, dtype="float32")
        self.built = True


class SavedBeside(_KerasSaveable):
    """What the files of a model's weights hold beside them: `save_own_variables`, if it has any,
    and `load_own_variables`.
    """

    def _obj_type(self) -> str:
        return "Metric"  # of the kinds that Keras saves the nearest: a few variables


def save_beside_weights(name: str, make: Callable[[keras.Model], SavedBeside]) -> None:
    """Let each model have, under a name of its own, what is saved and loaded with its weights.

    Keras looks for such in the attributes of a model, those of its class included.
    """

    def beside(model: keras.Model) -> SavedBeside:
        if name not in model.__dict__:
            model.__dict__[name] = make(model)
        return model.__dict__[name]

    setattr(keras.Model, name, property(beside))


def callbacks_beside(callback: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
    """The callbacks among which the running hook of one is called, itself included; none where it
    is called by hand.
    """
    for frame, _ in islice(traceback.walk_stack(sys._getframe()), 12):
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList) and callback in owner.callbacks:
            return list(owner.callbacks)
    return []
