"""Models whose shapes Keras infers by running them, with tensors without values and once more."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import pytest
from keras import layers
from qemu_swalp_keras import emulate
from qemu_swalp_keras.calls.scope import CALLS_OF_A_MODE

from qemu_swalp import RandomBits
from qemu_swalp.training import Recipe, recipe
from tests.adapters.keras.conftest import BACKEND

STOCHASTIC = {
    "activations": recipe("swalp8"),
    "products": Recipe(operands={"input": "e4m3fn/stochastic", "error": "e5m2/stochastic"}),
    "elementwise": Recipe(elementwise="bf16/stochastic"),
}


@pytest.fixture(autouse=True)
def _memory_that_nobody_wrote() -> Iterator[None]:
    """Holds the greatest integers and NaN on PyTorch, not what lay there."""
    if BACKEND != "torch":
        yield
        return
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_what_runs_on_no_meta_device_counts_its_own_calls(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`UpSampling2D` repeats by numbers, which tensors of the device "meta" do not have, so that
    Keras on PyTorch calls the model again on the CPU (ValueError: step must be from 0).
    """
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(2, 2, activation="relu"),
            layers.UpSampling2D(2),
            layers.Conv2D(2, 2),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    steps: list[int] = []
    check = RandomBits._check_step
    monkeypatch.setattr(
        RandomBits, "_check_step", lambda bits: steps.append(bits.step) or check(bits)
    )
    model, optimizer = emulate(model, keras.optimizers.SGD(0.01), STOCHASTIC[name], seed=0)
    model.compile(optimizer or keras.optimizers.SGD(0.01), "mse")
    x = np.random.default_rng(0).standard_normal((8, 4, 4, 2)).astype("float32")
    first = model.fit(x, x[:, 0, 0, :1], 8, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(first).all()
    assert BACKEND != "torch" or all(step % CALLS_OF_A_MODE < 1000 for step in steps)
