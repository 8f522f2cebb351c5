"""Batch-normalization statistics against those of all data at once."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import Quantize, update_bn

from tests.helpers.keras_native import BACKEND, normal, numpy, same


def model_of(*parts, shape):
    return keras.Sequential([layers.Input(shape), *parts])


def statistics(layer):
    return numpy(layer.moving_mean), numpy(layer.moving_variance)


def state(model):
    return [np.array(numpy(v)) for v in model.variables]


@pytest.mark.parametrize(
    ("sizes", "shape", "axis"),
    [
        ([64, 8], (4,), -1),
        ([3, 3, 3], (5, 4), -1),
        ([1, 40], (4, 3, 2), 1),
        ([2, 1, 1], (3, 4), 2),
    ],
    ids=str,
)
def test_statistics_are_those_of_all_data_pooled(sizes, shape, axis):
    layer = layers.BatchNormalization(axis=axis)
    model = model_of(layer, shape=shape)
    n = sum(sizes)
    data = (
        normal((n, *shape), 1) * 3
        + np.arange(n, dtype=np.float32).reshape(-1, *[1] * len(shape))
        + 100
    )
    update_bn(np.split(data, np.cumsum(sizes)[:-1]), model)
    flat = np.moveaxis(data.astype(np.float64), axis, -1).reshape(-1, 4)
    mean, variance = statistics(layer)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, flat.var(0), rtol=1e-6)


def test_it_is_not_a_mean_of_batch_means():
    layer = layers.BatchNormalization()
    update_bn(
        [np.zeros((64, 1), "float32"), np.full((8, 1), 9, "float32")], model_of(layer, shape=(1,))
    )
    assert statistics(layer) == (1.0, 8.0)


def test_one_batch_is_what_keras_makes_of_it_at_momentum_zero():
    ours, theirs = layers.BatchNormalization(), layers.BatchNormalization(momentum=0.0)
    x = normal((32, 3), 1)
    update_bn(x, model_of(ours, shape=(3,)))
    theirs(x, training=True)
    for a, b in zip(statistics(ours), statistics(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_masked_elements_do_not_count():
    i = keras.Input((6,), dtype="int32")
    embedding, layer = layers.Embedding(9, 2, mask_zero=True), layers.BatchNormalization()
    model = keras.Model(i, layer(embedding(i)))
    ids = np.int32([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 0], [0, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]])
    update_bn(ids, model, batch_size=1)
    flat = numpy(embedding(ids))[ids != 0].astype(np.float64)
    mean, variance = statistics(layer)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, flat.var(0), rtol=1e-5)


def test_later_layers_see_batch_statistics():
    first, second = layers.BatchNormalization(), layers.BatchNormalization()
    update_bn(normal((32, 3), 1) * 7 + 5, model_of(first, second, shape=(3,)))
    mean, variance = statistics(second)
    np.testing.assert_allclose(mean, 0, atol=1e-6)
    np.testing.assert_allclose(variance, 1, rtol=1e-3)


def test_all_else_is_as_before():
    frozen = layers.BatchNormalization(trainable=False)

    class Inference(layers.Layer):
        def __init__(self):
            super().__init__()
            self.normalization = layers.BatchNormalization()

        def call(self, x):
            return self.normalization(x, training=False)

    model = model_of(
        layers.Dense(3),
        layers.Dropout(0.5),
        Quantize("bf16/stochastic", place=1),
        layers.BatchNormalization(),
        layers.SpectralNormalization(layers.Dense(3)),
        frozen,
        shape=(3,),
    )
    model = model_of(model, Inference(), shape=(3,))
    before = {v.path: np.array(numpy(v)) for v in model.variables}
    update_bn(normal((8, 3)), model)
    after = {v.path: numpy(v) for v in model.variables}
    changed = {path for path in before if before[path].tobytes() != after[path].tobytes()}
    assert {path.rpartition("/")[2] for path in changed} == {"moving_mean", "moving_variance"}
    assert len(changed) == 2
    assert not any("call" in layer.__dict__ for layer in model._flatten_layers())


def test_renormalization_keeps_what_training_uses():
    layer = layers.BatchNormalization(renorm=True)
    model = model_of(layer, shape=(3,))
    x = normal((32, 3), 1) * 3 + 2
    update_bn(x, model, batch_size=8)
    mean, variance = statistics(layer)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var(0), rtol=1e-5)
    np.testing.assert_allclose(
        numpy(layer.moving_stddev), np.sqrt(variance + layer.epsilon), rtol=1e-6
    )
    assert numpy(layer.renorm_mean).tolist() == [0, 0, 0]


def test_synchronized():
    if BACKEND != "tensorflow":
        with pytest.raises(ValueError, match="only supported"):
            layers.BatchNormalization(synchronized=True)
        return
    layer = layers.BatchNormalization(synchronized=True)
    update_bn(np.float32([[1], [3]]), model_of(layer, shape=(1,)))
    assert statistics(layer) == (2.0, 1.0)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_narrow_dtypes(dtype):
    layer = layers.BatchNormalization(dtype=dtype)
    update_bn(np.float32([[200], [300], [600], [900]]), model_of(layer, shape=(1,)))
    mean, variance = (
        numpy(ops.cast(v, "float32")).item() for v in (layer.moving_mean, layer.moving_variance)
    )
    assert (mean, variance) == (500.0, 75000.0 if dtype != "bfloat16" else 74752.0)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.float32([[2 * index], [2 * index + 1]]), np.zeros(2)


def loader():
    import torch

    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.arange(4.0)[:, None], torch.zeros(4)), 3
    )


def dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(
        (np.arange(4, dtype="float32")[:, None], np.zeros(4))
    ).batch(3)


FORMS = {
    "array": (lambda: np.arange(4, dtype="float32")[:, None], {"batch_size": 3}),
    "tensor": (lambda: ops.reshape(ops.arange(4, dtype="float32"), (4, 1)), {}),
    "arrays": (lambda: (np.arange(4, dtype="float32")[:, None], np.zeros(4)), {"batch_size": 1}),
    "batches": (lambda: [(np.float32([[0], [1]]), 0), [np.float32([[2], [3]]), 0]], {}),
    "generator": (lambda: ((np.float32([[i]]),) for i in range(99)), {"steps": 4}),
    "PyDataset": (Batches, {}),
    "DataLoader": (loader, {}),
    "tf.data": (dataset, {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_in_every_form(form):
    data, options = FORMS[form]
    layer = layers.BatchNormalization()
    update_bn(data(), model_of(layer, shape=(1,)), **options)
    assert statistics(layer) == (1.5, 1.25)


def test_models_of_several_inputs():
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    layer = layers.BatchNormalization()
    model = keras.Model({"a": a, "b": b}, layer(layers.Subtract()([a, b])))
    x = {"a": np.float32([[1], [3], [5]]), "b": np.float32([[1], [1], [1]])}
    for data in (x, (x, np.zeros(3)), [x], [(x, np.zeros(3))]):
        layer.moving_mean.assign([7])
        update_bn(data, model, batch_size=2)
        assert numpy(layer.moving_mean).item() == 2.0


def test_an_exception_leaves_the_model_as_it_was():
    model = model_of(layers.Dropout(0.5), layers.BatchNormalization(), shape=(2,))
    update_bn(normal((4, 2)), model)
    before = state(model)

    def failing():
        yield normal((4, 2))
        raise OSError("disk")

    for call, kind, words in (
        (lambda: update_bn(failing(), model), OSError, "disk"),
        (
            lambda: update_bn([normal((4, 2)), normal((4, 3))], model),
            ValueError,
            "[Ss]hape|incompatible",
        ),
        (lambda: update_bn([], model), ValueError, "data must give at least one batch, got none"),
        (
            lambda: update_bn(3, model),
            TypeError,
            "data must be an array, a tuple .* got builtins.int",
        ),
        (
            lambda: update_bn([], layers.Dense(3)),
            TypeError,
            "model must be a keras.Model, got keras.*Dense",
        ),
        (
            lambda: update_bn([], keras.Sequential([layers.Dense(3)], name="raw")),
            ValueError,
            "'raw' is not built",
        ),
        (lambda: update_bn([], model, batch_size=0), ValueError, "batch_size must be from 1"),
        (lambda: update_bn([], model, steps=0.5), TypeError, "steps must be an integer from 1"),
    ):
        with pytest.raises(kind, match=words):
            call()
    for a, b in zip(before, state(model), strict=True):
        same(a, b)
    assert not any("call" in layer.__dict__ for layer in model.layers)


def test_within_a_callback_of_fit():
    class Update(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            update_bn(x, self.model)
            seen.append(statistics(self.model.layers[0])[0].tolist())

    x, seen = np.float32([[1], [3]]), []
    model = model_of(layers.BatchNormalization(), layers.Dense(1), shape=(1,))
    model.compile("sgd", "mse")
    model.fit(x, x, epochs=2, verbose=0, callbacks=[Update()])
    assert seen == [[2.0], [2.0]]
    assert statistics(model.layers[0])[0] == 2.0


def test_a_model_without_batch_normalization_is_not_run():
    update_bn(iter(lambda: pytest.fail("read"), None), model_of(layers.Dense(1), shape=(1,)))
