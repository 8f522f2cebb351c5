"""What the backends beneath Keras do not promise, and is used: a contract test for each item.

A failure names what a new release has changed.
"""

from __future__ import annotations

from typing import Any

import keras
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


@pytest.mark.skipif(BACKEND == "jax", reason="JAX's programs hold them")
def test_dispatched_products() -> None:
    """Of floating numbers, eagerly and while a graph is traced; no other operations."""
    from tests.helpers.keras_native import MODES, traced

    x = keras.ops.ones((2, 2))
    for mode in MODES:
        seen: list[str] = []
        with _compat.dispatched_products(seen.append):
            traced(lambda x: _compat.backend_function("numpy.matmul")(x + x, x), mode)(x)
        assert len(seen) == 1
        assert seen[0] in _compat.PRODUCTS[BACKEND]
        with _compat.dispatched_products(seen.append):
            keras.ops.cast(x, "float16")  # has a dtype among its arguments
    _compat.backend_function("numpy.matmul")(x, x)
    assert len(seen) == 1


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's programs")
def test_products_in_program() -> None:
    """Within functions that JAX compiles by themselves and loops too; ours are left out."""
    import jax
    import jax.numpy as jnp

    def function(x: Any) -> Any:
        with jax.named_scope(_compat.OURS):
            x = jnp.matmul(x, x)
        body = lambda carry, _: (jnp.einsum("ij,jk->ik", carry, carry), None)  # noqa: E731
        return jax.lax.scan(body, jnp.dot(x, x), None, length=2)

    assert _compat.products_in_program(function, [jnp.ones((2, 2))]) == ["dot_general"] * 2
