"""Variables of a layer for the scales that follow a history."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from qemu_swalp.training.delayed import Delayed

from .._compat import StateLayer, add_state, function_in_place, remove_state, track_variable
from ..backend import backend, eagerly
from ..layers.rebuild import is_graph
from .delayed import first_state
from .operands import Operands
from .policy import RoundingPolicy

SCALES = "delayed_scales"
"""Attribute of a layer."""


class Scales(StateLayer):
    """The states of the operands of one layer's products, see `delayed`.

    A layer that is frozen multiplies on, other numbers in each step: its scales follow them.
    """

    @property
    def trainable(self) -> bool:
        """Always, whenever the layer was frozen."""
        return True

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """What a layer does to all that it holds."""

    def make(self, name: str, delayed: Delayed) -> None:
        """The state of an operand, unless it is there."""
        if self.of(name) is None:
            self.add_weight(
                name=variable_name(name),
                shape=(delayed.history + 2,),
                dtype="float32",
                initializer=first_state,
                autocast=False,
                overwrite_with_gradient=True,
            )

    def of(self, name: str) -> Any:
        """The variable of an operand; None where it is not made."""
        named = (v for v in self.variables if v.name == variable_name(name))
        return next(named, None)

    def load_own_variables(self, store: Any) -> None:
        """As every layer's; weights that were saved without scales leave them as they are. Older
        files lack the last element, how many backwards made a state.
        """
        if len(store.keys()):
            held = {key: np.array(store[key]) for key in store.keys()}  # noqa: SIM118  (no mapping)
            for i, v in enumerate(self.variables):
                if f"{i}" in held and len(held[f"{i}"]) == v.shape[0] - 1:
                    held[f"{i}"] = np.append(held[f"{i}"], np.float32(1))
            super().load_own_variables(held)


def variable_name(operand: str) -> str:
    """What the variable of an operand is called."""
    return operand.replace("/", "_").replace(".", "_")


def scales_of(layer: Any, policy: RoundingPolicy) -> Scales | None:
    """The layer's, with all that its policy names; None where it names none."""
    scales: Scales | None = getattr(layer, SCALES, None)
    if not policy.scales:
        return scales
    with eagerly():
        if scales is None:
            # Keras on PyTorch tells parameters apart by their paths.
            scales = Scales(f"{(policy.path or layer.name).replace('/', '_')}_scales")
            add_state(layer, SCALES, scales)
        for name, delayed in policy.scales.items():
            scales.make(name, Delayed.parse(delayed))
        for variable in scales.variables:
            track_variable(scales, variable.name, variable)
    return scales


def remove_scales(layer: Any) -> None:
    """The layer's scales are none of its variables any more."""
    if hasattr(layer, SCALES):
        remove_state(layer, SCALES)


def find_scales(model: Any) -> None:
    """Make the scales of a functional or sequential model that is built, whose products are known
    once it is traced; those of others are made when Keras builds them or they are called first.
    """
    if is_graph(model) and model.built:
        inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        function_in_place("compute_output_spec")(model, inputs)


def states_of_operands(
    layer: Any, policy: RoundingPolicy, operands: Operands, part: str, training: bool
) -> tuple[Any, ...]:
    """The variables of the operands of a product, by `Scaling.place`.

    Raises
    ------
    ValueError: if they are missing in a training step on JAX, which cannot make variables; under
        replicas of `tf.distribute`, which would each have scales of their own.
    """
    named = {f"{kind}{part}": str(delayed) for kind, delayed in operands.delayed}
    if not named:
        return ()
    _check_replicas(layer)
    if missing := [name for name in named if name not in policy.scales]:
        if training and backend() == "jax":
            raise ValueError(
                f"delayed scaling of layer {policy.path or layer.name!r} has no scales of"
                f" {', '.join(missing)} yet; call the model once on a batch, in inference, before"
                " its optimizer is built"
            )
        policy.scales |= named
    scales = scales_of(layer, policy)
    return tuple(scales.of(name) for name in named) if scales is not None else ()


def _check_replicas(layer: Any) -> None:
    if backend() != "tensorflow":
        return
    import tensorflow as tf

    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise ValueError(
            f"delayed scaling of layer {layer.name!r} has one scale for all of a batch, which the"
            " replicas of tf.distribute do not share; take scales of present numbers, as"
            " 'fp8_hybrid' has, or keras.distribution on JAX"
        )
