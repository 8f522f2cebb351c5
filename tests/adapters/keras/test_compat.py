"""What the adapter takes from Keras that Keras does not promise. A failure here names what a new
Keras has changed.
"""

from __future__ import annotations

import inspect
from importlib.metadata import requires, version
from typing import Any

import keras
import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.adapters.keras.conftest import BACKEND, apply


def calls_of(optimizer: keras.optimizers.Optimizer, names: tuple[str, ...]) -> list[str]:
    """Which of an instance's methods a step calls, in order; each is replaced on the instance as
    the adapter does.
    """
    calls: list[str] = []

    def spy(name: str) -> Any:
        method = getattr(optimizer, name)

        def called(*arguments: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return method(*arguments, **kwargs)

        return called

    for name in names:
        setattr(optimizer, name, spy(name))
    variables = [keras.Variable(np.ones(3, "f4")), keras.Variable(np.ones(2, "f4"))]
    apply(optimizer, [np.ones(3, "f4"), np.ones(2, "f4")], variables)
    return calls


@pytest.mark.parametrize(
    "name",
    [
        "SGD",
        "Adam",
        "AdamW",
        "Nadam",
        "Adamax",
        "RMSprop",
        "Adagrad",
        "Adadelta",
        "Lion",
        "Ftrl",
        "Adafactor",
        "Lamb",
        "Muon",
    ],
)
def test_a_step_clips_then_decays_then_updates(name: str) -> None:
    """Gradients are whole at the update, and accumulators stand in for weights before the decay."""
    update = "_backend_update_step" if BACKEND == "torch" else "update_step"
    optimizer = getattr(keras.optimizers, name)(0.1)
    found = calls_of(optimizer, ("_clip_gradients", "_apply_weight_decay", update))
    assert found == [
        "_clip_gradients",
        "_apply_weight_decay",
        *[update] * (1 if BACKEND == "torch" else 2),
    ]


def test_signatures_of_the_hooked_methods() -> None:
    optimizer = keras.optimizers.SGD(0.1)
    assert list(inspect.signature(optimizer.update_step).parameters) == [
        "gradient",
        "variable",
        "learning_rate",
    ]
    assert list(inspect.signature(optimizer._apply_weight_decay).parameters) == ["variables"]
    assert [*inspect.signature(optimizer._backend_update_step).parameters] == [
        "grads",
        "trainable_variables",
        "learning_rate",
    ]


def test_state_is_made_through_add_variable_from_reference() -> None:
    optimizer = keras.optimizers.Adam(0.1)
    made = []
    add = optimizer.add_variable_from_reference
    optimizer.add_variable_from_reference = lambda v, name=None, **kwargs: (
        made.append(name) or add(v, name=name, **kwargs)
    )
    optimizer.build([keras.Variable(np.ones(3, "f4"))])
    assert made == ["momentum", "velocity"]


def test_private_attributes_are_there() -> None:
    optimizer = keras.optimizers.SGD(0.1)
    v = keras.Variable(np.ones(3, "f4"))
    optimizer.build([v])
    assert optimizer._get_variable_index(v) == 0
    assert optimizer._var_key(v) is not None
    assert optimizer._use_weight_decay(v) is True
    assert int(optimizer._iterations) == 0
    assert optimizer._variables == optimizer.variables


def test_the_pinned_range_holds_the_keras_at_hand() -> None:
    (pin,) = {
        str(r.specifier)
        for r in map(Requirement, requires("qemu-swalp") or ())
        if r.name == "keras"
    }
    assert Requirement(f"keras{pin}").specifier.contains(version("keras"))
