"""What a layer that rounds holds: its policy, how often it was called, whether it rounds."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from .._compat import SavedState, add_state
from ..backend import LOSS_STATE, ROUNDING_STATE, eagerly
from .policy import RoundingPolicy
from .scales import scales_of


class RoundingState(SavedState):
    """How many calls of a layer were rounded in training and in inference, and whether they are:
    random state, which Keras saves and restores but does not count among the weights.
    """

    def __init__(self, seed: int | None = None, name: str | None = None, **options: Any) -> None:
        super().__init__(seed=0, name=name, **options)
        # "int": TensorFlow keeps variables of int32 in host memory, where XLA cannot reach them.
        self.state = keras.Variable(
            [0, 0, 1],
            dtype="int",
            trainable=False,
            aggregation="only_first_replica",
            name="rounding_state",
        )

    @property
    def enabled(self) -> Switch:
        return Switch(self.state)


class Switch:
    """Whether anything is rounded: the last element of a `RoundingState`."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __int__(self) -> int:
        return int(ops.convert_to_numpy(self.state)[2])

    def assign(self, value: int) -> None:
        """As a variable's."""
        *calls, _ = ops.convert_to_numpy(self.state)
        self.state.assign([*calls, value])


def rounding_state(layer: Any, name: str = ROUNDING_STATE) -> RoundingState:
    """The layer's, made where it is missing.

    name : of the attribute that holds it.
    """
    state: RoundingState | None = getattr(layer, name, None)
    if state is None:
        with eagerly():
            state = RoundingState(name=name)
        add_state(layer, name, state)
    return state


def prepare(layer: Any) -> None:
    """Give a layer the state that its policy needs, where that is missing."""
    rounding_state(layer)
    if (policy := policy_of(layer)) is not None:
        scales_of(layer, policy)
    if loss_policy_of(layer) is not None:
        rounding_state(layer, LOSS_STATE)


def policy_of(layer: Any) -> RoundingPolicy | None:
    """The layer's own, not one that it was handed by the layer around it."""
    policy = layer.dtype_policy
    own = isinstance(policy, RoundingPolicy) and policy.layer == layer.name
    return policy if own else None


def loss_policy_of(layer: Any) -> RoundingPolicy | None:
    """How the loss of a model is rounded; None for layers and models within it."""
    policy = policy_of(layer) if isinstance(layer, keras.Model) else None
    return None if policy is None or policy.path else policy.of_loss
