"""Quantize any optimizer of Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from qemu_swalp._util.autograph import no_autograph
from qemu_swalp.training import Phases, Recipe

from .._compat import (
    around_update,
    before_weight_decay,
    exclude_alike,
    float32_like,
    forget_variable,
    index_of,
    key_of,
    know_variables,
    recording_state,
)
from ..backend import distinct, dtype_of, rounded, tensor
from ..layers.selection import Selection
from .config import Settings
from .inner import InnerOptimizer, wrappable
from .param_plan import ACCUMULATOR, Entry
from .swap import before_use, refused


@keras.saving.register_keras_serializable(package="qemu_swalp")
class QuantizedOptimizer(InnerOptimizer):
    """Round weights, gradients and state of any Keras optimizer at each step, and average its
    weights (SWALP).

    Algorithm 2 of Yang et al. 2019: gradients are rounded when they are complete, after
    accumulation, unscaling, clipping and the all-reduce over replicas. Then the inner optimizer
    makes its update, and then its state and the weights are rounded. The weights are also rounded
    once when the optimizer is built: in a training loop of your own, call
    `build(model.trainable_variables)` before the first gradient. With an accumulator the update is
    added to a copy of the weight in the accumulator's format, and the weight is rounded from it.
    16-bit variables that are rounded have a float32 variable in their stead in the inner optimizer,
    whose state for them is float32 too. The recipe rounds the exact float32 update, once.

    Parameters
    ----------
    inner_optimizer : a `keras.optimizers.Optimizer` that is not built yet, or its name. It belongs
        to this optimizer from now on, and so do its learning rate, weight decay, clipping and
        gradient accumulation.
    recipe : a recipe, its `to_dict()`, or the name of a preset. The roles weight, gradient,
        momentum (the state `momentum`; `m` of Adamax), accumulator and average count here, and the
        names in `state`, as in {"velocity": "bf16/nearest_even"}. A second moment needs a wide
        format; in a narrow one it vanishes. Overrides match variable paths, as in "*/bias"; each
        must match one, those of layers ("fc/operands") aside. None, or an empty recipe, averages
        without rounding. `Phases` change by `iterations`, see `emulate`.
    seed : of the random bits, which depend on (seed, role, index of the variable among the
        trainable ones, iterations) alone. None: another one for each optimizer of this process, the
        same at each run of the program; `get_config` and saved models keep it.
    swa_start : number of updates before averaging begins (S); None: no averaging. swa_cycle :
        average every so many updates (c). swa_include_start : whether the weights at swa_start
        count (algorithm 1) or not (algorithm 2).
    swa_finalize : whether `fit` leaves the average in the model at its end, as Keras's `use_ema`
        does; else see `swap`.
    swa_nonfinite : what becomes of an iterate that is due and has an infinity or NaN, which would
        stay in the average. "skip" it, so that `n_averaged` does not count it; "include" it; or
        "raise" ValueError, when the average is asked for.
    model : the model that it will train: then overrides may name all that belongs to it, frozen
        layers and positions ("@layers[-1]") included. It is let go when the optimizer is built.
    exclude : layers of the model whose variables stay in full precision, as in `emulate`.
    name : of the optimizer.

    Raises
    ------
    TypeError: if an argument is of another type.
    ValueError: if an argument is out of range; if the inner optimizer is built or cannot be
        wrapped; if the recipe rounds something, but nothing that an optimizer applies.
    TypeError, ValueError: when built, if a variable does not fit the formats, the recipe names
        state that the inner optimizer lacks, or a pattern of its overrides matches nothing.

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
        recipe: Recipe | str | Mapping[str, Any] | Phases | None,
        *,
        seed: int | None = None,
        swa_start: int | None = None,
        swa_cycle: int = 1,
        swa_include_start: bool = False,
        swa_finalize: bool = True,
        swa_nonfinite: str = "raise",
        model: Any = None,
        exclude: Selection = (),
        name: str | None = None,
    ) -> None:
        inner = wrappable(keras.optimizers.get(inner_optimizer))
        settings = Settings.of(
            "QuantizedOptimizer",
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
        super().__init__(learning_rate=0.0, name=name)
        self._configure(settings)
        self.inner_optimizer = inner
        self._unhook: tuple[Callable[[], None], ...] = (
            before_weight_decay(inner, self._load_accumulators),
            around_update(inner, self._rounded_gradient, self._round_updated),
        )

    @no_autograph
    def build(self, variables: Sequence[Any]) -> None:
        """Make the state, and round the variables.

        Raises
        ------
        TypeError, ValueError: if a variable does not fit the recipe.
        """
        if self.built:
            return
        variables, inner = list(variables), self.inner_optimizer
        plan = self._entries_of(variables)
        for entry in plan:
            if entry.needs_float32:
                entry.updated = self._stand_in(entry)
        by_key = {key_of(inner, entry.updated): entry for entry in plan}

        def record(variable: Any, name: str, state: Any) -> None:
            by_key[key_of(inner, variable)].slots[name] = state

        with recording_state(inner, record) as add_state:
            inner.build([entry.updated for entry in plan])
            for entry in plan:
                if entry.accumulates:
                    add_state(entry.updated, name=ACCUMULATOR)
        self._check_plan(plan)
        know_variables(self, variables)
        self._finish_build(plan)

    def _stand_in(self, entry: Entry) -> Any:
        """A float32 variable that the inner optimizer updates in a variable's stead."""
        variable = entry.variable
        with keras.name_scope(entry.name.replace("/", "_")):
            stand_in = float32_like(self, variable, variable.name)
        stand_in.constraint = getattr(variable, "constraint", None)
        exclude_alike(self.inner_optimizer, variable, stand_in)
        return stand_in

    def _give_first_value(self, entry: Entry) -> None:
        draw = entry.draw(self.seed, 0)
        entry.variable.assign(rounded(entry.variable, entry.recipe.weight, draw, "initial"))
        super()._give_first_value(entry)

    def _give_up_inner(self) -> Any:
        """The inner optimizer with its state, no longer hooked; nothing else uses it then."""
        inner = self.inner_optimizer
        if (swap := self._standing()) is not None and not swap.automatic:
            raise refused()
        before_use(entry.variable for entry in self._entries)
        for unhook in self._unhook:
            unhook()
        for entry in self._entries:
            if ACCUMULATOR in entry.slots:
                forget_variable(inner, entry.slots[ACCUMULATOR])
        if self._entries:
            know_variables(inner, [entry.variable for entry in self._entries])
        self._unhook = ()
        return inner

    # --- the update

    def _apply_gradients(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None
    ) -> None:
        if not self._unhook:
            raise ValueError(
                "unquantize_optimizer was called on this optimizer. Train with the one that it"
                " returned, as in model.compile(unquantize_optimizer(optimizer), ...)"
            )
        if trainable_variables is not None and not self.built:
            self.build(list(trainable_variables))
        if not self._stand_ins():
            self.inner_optimizer.apply(grads, trainable_variables)
            return
        self._load_16bit()
        if trainable_variables is None:
            trainable_variables = [entry.variable for entry in self._entries]
        updated = self._updated(trainable_variables)
        wide = [
            None if g is None else keras.ops.cast(tensor(g), dtype_of(v))
            for g, v in zip(grads, updated, strict=True)
        ]
        self.inner_optimizer.apply(wide, updated)

    def _load_accumulators(self, variables: Sequence[Any]) -> None:
        """Set weights to their accumulators, before anything is added to them."""
        pairs = [
            (v, entry.slots[ACCUMULATOR])
            for v in variables
            if (entry := self._inner_entry(v)).recipe.accumulator is not None
        ]
        if pairs:
            self._copy(*zip(*pairs, strict=True))

    def _rounded_gradient(self, gradient: Any, variable: Any) -> Any:
        entry = self._inner_entry(variable)
        quantizer = entry.recipe.gradient
        if quantizer is None:
            return gradient
        return rounded(gradient, quantizer, self._draw(entry), "gradient")

    def _round_updated(self, variable: Any) -> None:
        entry = self._inner_entry(variable)
        draw, recipe = self._draw(entry), entry.recipe
        for role, slot, quantizer in entry.rounded_slots():
            self.assign(slot, rounded(slot, quantizer, draw, role))
        if recipe.accumulator is not None:
            self.assign(variable, rounded(variable, recipe.accumulator, draw, "accumulator"))
            self.assign(entry.slots[ACCUMULATOR], distinct(variable))
        if recipe.weight is not None:
            self.assign(variable, rounded(variable, recipe.weight, draw, "weight"))

    def _inner_entry(self, variable: Any) -> Entry:
        """Of a variable that the inner optimizer updates."""
        return self._entries[index_of(self.inner_optimizer, variable)]


def unquantize_optimizer(optimizer: Any) -> Any:
    """The optimizer within a quantized one, with its state, iterations and rates: training goes on
    with it, unrounded.

    Weights and state keep their values; accumulators and the average go. Of 16-bit weights that
    were rounded the state stays in float32. Compile the model anew with what is returned.

    Parameters
    ----------
    optimizer : a `QuantizedOptimizer`, or a `keras.optimizers.LossScaleOptimizer` around one. It
        cannot be used any more.

    Returns
    -------
    the inner optimizer; with loss scaling, that optimizer around it.

    Raises
    ------
    ValueError: if it is another optimizer; if a user's swap stands in the weights.

    >>> import keras, numpy as np
    >>> from qemu_swalp.training import swalp
    >>> w = keras.Variable([1.0])
    >>> quantized = QuantizedOptimizer(keras.optimizers.SGD(0.1), swalp(8))
    >>> quantized.apply([keras.ops.ones(1)], [w])
    >>> inner = unquantize_optimizer(quantized)
    >>> inner.apply([keras.ops.ones(1)], [w])
    >>> type(inner).__name__, int(inner.iterations)
    ('SGD', 2)
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.inner_optimizer = unquantize_optimizer(optimizer.inner_optimizer)
        return optimizer
    if not isinstance(optimizer, QuantizedOptimizer) or not optimizer._unhook:
        raise ValueError(
            "`optimizer` must be a QuantizedOptimizer that was not undone yet, or loss scaling"
            " around one; SGD of this package rounds by itself, and the optimizers of a"
            f" MultiOptimizer are undone one by one. Received: optimizer={optimizer!r}"
        )
    return optimizer._give_up_inner()
