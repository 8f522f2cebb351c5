"""Keras's own float8 training as a reference for delayed scaling."""

import keras
import numpy as np
import pytest
from keras import layers
from qemu_swalp_keras import quantize_gemms

from qemu_swalp.training import recipe
from tests.helpers.keras_native import BACKEND, normal, numpy


@pytest.mark.skipif(BACKEND != "torch", reason="delayed scaling is PyTorch's")
def test_delayed_scaling_is_that_of_dense_quantized_to_float8():
    """Scales step by step, and weights but for the order of sums."""
    import torch
    from qemu_swalp_torch import quantize_gemms as quantize_module

    model = keras.Sequential([layers.Input((16,)), layers.Dense(8, use_bias=False)])
    ours = torch.nn.Linear(16, 8, bias=False)
    ours.weight.data = torch.tensor(model.get_weights()[0].T.copy())
    model.quantize("float8")
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    handle = quantize_module(ours, recipe("fp8_delayed", lag=1))
    optimizer = torch.optim.SGD(ours.parameters(), 0.1)
    dense = model.layers[0]
    for step, size in enumerate((1, 2, 3, 0.5, 0.01, 40, 1, 1)):
        x, y = normal((32, 16), step) * np.float32(size), normal((32, 8), step + 100)
        model.train_on_batch(x, y)
        optimizer.zero_grad()
        (ours(torch.tensor(x)) - torch.tensor(y)).square().mean().backward()
        optimizer.step()
        np.testing.assert_allclose(
            ours.weight.detach().numpy().T, numpy(dense._kernel), rtol=1e-5, atol=1e-6
        )
        states = handle.state_dict()[""]["scales"]
        for kind, theirs in (
            ("input", dense.inputs_scale),
            ("weight", dense.kernel_scale),
            ("error", dense.outputs_grad_scale),
        ):
            np.testing.assert_allclose(states[kind]["scale"], float(numpy(theirs)), rtol=1e-5)
        assert states["input"]["scale"] == float(numpy(dense.inputs_scale))


def test_delayed_scaling_is_refused_in_keras():
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="applied in PyTorch, not in Keras"):
        quantize_gemms(model, "fp8_delayed")
