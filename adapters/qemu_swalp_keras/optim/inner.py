"""The optimizer within a wrapper: what of the wrapper's interface is the inner one's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from .._compat import ShowsMovingAverage, key_of, own_variables, publicly
from ..backend import tensor, update_each
from .base import QuantizedBase
from .config import restored
from .param_plan import Entry


class OfInner:
    """An option that a wrapper has from its inner optimizer, and sets there."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, wrapper: Any, owner: type) -> Any:
        return self if wrapper is None else getattr(wrapper.inner_optimizer, self.name)

    def __set__(self, wrapper: Any, value: Any) -> None:
        if hasattr(wrapper, "inner_optimizer"):  # Keras sets defaults in `__init__`
            setattr(wrapper.inner_optimizer, self.name, value)


class InnerOptimizer(ShowsMovingAverage, QuantizedBase):
    """Base of `QuantizedOptimizer`: variables, options, saving."""

    weight_decay = OfInner()
    clipnorm = OfInner()
    clipvalue = OfInner()
    global_clipnorm = OfInner()
    use_ema = OfInner()
    ema_momentum = OfInner()
    ema_overwrite_frequency = OfInner()
    loss_scale_factor = OfInner()
    gradient_accumulation_steps = OfInner()

    def _updater(self) -> Any:
        return self.inner_optimizer

    # --- 16-bit variables, for which float32 ones stand in

    def _stand_ins(self) -> list[Entry]:
        return [entry for entry in self._entries if entry.stands_in]

    def _updated(self, variables: Sequence[Any]) -> list[Any]:
        """What the inner optimizer updates in the stead of variables."""
        updated = {key_of(self, entry.variable): entry.updated for entry in self._entries}
        return [updated.get(key_of(self, v), v) for v in variables]

    def _load_16bit(self) -> None:
        stand_ins = self._stand_ins()
        self._copy([e.updated for e in stand_ins], [e.variable for e in stand_ins])

    def _store_16bit(self) -> None:
        if stand_ins := self._stand_ins():
            self._copy([e.variable for e in stand_ins], [e.updated for e in stand_ins])

    def _copy(self, targets: Sequence[Any], sources: Sequence[Any]) -> None:
        def copy(_: int, target: Any, source: Any) -> None:
            self.assign(target, keras.ops.cast(tensor(source), target.dtype))

        update_each(copy, targets, sources)

    # --- what belongs to the inner optimizer

    def _all_variables(self) -> list[Any]:
        """The variables of the average and of 16-bit weights, then the inner optimizer's."""
        return own_variables(self) + self.inner_optimizer.variables

    def _save_variables(self, store: Any) -> None:
        """Save all but the inner optimizer's, which Keras saves by itself."""
        for i, variable in enumerate(own_variables(self)):
            store[str(i)] = keras.ops.convert_to_numpy(variable)

    def _load_variables(self, store: Any) -> None:
        """Inverse of `_save_variables`; with a warning, as from every optimizer, if what was
        saved does not fit.
        """
        own = own_variables(self)
        if len(store.keys()) != len(own):
            warnings.warn(
                f"The average of {self.name} is not loaded: it keeps {len(own)}"
                f" variables, and {len(store.keys())} were saved. Build the optimizer before"
                " loading, with the `swa_start` of the saved one",
                stacklevel=2,
            )
            return
        for i, variable in enumerate(own):
            variable.assign(store[str(i)])

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Values of `variables`, in their order."""
        own = len(own_variables(self))
        super().set_weights(weights[:own])
        self.inner_optimizer.set_weights(weights[own:])

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """The inner optimizer's."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    @property
    def iterations(self) -> Any:
        """Number of updates made."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def _finalize_ema(self, var_list: Sequence[Any]) -> None:
        self.inner_optimizer.finalize_variable_values(self._updated(var_list))
        if self.use_ema:
            self._store_16bit()

    def get_config(self) -> dict[str, Any]:
        """Plain values and the inner optimizer's config."""
        inner = publicly(keras.saving.serialize_keras_object(self.inner_optimizer))
        return {"name": self.name, "inner_optimizer": inner, **self._settings.config()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> InnerOptimizer:
        """Inverse of `get_config`."""
        inner = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        arguments, names = restored(config)
        return cls(**{**arguments, "inner_optimizer": inner})._with_names(names)


def wrappable(inner: Any) -> Any:
    """The optimizer, if it can be wrapped.

    Raises
    ------
    ValueError: if it is quantized or built already, or holds optimizers of its own.
    """
    if isinstance(inner, QuantizedBase):
        raise ValueError(
            f"`inner_optimizer` is quantized already. Received: inner_optimizer={inner!r}"
        )
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "`inner_optimizer` must not be a LossScaleOptimizer, which would hide the gradients."
            " Wrap the other way round: LossScaleOptimizer(QuantizedOptimizer(optimizer, recipe));"
            " `model.compile` does so by itself under mixed_float16"
        )
    if isinstance(inner, keras.optimizers.MultiOptimizer):
        raise ValueError(
            "`inner_optimizer` must not be a MultiOptimizer. Wrap each of its optimizers instead"
        )
    if inner.built:
        raise ValueError(
            "`inner_optimizer` is built already. Pass a new one, as in keras.optimizers.SGD(0.1),"
            " or one made by from_config(optimizer.get_config())"
        )
    return inner
