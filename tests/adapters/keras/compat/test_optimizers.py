"""What is not promised of optimizers of Keras, and is used: a contract test for each item.

A failure names what a new release has changed.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import _compat

from tests.adapters.keras.compat.conftest import built, variables
from tests.adapters.keras.conftest import BACKEND, apply

OPTIMIZERS = [
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
]


def step(optimizer: keras.optimizers.Optimizer, held: list[keras.Variable]) -> None:
    apply(optimizer, [np.ones(v.shape, "f4") for v in held], held)


def test_key_of_and_index_of() -> None:
    optimizer, held = built()
    assert [_compat.index_of(optimizer, v) for v in held] == [0, 1]
    assert _compat.key_of(optimizer, held[0]) != _compat.key_of(optimizer, held[1])
    if BACKEND == "tensorflow":  # whose update steps see variables of TensorFlow
        assert _compat.index_of(optimizer, held[1].value) == 1
        assert _compat.key_of(optimizer, held[1]) == _compat.key_of(optimizer, held[1].value)


def test_know_variables() -> None:
    """An optimizer without state steps as after `build`."""
    optimizer, held = keras.optimizers.SGD(0.5, use_ema=True), variables()
    _compat.know_variables(optimizer, held)
    optimizer.use_ema = False
    step(optimizer, held)
    assert [keras.ops.convert_to_numpy(v).tolist() for v in held] == [[0.5] * 3, [0.5] * 2]
    assert optimizer.built
    assert len(optimizer.variables) == 2  # iterations and learning rate


def test_forget_variable() -> None:
    optimizer, held = built()
    extra = optimizer.add_variable_from_reference(held[0], "extra")
    assert any(v is extra for v in optimizer.variables)
    _compat.forget_variable(optimizer, extra)
    assert not any(v is extra for v in optimizer.variables)


def test_shows_moving_average() -> None:
    class Wrapper(_compat.ShowsMovingAverage):
        inner_optimizer, _ = built(use_ema=True)

    optimizer, held = built(use_ema=True)
    step(optimizer, held)
    Wrapper.inner_optimizer = optimizer
    average = Wrapper()._model_variables_moving_average
    assert [v.shape for v in average] == [v.shape for v in held]
    Wrapper.inner_optimizer, _ = built()
    assert not hasattr(Wrapper(), "_model_variables_moving_average")


def test_own_variables() -> None:
    optimizer, _ = built(momentum=0.9)
    assert _compat.own_variables(optimizer) == optimizer.variables
    assert len(optimizer.variables) == 4


def test_calls_of_apply() -> None:
    optimizer, held = built(gradient_accumulation_steps=2)
    for _ in range(3):
        step(optimizer, held)
    assert (int(_compat.calls_of_apply(optimizer)), int(optimizer.iterations)) == (3, 1)


def test_float32_like() -> None:
    optimizer, _ = built()
    narrow = keras.Variable(np.ones((2, 3)), dtype="bfloat16")
    wide = _compat.float32_like(optimizer, narrow, "name")
    assert (wide.shape, wide.dtype, wide.name) == ((2, 3), "float32", "name")
    assert wide is optimizer.variables[-1]
    assert BACKEND != "jax" or hasattr(narrow, "_layout")


def test_recording_state() -> None:
    optimizer, held = keras.optimizers.Adam(0.1), variables()[:1]
    records: list[Any] = []
    with _compat.recording_state(optimizer, lambda *record: records.append(record)) as add:
        optimizer.build(held)
        state = add(held[0], name="more")
    assert [(v, name) for v, name, _ in records] == [
        (held[0], "momentum"),
        (held[0], "velocity"),
        (held[0], "more"),
    ]
    assert records[2][2] is state
    optimizer.add_variable_from_reference(held[0], name="unrecorded")
    assert len(records) == 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_before_weight_decay_and_around_update(name: str) -> None:
    """A step clips, then decays, then updates: gradients are complete at the update, and
    accumulators take the weights' place before the decay.
    """
    optimizer, held = (
        getattr(keras.optimizers, name)(0.1, clipvalue=0.5, weight_decay=0.5),
        variables(),
    )
    calls: list[str] = []

    def before(gradient: Any, variable: Any) -> Any:
        calls.append(f"before {float(keras.ops.max(gradient))}")
        return gradient

    _compat.before_weight_decay(optimizer, lambda decayed: calls.append(f"decay {len(decayed)}"))
    _compat.around_update(optimizer, before, lambda variable: calls.append("after"))
    step(optimizer, held)
    pairs = ["before 0.5", "after"] * 2
    assert calls == ["decay 2", *(sorted(pairs, reverse=True) if BACKEND == "torch" else pairs)]


def test_without_weight_decay() -> None:
    optimizer, held = built(weight_decay=0.5)
    _compat.without_weight_decay(optimizer)
    step(optimizer, held)
    assert keras.ops.convert_to_numpy(held[0]).tolist() == [0.5] * 3


def test_decays_and_exclude_alike() -> None:
    optimizer, (a, b) = keras.optimizers.SGD(0.5, weight_decay=0.5), variables()
    optimizer.exclude_from_weight_decay(var_list=[a])
    c, d = variables()
    _compat.exclude_alike(optimizer, a, c)
    _compat.exclude_alike(optimizer, b, d)
    optimizer.build([a, b, c, d])
    assert [_compat.decays(optimizer, v) for v in (a, b, c, d)] == [False, True, False, True]
    assert not _compat.decays(*[x if i == 0 else x[0] for i, x in enumerate(built())])


def test_publicly() -> None:
    """What is saved on one backend loads on another."""
    saved = _compat.publicly(keras.saving.serialize_keras_object(keras.optimizers.SGD(0.5)))
    assert (saved["module"], saved["class_name"]) == ("keras.optimizers", "SGD")
    assert isinstance(keras.saving.deserialize_keras_object(saved), keras.optimizers.SGD)
