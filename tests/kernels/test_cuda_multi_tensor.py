"""The kernels for GPUs round and step many tensors in one launch, with the bits of the reference
implementation: here on the CPU, with thread blocks emulated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.ops.round_many import round_many
from qemu_swalp.training import SGD, Quantizer
from tests.helpers import emulated
from tests.helpers.samples import bits
from tests.kernels.test_multi_tensor import RECIPES


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_steps_of_sgd(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recipe on tensors of many shapes in one launch, hyper-parameters as they come; dtypes
    in turn.
    """
    shapes = [(100, 57), (33, 3, 3, 3), (1,), (700,), (20001,), (40, 5000), (1, 5), (7, 300, 2)]
    if recipe == "rows of 32":
        shapes = [shape for shape in shapes if len(shape) > 1]
    rng = np.random.default_rng(0)
    for dtype, options in (
        ("float32", {}),
        ("float32", {"momentum": 0.9, "dampening": 0.1, "weight_decay": 1e-3}),
        ("float64", {"momentum": 0.7, "nesterov": True, "maximize": True}),
    ):
        optimizer = SGD(0.05, **options, recipe=RECIPES[recipe], seed=3)
        params = {str(shape): (rng.standard_normal(shape) / 4).astype(dtype) for shape in shapes}
        gradients = [
            {name: rng.standard_normal(w.shape).astype(dtype) for name, w in params.items()}
            for _ in range(2)
        ]

        def run(
            optimizer: SGD = optimizer, params: Any = params, gradients: Any = gradients
        ) -> list[np.ndarray]:
            state = optimizer.init(params)
            for gradient in gradients:
                params, state = optimizer.update(params, gradient, state)
            return [
                a for name in params for a in (params[name], *state.slots[name]) if a is not None
            ]

        with kernels.disabled():
            expected = run()
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "backend_of", lambda x: emulated.BACKEND)
            emulated.DEVICE.launched.clear()
            got = run()
            assert emulated.DEVICE.launched == ["qs_sgd", "qs_sgd"]
        assert all((bits(a) == bits(b)).all() for a, b in zip(got, expected, strict=True)), (
            dtype,
            options,
        )


def test_rounding_many_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        ("bfp<8,axis=0>/stochastic", (30, 500)),
        ("bfp8/stochastic", (77,)),
        ("e4m3fn/stochastic", (3, 5, 7)),
        ("nf4/stochastic", (9,)),
        ("mxfp4/stochastic", (64, 320)),
        ("bfp<8,axis=0>/stochastic", (300,)),
        ("block<e4m3fn,axis=(0,1),size=13>/stochastic", (40, 50)),
    ]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for _, shape in given]
    quantizers, random = (
        [Quantizer(text) for text, _ in given],
        [q.RandomBits(3, i, 5) for i in range(len(given))],
    )
    with kernels.disabled():
        expected = [
            quantizer(x, r) for quantizer, x, r in zip(quantizers, arrays, random, strict=True)
        ]
    monkeypatch.setattr(kernels, "backend_of", lambda x: emulated.BACKEND)
    emulated.DEVICE.launched.clear()
    assert all(round_many(arrays, quantizers, random))
    assert emulated.DEVICE.launched == ["qs_round_many"]
    assert all((bits(a) == bits(b)).all() for a, b in zip(arrays, expected, strict=True))
