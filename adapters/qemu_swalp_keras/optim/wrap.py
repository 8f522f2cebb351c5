"""Quantize any optimizer of Keras."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from qemu_swalp.training import Recipe

from ..backend import backend, distinct, eagerly, rounded, tensor, update_each
from .base import QuantizedBase
from .config import Settings
from .param_plan import ACCUMULATOR, Entry, entries


@keras.saving.register_keras_serializable(package="qemu_swalp")
class QuantizedOptimizer(QuantizedBase):
    """Round weights, gradients and state of any Keras optimizer at each step, and average its
    weights (SWALP).

    Algorithm 2 of Yang et al. 2019: gradients are rounded when they are complete, after
    accumulation, unscaling, clipping and the all-reduce over replicas; then the inner optimizer
    makes its update; then its state and the weights are rounded. The weights are also rounded once
    when the optimizer is built: in a training loop of your own, call
    `build(model.trainable_variables)` before the first gradient. With an accumulator the update is
    added to a copy of the weight in the accumulator's format, and the weight is rounded from it.

    Parameters
    ----------
    inner_optimizer : a `keras.optimizers.Optimizer` that is not built yet, or its name. It belongs
        to this optimizer from now on. Learning rate, weight decay, clipping and gradient
        accumulation are its own.
    recipe : `qemu_swalp.training.Recipe`, or its `to_dict()`. The roles weight, gradient, momentum
        (the state `momentum`; `m` of Adamax), accumulator and average count here, and the names in
        `state`, as in {"velocity": "bf16/nearest_even"}: a second moment needs a wide format, in a
        narrow one it vanishes. Overrides match variable paths, as in "*/bias".
    seed : of the random bits, which depend on (seed, role, place of the variable among the
        trainable ones, iterations) alone. Optimizers of one `MultiOptimizer` need seeds that
        differ.
    swa_start : number of updates before averaging begins (S); None: no averaging. swa_cycle :
        average every so many updates (c). swa_include_start : whether the weights at swa_start
        count (algorithm 1) or not (algorithm 2).
    swa_finalize : whether `fit` leaves the average in the model at its end, as Keras's `use_ema`
        does; else see `swap`.
    name : of the optimizer.

    Raises
    ------
    TypeError, ValueError : for arguments out of range; when built, for variables that do not go
        with the formats, and for state that the optimizer does not keep.

    >>> import keras
    >>> from qemu_swalp.training import swalp
    >>> from qemu_swalp_keras import QuantizedOptimizer
    >>> model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    >>> optimizer = QuantizedOptimizer(keras.optimizers.Adam(0.01), swalp(8), swa_start=4)
    >>> model.compile(optimizer, loss="mse")
    >>> x = keras.ops.ones((32, 4))
    >>> _ = model.fit(x, x[:, :3], batch_size=4, verbose=0)
    >>> int(optimizer.iterations), optimizer.n_averaged
    (8, 4)
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        recipe: Recipe | Mapping[str, Any],
        *,
        seed: int = 0,
        swa_start: int | None = None,
        swa_cycle: int = 1,
        swa_include_start: bool = False,
        swa_finalize: bool = True,
        name: str | None = None,
    ) -> None:
        inner = _checked(keras.optimizers.get(inner_optimizer))
        settings = Settings.of(recipe, seed, swa_start, swa_cycle, swa_include_start, swa_finalize)
        super().__init__(learning_rate=0.0, name=name)
        self._configure(settings)
        self.inner_optimizer = inner
        self._hook()

    def _stepping(self) -> Any:
        return self.inner_optimizer

    def build(self, variables: Sequence[Any]) -> None:
        """Make the state, and round the variables. TypeError or ValueError where they do not go
        with the recipe.
        """
        if self.built:
            return
        variables, inner = list(variables), self.inner_optimizer
        made = entries(variables, self.recipe)
        by_key = {self._var_key(entry.variable): entry for entry in made}
        add = inner.add_variable_from_reference

        def recorded(reference_variable: Any, name: str | None = None, **kwargs: Any) -> Any:
            variable = add(reference_variable, name=name, **kwargs)
            by_key[self._var_key(reference_variable)].slots[name or "var"] = variable
            return variable

        inner.add_variable_from_reference = recorded
        try:
            inner.build(variables)
            for entry in made:
                if entry.recipe.accumulator is not None:
                    recorded(entry.variable, name=ACCUMULATOR)
        finally:
            del inner.add_variable_from_reference
        self._follow(made)
        super().build(variables)
        with eagerly():
            for entry in made:
                draw = entry.draw(self.seed, 0)
                entry.variable.assign(rounded(entry.variable, entry.recipe.weight, draw, "initial"))
                if entry.recipe.accumulator is not None:
                    entry.slots[ACCUMULATOR].assign(distinct(entry.variable))
        self._make_average()

    def _hook(self) -> None:
        """Put the rounding around the inner optimizer's update of each variable.

        `update_step` is what an optimizer defines; TensorFlow calls it after the all-reduce, in
        each replica. Keras's own optimizers for PyTorch update all variables at once instead.
        """
        inner = self.inner_optimizer
        decay = inner._apply_weight_decay

        def apply_weight_decay(variables: Sequence[Any]) -> None:
            self._load_accumulators(variables)
            decay(variables)

        inner._apply_weight_decay = apply_weight_decay
        if backend() == "torch":
            update_all = inner._backend_update_step

            def backend_update_step(
                grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any
            ) -> None:
                update_all(
                    [self._gradient(g, v) for g, v in zip(grads, variables, strict=True)],
                    variables,
                    learning_rate,
                )
                for v in variables:
                    self._round_updated(v)

            inner._backend_update_step = backend_update_step
        else:
            update_one = inner.update_step

            def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
                update_one(self._gradient(gradient, variable), variable, learning_rate)
                self._round_updated(variable)

            inner.update_step = update_step

    def _entry(self, variable: Any) -> Entry:
        return self._entries[self.inner_optimizer._get_variable_index(variable)]

    def _load_accumulators(self, variables: Sequence[Any]) -> None:
        pairs = [
            (v, entry.slots[ACCUMULATOR])
            for v in variables
            if (entry := self._entry(v)).recipe.accumulator is not None
        ]
        if pairs:
            update_each(
                lambda _, v, accumulator: self.assign(v, tensor(accumulator)),
                *zip(*pairs, strict=True),
            )

    def _gradient(self, gradient: Any, variable: Any) -> Any:
        entry = self._entry(variable)
        quantizer = entry.recipe.gradient
        return (
            gradient
            if quantizer is None
            else rounded(gradient, quantizer, self._draw(entry), "gradient")
        )

    def _round_updated(self, variable: Any) -> None:
        entry = self._entry(variable)
        draw, recipe = self._draw(entry), entry.recipe
        for role, slot, quantizer in entry.rounded_slots:
            self.assign(slot, rounded(slot, quantizer, draw, role))
        if recipe.accumulator is not None:
            self.assign(variable, rounded(variable, recipe.accumulator, draw, "accumulator"))
            self.assign(entry.slots[ACCUMULATOR], distinct(variable))
        if recipe.weight is not None:
            self.assign(variable, rounded(variable, recipe.weight, draw, "weight"))

    # --- what belongs to the inner optimizer
    # -------------------------------------------------------------------

    def _apply_gradients(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None
    ) -> None:
        if not self.built and trainable_variables is not None:
            self.build(trainable_variables)
        self.inner_optimizer.apply(grads, trainable_variables)

    @property
    def variables(self) -> list[Any]:
        """Own variables (of the average), then the inner optimizer's."""
        own: list[Any] = self._variables
        return own + self.inner_optimizer.variables

    def save_own_variables(self, store: Any) -> None:
        """The own ones: Keras saves the inner optimizer by itself."""
        for i, variable in enumerate(self._variables):
            store[str(i)] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Inverse of `save_own_variables`; a warning, as from every optimizer, where what was saved
        does not fit.
        """
        if len(store.keys()) != len(self._variables):
            warnings.warn(
                f"The average of {self.name} is not loaded: it keeps {len(self._variables)}"
                f" variables, and {len(store.keys())} were saved. Build the optimizer before"
                " loading, with the `swa_start` of the saved one",
                stacklevel=2,
            )
            return
        for i, variable in enumerate(self._variables):
            variable.assign(store[str(i)])

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Values of `variables`, in their order."""
        own = len(self._variables)
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

    @property
    def loss_scale_factor(self) -> Any:
        """The inner optimizer's."""
        return self.inner_optimizer.loss_scale_factor if hasattr(self, "inner_optimizer") else None

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor: Any) -> None:
        if hasattr(self, "inner_optimizer"):
            self.inner_optimizer.loss_scale_factor = factor

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """The inner optimizer's; then the average's, see `swa_finalize`."""
        self.inner_optimizer.finalize_variable_values(var_list)
        super().finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        """Plain values and the inner optimizer's config."""
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        if inner["module"].startswith(
            "keras.src.backend."
        ):  # what `keras.optimizers.SGD(...)` makes on PyTorch only
            inner |= {"module": "keras.optimizers", "registered_name": None}
        return {"name": self.name, "inner_optimizer": inner, **self._settings.config()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> QuantizedOptimizer:
        """Inverse of `get_config`."""
        inner = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**{**config, "inner_optimizer": inner})


def _checked(inner: Any) -> Any:
    """TypeError or ValueError, with the remedy, for optimizers that cannot be wrapped."""
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
            "`inner_optimizer` must not be a MultiOptimizer. Wrap each of its optimizers instead,"
            " with seeds that differ"
        )
    if inner.built:
        raise ValueError(
            "`inner_optimizer` is built already. Pass a new one, as in keras.optimizers.SGD(0.1),"
            " or one made by from_config(optimizer.get_config())"
        )
    return inner
