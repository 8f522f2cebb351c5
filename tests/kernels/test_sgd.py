"""The fused step of quantized SGD gives the bits of the pure functions on the array program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.training import SGD, Draw, Recipe, fixed_point, fused, swalp
from qemu_swalp.training.sgd import Hyper, Slots, sgd_step
from tests.kernels.samples import bits

RECIPES = {
    "swalp8": swalp(8), "swalp8 big blocks": swalp(8, "big"), "fixed": fixed_point(8, 4),
    "mx": Recipe("mxfp8_e4m3/stochastic", gradient="mxfp4/stochastic", momentum="e5m2/nearest_even"),
    "rows of 32": Recipe("block<e4m3fn,axis=0,size=32>", gradient="bfp<8,axis=0>",
                         momentum="bfp<8,axis=(0,1),size=16>"),
    "accumulator": Recipe("bfp<8,axis=0>", momentum="bf16", accumulator="fixed<16,12>"),
    "table": Recipe("nf4/nearest_even", gradient="posit8/stochastic"), "nothing": Recipe(),
}


def steps(optimizer: SGD, shape: tuple[int, ...], dtype: str, count: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    params: Any = {"a": (rng.standard_normal(shape) / 4).astype(dtype)}
    state, found = optimizer.init(params), []
    for _ in range(count):
        gradients = {"a": rng.standard_normal(shape).astype(dtype)}
        params, state = optimizer.update(params, gradients, state)
        found += [params["a"], *(slot for slot in state.slots["a"] if slot is not None)]
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_recipe(recipe: str, dtype: str) -> None:
    for options in ({}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 1e-3},
                    {"momentum": 0.7, "nesterov": True, "maximize": True}):
        for shape in ((100, 257), (33, 3, 3, 3), (20001,), (2, 70000), (1, 5)):
            if len(shape) == 1 and "rows" in recipe:
                continue
            optimizer = SGD(0.05, **options, recipe=RECIPES[recipe], seed=3)
            got = steps(optimizer, shape, dtype)
            with kernels.disabled():
                expected = steps(optimizer, shape, dtype)
            assert all((bits(a) == bits(b)).all() for a, b in zip(got, expected, strict=True)), (options, shape)


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 300), st.integers(0, 3), st.sampled_from(list(RECIPES)))
def test_every_shape(rows: int, columns: int, seed: int, recipe: str) -> None:
    optimizer = SGD(0.1, 0.9, recipe=RECIPES[recipe], seed=seed)
    got = steps(optimizer, (rows, columns), "float32", 2)
    with kernels.disabled():
        expected = steps(optimizer, (rows, columns), "float32", 2)
    assert all((bits(a) == bits(b)).all() for a, b in zip(got, expected, strict=True))


def one_step(weight: np.ndarray, gradient: np.ndarray, recipe: Recipe = RECIPES["swalp8"], rate: Any = 0.1,
             in_place: bool = False) -> Any:
    return sgd_step(weight, gradient, Slots(), Hyper(rate, 0.9), recipe, Draw(0, 0, 0), in_place)


def test_given_arrays_are_written_only_in_place() -> None:
    weight, gradient = np.ones((4, 5), np.float32), np.full((4, 5), 0.3, np.float32)
    new, slots = one_step(weight, gradient)
    assert (weight == 1).all()
    assert (gradient == np.float32(0.3)).all()
    written, _ = one_step(weight, gradient, in_place=True)
    assert written is weight
    assert (weight == new).all()
    again, kept = sgd_step(weight, gradient, slots, Hyper(0.1, 0.9), RECIPES["swalp8"], Draw(0, 0, 1), True)
    assert again is weight
    assert kept.velocity is slots.velocity


def test_which_steps_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks of one dtype; all else by the pure functions: other dtypes and strides, blocks of whole tensors."""
    found: list[bool] = []
    step = fused.fused_step
    monkeypatch.setattr("qemu_swalp.training.sgd.fused_step",
                        lambda *arguments: found.append((result := step(*arguments)) is not None) or result)
    w = np.ones((64, 5000), np.float32)
    assert one_step(w, w)[0].dtype == np.float32
    assert one_step(w.astype(np.float64), w.astype(np.float64))[0].dtype == np.float64
    one_step(w, w, rate=np.float32(0.1))
    one_step(w.astype(np.float16), w.astype(np.float16))
    one_step(w[:, ::2], w[:, ::2])
    one_step(w, w, swalp(8, "big"))
    one_step(w[:4], w[:4], swalp(8, "big"))
    assert found == [True, True, False, False, False, False, True]


def test_what_a_dtype_does_not_hold() -> None:
    w = np.ones((4, 5), np.float32)
    with pytest.raises(TypeError, match="cannot hold the values of fixed<30,4>"):
        one_step(w, w, Recipe("fixed<30,4>"))
    assert (w == 1).all()


def test_threads_change_nothing() -> None:
    before = q.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            q.set_num_threads(threads)
            found.append(steps(SGD(0.1, 0.9, recipe=swalp(8)), (300, 700), "float32"))
        assert all((bits(a) == bits(b)).all() for other in found[1:] for a, b in zip(found[0], other, strict=True))
    finally:
        q.set_num_threads(before)
