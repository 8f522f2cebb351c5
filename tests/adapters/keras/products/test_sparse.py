"""Sparse inputs are multiplied, rounded, as dense ones."""

import keras
import numpy as np
import pytest
from keras import layers
from qemu_swalp_keras import quantize_elementwise, quantize_gemms

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, numpy, same

RECIPE = Recipe(operands=dict.fromkeys(("input", "weight", "error"), "fixed<8,4>"))
INDICES = [[1, 2], [0, 3], [0, 1], [1, 2]]
"""Out of order, as those of SciPy's arrays may be; what an index has twice is added."""
VALUES = np.float32([0.3, -1.2, 2.4, 0.8])


def sparse_and_dense():
    dense = np.zeros((2, 4), "float32")
    np.add.at(dense, tuple(zip(*INDICES, strict=True)), VALUES)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.SparseTensor(INDICES, VALUES, (2, 4)), dense
    from jax.experimental.sparse import BCOO

    return BCOO((VALUES, np.array(INDICES)), shape=(2, 4)), dense


def gradient(layer, x):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            y = layer(x)
        return tape.gradient(y, layer.kernel.value)
    import jax

    def output(kernel):
        with keras.StatelessScope([(layer.kernel, kernel)]):
            return keras.ops.sum(layer(x))

    return jax.grad(output)(layer.kernel.value)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no sparse tensors there")
def test_values_and_gradients_are_those_of_dense_inputs():
    sparse, dense = sparse_and_dense()
    layer = layers.Dense(3)
    layer.build((2, 4))
    quantize_gemms(layer, RECIPE)
    same(layer(sparse), numpy(layer(dense)))
    found = gradient(layer, sparse)
    assert tuple(found.shape) == (4, 3)
    assert not hasattr(found, "indices"), "a sparse gradient"
    same(found, numpy(gradient(layer, dense)))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="lengths are open in its graphs alone")
def test_lengths_that_a_graph_leaves_open():
    import tensorflow as tf

    sparse, dense = sparse_and_dense()
    layer = quantize_gemms(layers.Dense(3), RECIPE)
    layer.build((None, 4))
    given = tf.SparseTensorSpec([None, 4], tf.float32)
    same(tf.function(layer, input_signature=[given])(sparse), numpy(layer(dense)))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no sparse tensors there")
def test_elementwise_functions_take_them_as_dense_ones():
    class Layer(layers.Layer):
        def call(self, x):
            return keras.ops.sigmoid(x)

    sparse, dense = sparse_and_dense()
    layer = quantize_elementwise(Layer(), Recipe(elementwise="fixed<8,4>"))
    same(layer(sparse), numpy(layer(dense)))
