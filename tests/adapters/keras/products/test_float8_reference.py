"""Keras's own float8 training as a reference for delayed scaling."""

import keras
import numpy as np
import pytest
from keras import layers
from qemu_swalp_keras import quantize_gemms

from qemu_swalp.training import recipe
from tests.helpers.keras_native import BACKEND, normal, numpy

WAYS = {
    "tensorflow": ({"jit_compile": False}, {"jit_compile": True}),
    "jax": ({"jit_compile": True},),
    "torch": ({"run_eagerly": True},),
}[BACKEND]
SIZES = (1, 2, 3, 0.5, 0.01, 40, 1, 1)
KINDS = {"input": "inputs", "weight": "kernel", "error": "outputs_grad"}


def batches():
    for step, size in enumerate(SIZES):
        yield normal((32, 16), step) * np.float32(size), normal((32, 8), step + 100)


def theirs(dense):
    return {kind: float(numpy(getattr(dense, f"{own}_scale"))) for kind, own in KINDS.items()}


def ours(layer):
    return {v.name: float(numpy(v)[0]) for v in layer.delayed_scales.weights}


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_delayed_scaling_is_that_of_dense_quantized_to_float8(way):
    """Scales step by step, and weights but for the order of sums."""
    reference = keras.Sequential([layers.Input((16,)), layers.Dense(8, use_bias=False)])
    model = keras.models.clone_model(reference)
    model.set_weights(reference.get_weights())
    reference.quantize("float8")
    quantize_gemms(model, recipe("fp8_delayed", lag=1))
    for each in (reference, model):
        each.compile(keras.optimizers.SGD(0.1), "mse", **way)
    for x, y in batches():
        losses = [each.train_on_batch(x, y) for each in (model, reference)]
        np.testing.assert_allclose(*losses, rtol=1e-5)
        np.testing.assert_allclose(
            numpy(model.layers[0].kernel),
            numpy(reference.layers[0]._kernel),
            rtol=1e-5,
            atol=1e-6,
        )
        found, expected = ours(model.layers[0]), theirs(reference.layers[0])
        assert found.keys() == expected.keys()
        assert found["input"] == expected["input"]
        np.testing.assert_allclose([found[k] for k in expected], list(expected.values()), 1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's adapter")
@pytest.mark.parametrize("options", [{}, {"history": 2, "margin": 1}, {"amax": "most_recent"}])
def test_delayed_scaling_is_that_of_pytorch(options):
    """The state of each operand, and the outputs by the same matrix products."""
    import torch
    from qemu_swalp_torch import quantize_gemms as quantize_module

    chosen = recipe("fp8_delayed", **options)
    model = keras.Sequential([layers.Input((16,)), layers.Dense(8, use_bias=False)])
    module = torch.nn.Linear(16, 8, bias=False)
    module.weight.data = torch.tensor(model.get_weights()[0].T.copy())
    handle = quantize_module(module, chosen)
    quantize_gemms(model, chosen)
    optimizer, other = keras.optimizers.SGD(0.1), torch.optim.SGD(module.parameters(), 0.1)
    model.compile(optimizer, "mse")
    for x, y in batches():
        model.train_on_batch(x, y)
        other.zero_grad()
        (module(torch.tensor(x)) - torch.tensor(y)).square().mean().backward()
        other.step()
        states = handle.state_dict()[""]["scales"]
        for v in model.layers[0].delayed_scales.weights:
            scale, *history, backwards = numpy(v).tolist()
            assert backwards == 1
            expected = states[v.name]["history"]
            np.testing.assert_allclose(scale, states[v.name]["scale"], rtol=1e-5)
            np.testing.assert_allclose(history[: len(expected)], expected, rtol=1e-5)
            assert not any(history[len(expected) :])
            assert v.name != "input" or history[: len(expected)] == expected
