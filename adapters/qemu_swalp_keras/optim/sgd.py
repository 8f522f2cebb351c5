"""SGD on the core's step function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from qemu_swalp._util.autograph import no_autograph
from qemu_swalp.training import SGD as CoreSGD, Hyperparameters, Recipe, Slots, sgd_step

from .._compat import decays, without_weight_decay
from ..backend import distinct, dtype_of, tensor
from ..layers.selection import Selection
from .base import QuantizedBase
from .config import Settings, restored
from .param_plan import ACCUMULATOR

MOMENTUM = "momentum"
SLOTS = (MOMENTUM, ACCUMULATOR)
"""Names of the variables that hold the core's `Slots`, in their order."""


@keras.saving.register_keras_serializable(package="qemu_swalp")
class SGD(QuantizedBase):
    """`keras.optimizers.SGD`'s signature on `qemu_swalp.training.sgd_step`: the same gradients give
    the core's bits.

    Weights, momenta, accumulators and averages equal those of `qemu_swalp.training.SGD` on NumPy,
    and those of the PyTorch adapter's, bit for bit where Keras runs eagerly. As there, weights are
    not rounded before the first step. The update is that of Yang et al. 2019 and of PyTorch. It
    differs from `keras.optimizers.SGD` in two ways: the velocity v = ρ·v + g holds no learning
    rate, and weight decay is added to the gradient after its rounding.

    Parameters
    ----------
    learning_rate … name : as in `keras.optimizers.SGD`, apart from the above.
    recipe : a recipe, its `to_dict()`, or the name of a preset; its roles weight, gradient,
        momentum, accumulator and average count here. None rounds nothing.
    seed, swa_start, swa_cycle, swa_include_start, swa_finalize, swa_nonfinite, model, exclude : as
        in `QuantizedOptimizer`.

    Raises
    ------
    TypeError: if an argument is of another type.
    ValueError: if an argument is out of range; if the recipe rounds something, but nothing in its
        section "optimizer".
    TypeError, ValueError: when built, if a variable does not fit the formats, or a pattern of the
        recipe's overrides matches nothing.

    >>> import keras
    >>> from qemu_swalp.training import fixed_point
    >>> from qemu_swalp_keras import SGD
    >>> w = keras.Variable([1.0])
    >>> optimizer = SGD(0.1, recipe=fixed_point(8, 4))
    >>> optimizer.apply([keras.ops.convert_to_tensor([2.0])], [w])
    >>> w.numpy().tolist()
    [0.8125]
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        recipe: Recipe | str | Mapping[str, Any] | None = None,
        seed: int | None = None,
        swa_start: int | None = None,
        swa_cycle: int = 1,
        swa_include_start: bool = False,
        swa_finalize: bool = True,
        swa_nonfinite: str = "raise",
        model: Any = None,
        exclude: Selection = (),
    ) -> None:
        CoreSGD(0.0, momentum, 0.0, weight_decay or 0.0)  # checks the numbers
        if momentum > 1:
            raise ValueError(f"momentum must be at most 1, got {momentum}")
        settings = Settings.of(
            "SGD",
            recipe,
            seed,
            swa_start,
            swa_cycle,
            swa_include_start,
            swa_finalize,
            swa_nonfinite,
            model,
            exclude,
        )
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        self.momentum, self.nesterov = momentum, nesterov
        without_weight_decay(self)  # `sgd_step` adds it to the gradient
        self._configure(settings)

    @no_autograph
    def build(self, variables: Sequence[Any]) -> None:
        """Make the state.

        Raises
        ------
        TypeError, ValueError: if a variable does not fit the recipe.
        """
        if self.built:
            return
        plan = self._entries_of(variables)
        for entry in plan:
            if self.momentum:
                # ρ·(-0) + g is g, bit for bit: the first velocity is the gradient, as in the core.
                initial = keras.initializers.Constant(-0.0)
                entry.slots[MOMENTUM] = self.add_variable_from_reference(
                    entry.variable, MOMENTUM, initial
                )
            if entry.recipe.accumulator is not None:
                entry.slots[ACCUMULATOR] = self.add_variable_from_reference(
                    entry.variable, ACCUMULATOR
                )
        self._check_plan(plan)
        super().build(variables)
        self._finish_build(plan)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One update of one variable: `qemu_swalp.training.sgd_step`.

        Of 16-bit variables that are rounded it is computed in float32, so that the recipe rounds
        the exact float32 value, once.
        """
        entry = self._entry(variable)
        dtype = "float32" if entry.needs_float32 else dtype_of(variable)
        decay = self.weight_decay if decays(self, variable) else 0.0
        hyper = Hyperparameters(
            ops.cast(learning_rate, dtype), self.momentum, 0.0, decay, self.nesterov
        )
        weight, gradient = (ops.cast(tensor(x), dtype) for x in (variable, gradient))
        slots = Slots(
            *(
                ops.cast(tensor(entry.slots[name]), dtype) if name in entry.slots else None
                for name in SLOTS
            )
        )
        weight, slots = sgd_step(weight, gradient, slots, hyper, entry.recipe, self._draw(entry))
        self.assign(variable, weight)
        for name, value in zip(SLOTS, slots, strict=True):
            if value is not None:
                self.assign(entry.slots[name], distinct(value))

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            **self._settings.config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SGD:
        """Inverse of `get_config`."""
        arguments, names = restored(config)
        optimizer: SGD = super().from_config(arguments, custom_objects)
        return optimizer._with_names(names)
