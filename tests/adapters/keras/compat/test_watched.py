"""How operations of the backends are seen: a contract test for each item."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from qemu_swalp_keras import _compat

from tests.adapters.keras.conftest import BACKEND
from tests.helpers.keras_native import MODES, traced


def exp(x: Any) -> Any:
    """By the backend itself."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.exp(x)
    if BACKEND == "jax":
        import jax.numpy as jnp

        return jnp.exp(x)
    import torch

    return torch.exp(x)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX's programs hold them")
def test_dispatched_operations() -> None:
    """Of floating numbers, eagerly and while a graph is traced; elementwise ones of a user's."""
    x = keras.ops.ones((2, 2))
    for mode in MODES:
        seen: list[_compat.Seen] = []
        with _compat.dispatched_operations(seen.append):
            traced(lambda x: _compat.backend_function("numpy.matmul")(ops.exp(x), x), mode)(x)
            traced(lambda x: exp(ops.exp(x)), mode)(x)
        assert [s.section for s in seen] == ["products", "elementwise"]
        assert seen[0].operation in _compat.PRODUCTS[BACKEND]
        assert seen[1].operation in _compat.ELEMENTWISE[BACKEND]
        with _compat.dispatched_operations(seen.append):
            keras.ops.cast(x, "float16")  # has a dtype among its arguments
    exp(_compat.backend_function("numpy.matmul")(x, x))
    assert len(seen) == 2


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's functions")
def test_functions_of_tensorflow() -> None:
    """Called eagerly and in a graph; those that are traced within are seen as they are."""
    import tensorflow as tf

    x = tf.ones((2, 2))
    by_python = lambda x, **name: tf.numpy_function(np.exp, [x], tf.float32, **name)  # noqa: E731
    inner = tf.function(lambda x: tf.matmul(by_python(x, name=_compat.OURS), by_python(x)) / 3)
    before = tf.function(lambda x: tf.identity_n([inner(x) + 1, x])[0])
    before(x)
    for call in (before, tf.function(lambda x: before(x))):
        seen: list[_compat.Seen] = []
        with _compat.dispatched_operations(seen.append):
            call(x)
        names = [s.operation.partition(" ")[0] for s in seen]
        assert sorted(names) == ["AddV2", "BatchMatMulV2", "PyFunc", "PyFunc", "RealDiv"]
        assert all(s.operation.endswith("traced before the model was rounded") for s in seen)
    seen = []
    with _compat.dispatched_operations(seen.append):
        tf.function(lambda x: tf.matmul(x, x) / 3)(x)
    assert [s.operation for s in seen] == ["MatMul", "RealDiv"]


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's programs")
def test_operations_in_program() -> None:
    """Within functions that JAX compiles by themselves and loops too; ours are left out."""
    import jax
    import jax.numpy as jnp

    def function(x: Any) -> Any:
        with jax.named_scope(_compat.OURS):
            x = exp(jnp.matmul(x, x))
        body = lambda c, _: (exp(jnp.einsum("ij,jk->ik", c, c)), None)  # noqa: E731
        with _compat.layer_scope("around/own"):
            x = jax.nn.softmax(ops.exp(jnp.dot(x, x)))
        return jax.lax.scan(body, x, None, length=2)

    seen = _compat.operations_in_program(jax.make_jaxpr(function)(jnp.ones((2, 2))))
    assert [(s.operation, s.layer) for s in seen if s.section == "products"] == [
        ("dot_general", "around/own"),
        ("dot_general", ""),
    ]
    assert [(s.operation, s.layer) for s in seen if s.section == "elementwise"] == [
        *((name, "around/own") for name in ("sub", "exp", "reduce_sum", "div")),
        ("exp", ""),
    ]


def test_is_called_by_a_library() -> None:
    def asks(_: Any) -> bool:
        return _compat.is_called_by_a_library()

    assert not asks(None)
    if BACKEND == "jax":
        import jax

        assert jax.tree.map(asks, [0]) == [True]


def test_whose_call_it_is() -> None:
    backends = [__import__(BACKEND).__file__ or "", keras.__file__, _compat.__file__ or ""]
    backend, framework, ours = ((file, "f") for file in backends)
    assert _compat.is_users([backend, (__file__, "call"), framework])
    assert not _compat.is_users([backend, framework, (__file__, "call")])
    assert not _compat.is_users([ours, (__file__, "call")])
    assert _compat.is_users([(backends[2], "__torch_function__"), backend, (__file__, "call")])


def test_sections_of_operations() -> None:
    exps, products = _compat.ELEMENTWISE[BACKEND], _compat.PRODUCTS[BACKEND]
    assert _compat.sections_of(exps[0]) == ("elementwise",)
    assert _compat.sections_of(products[0]) == ("products",)
    assert _compat.sections_of(_compat.COMPOSED[BACKEND][0]) == ("products", "elementwise")
    assert _compat.sections_of("no operation") == ()
