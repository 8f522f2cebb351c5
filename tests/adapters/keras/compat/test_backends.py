"""What the backends beneath Keras do not promise, and is used: a contract test for each item.

A failure names what a new release has changed.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from qemu_swalp_keras import _compat

from tests.adapters.keras.conftest import BACKEND


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone has replicas")
def test_on_each_replica() -> None:
    import tensorflow as tf

    v, seen = tf.Variable(1.0), []
    rows = [(v, tf.constant(2.0))]
    _compat.on_each_replica(lambda i, held, x: seen.append((i, held is v, float(x))), rows)
    assert seen == [(0, True, 2.0)]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone traces variables")
@pytest.mark.parametrize("outside", [True, False])
def test_variables_outside(outside: bool) -> None:
    import tensorflow as tf

    made, traces = [], []

    @tf.function
    def function() -> Any:
        traces.append(outside)
        with _compat.variables_outside() if outside else nullcontext():
            made[:] = made or [tf.Variable(lambda: 2.0)]
        return made[0] + 1.0

    assert float(function()) == 3.0
    assert len(traces) == 1 if outside else len(traces) > 1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone traces variables")
def test_first_values_may_be_computed_of_what_is_traced() -> None:
    import tensorflow as tf

    made: list[Any] = []

    @tf.function
    def function(x: Any) -> Any:
        with _compat.variables_outside():
            made[:] = made or [tf.Variable(lambda: tf.reduce_sum(x))]
        return made[0] + 1.0

    assert float(function(tf.constant([1.0, 2.0]))) == 4.0


@pytest.mark.skipif(BACKEND != "jax", reason="JAX alone has tracers")
def test_traced_by_jax() -> None:
    import jax

    seen = []
    jax.jit(lambda x: seen.append(_compat.traced_by_jax(x)) or x)(1.0)
    assert seen == [True]
    assert not _compat.traced_by_jax(jax.numpy.ones(1))


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's programs")
def test_jax_calls_python_on_the_host() -> None:
    """Once for each run of a program, within loops too."""
    import jax

    def twice(x: Any) -> Any:
        assert type(x) is np.ndarray
        return 2 * x

    def step(x: Any, _: Any) -> Any:
        return _compat.called_on_host_by_jax(twice, [x], x.shape, "float32"), None

    assert _compat.host_primitive() is _compat.host_primitive()
    run = jax.jit(lambda x: jax.lax.scan(step, x, None, length=3)[0])
    assert run(np.float32([1.0, 2.0])).tolist() == [8.0, 16.0]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's tapes")
def test_gradients_are_recorded() -> None:
    """By a tape, until it is asked for them; a graph may always be differentiated."""
    import tensorflow as tf

    seen = [_compat.gradients_are_recorded()]
    v = tf.Variable(1.0)
    with tf.GradientTape() as tape:
        seen.append(_compat.gradients_are_recorded())
        y = 2 * v
    tape.gradient(y, v)
    seen.append(_compat.gradients_are_recorded())
    tf.function(lambda: seen.append(_compat.gradients_are_recorded()))()
    assert seen == [False, True, False, True]
