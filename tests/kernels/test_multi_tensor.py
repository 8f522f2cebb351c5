"""Fused steps of quantized SGD give the bits of the reference implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.kernels.cpu import CPU
from qemu_swalp.training import (
    SGD,
    Recipe,
    TensorRandomBits,
    fixed_point,
    fused_sgd,
    swalp,
)
from qemu_swalp.training.sgd import Hyperparameters, Slots, StepInputs, sgd_step, sgd_steps
from tests.helpers.samples import bits

RECIPES = {
    "swalp8": swalp(8).resolve(out=0),
    "swalp8 big blocks": swalp(8, "big"),
    "fixed": fixed_point(8, 4),
    "mx": Recipe(
        "mxfp8_e4m3/stochastic", gradient="mxfp4/stochastic", momentum="e5m2/nearest_even"
    ),
    "rows of 32": Recipe(
        "block<e4m3fn,axis=0,size=32>/stochastic",
        gradient="bfp<8,axis=0>/stochastic",
        momentum="bfp<8,axis=(0,1),size=16>/stochastic",
    ),
    "accumulator": Recipe(
        "bfp<8,axis=0>/stochastic",
        momentum="bf16/stochastic",
        accumulator="fixed<16,12>/stochastic",
    ),
    "table": Recipe("nf4/nearest_even", gradient="posit8/stochastic"),
    "nothing": Recipe(),
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
    for options in (
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.1, "weight_decay": 1e-3},
        {"momentum": 0.7, "nesterov": True, "maximize": True},
    ):
        for shape in ((100, 257), (33, 3, 3, 3), (20001,), (2, 70000), (1, 5)):
            if len(shape) == 1 and "rows" in recipe:
                continue
            optimizer = SGD(0.05, **options, recipe=RECIPES[recipe], seed=3)
            got = steps(optimizer, shape, dtype)
            with kernels.disabled():
                expected = steps(optimizer, shape, dtype)
            assert all((bits(a) == bits(b)).all() for a, b in zip(got, expected, strict=True)), (
                options,
                shape,
            )


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 300), st.integers(0, 3), st.sampled_from(list(RECIPES)))
def test_every_shape(rows: int, columns: int, seed: int, recipe: str) -> None:
    optimizer = SGD(0.1, 0.9, recipe=RECIPES[recipe], seed=seed)
    got = steps(optimizer, (rows, columns), "float32", 2)
    with kernels.disabled():
        expected = steps(optimizer, (rows, columns), "float32", 2)
    assert all((bits(a) == bits(b)).all() for a, b in zip(got, expected, strict=True))


def one_step(
    weight: np.ndarray,
    gradient: np.ndarray,
    recipe: Recipe = RECIPES["swalp8"],
    rate: Any = 0.1,
    in_place: bool = False,
) -> Any:
    return sgd_step(
        weight,
        gradient,
        Slots(),
        Hyperparameters(rate, 0.9),
        recipe,
        TensorRandomBits(0, 0, 0),
        in_place,
    )


def test_given_arrays_are_written_only_in_place() -> None:
    weight, gradient = np.ones((4, 5), np.float32), np.full((4, 5), 0.3, np.float32)
    new, slots = one_step(weight, gradient)
    assert (weight == 1).all()
    assert (gradient == np.float32(0.3)).all()
    written, _ = one_step(weight, gradient, in_place=True)
    assert written is weight
    assert (weight == new).all()
    again, kept = sgd_step(
        weight,
        gradient,
        slots,
        Hyperparameters(0.1, 0.9),
        RECIPES["swalp8"],
        TensorRandomBits(0, 0, 1),
        True,
    )
    assert again is weight
    assert kept.velocity is slots.velocity


def test_which_steps_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks of one dtype; all else by the pure functions: other dtypes and strides, blocks
    of whole tensors.
    """
    found: list[bool] = []
    steps = fused_sgd.fused_steps

    def watched(*arguments: Any) -> Any:
        results = steps(*arguments)
        found.extend(result is not None for result in results)
        return results

    monkeypatch.setattr("qemu_swalp.training.sgd.fused_steps", watched)
    w = np.ones((64, 5000), np.float32)
    assert one_step(w, w)[0].dtype == np.float32
    assert one_step(w.astype(np.float64), w.astype(np.float64))[0].dtype == np.float64
    one_step(w, w, rate=np.float32(0.1))
    one_step(w.astype(np.float16), w.astype(np.float16))
    one_step(w[:, ::2], w[:, ::2])
    one_step(w, w, swalp(8, "big"))
    one_step(w[:4], w[:4], swalp(8, "big"))
    assert found == [True, True, False, False, False, False, True]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each call of the kernels had."""
    found: list[int] = []
    sgd = CPU.sgd
    monkeypatch.setattr(
        CPU, "sgd", lambda tensors, chunks: (found.append(len(tensors)), sgd(tensors, chunks))
    )
    return found


def test_all_tensors_go_in_one_call_for_each_dtype(calls: list[int]) -> None:
    """Beside them those that are not fused: other dtypes, strides, blocks of whole tensors."""
    recipe = Recipe(
        "bfp<8,axis=0>/stochastic",
        gradient="bfp8/stochastic",
        momentum="e5m2/stochastic",
        accumulator="fixed<16,12>/stochastic",
        overrides={
            "plain*": None,
            "half": Recipe("e4m3fn/stochastic"),
            "table": Recipe("nf4/nearest_even", gradient="posit8/stochastic"),
        },
    )
    rng = np.random.default_rng(1)

    def draw() -> dict[str, Any]:
        shapes: dict[str, tuple[int, ...]] = {
            "a": (33, 70),
            "b": (5,),
            "c": (2, 3, 1000),
            "table": (7, 9),
            "none": (0, 3),
            "plain": (300, 101),
            "big": (40, 5000),
        }
        made: dict[str, Any] = {
            name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
        }
        made |= {f"{name} 64": made[name].astype(np.float64) for name in ("a", "plain", "c")}
        made |= {"half": made["a"].astype(np.float16), "strided": made["a"][:, ::2]}
        return made

    optimizer = SGD(0.05, 0.9, weight_decay=1e-3, recipe=recipe, seed=3)
    params, gradients = draw(), [draw() for _ in range(3)]

    def run() -> list[np.ndarray]:
        now, state = params, optimizer.init(params)
        for turn in gradients:
            now, state = optimizer.update(now, turn, state)
        return [
            *now.values(),
            *(x for slots in state.slots.values() for x in slots if x is not None),
        ]

    got = run()
    assert calls == [5, 3] * 3
    with kernels.disabled():
        expected = run()
    assert all(
        (bits(np.asarray(a)) == bits(np.asarray(b))).all()
        for a, b in zip(got, expected, strict=True)
    )


@pytest.mark.parametrize("shift", [0, 3])
def test_tensors_that_share_memory_are_updated_in_their_order(calls: list[int], shift: int) -> None:
    rng = np.random.default_rng(1)
    memory, gradients = (
        rng.standard_normal(1003).astype(np.float32),
        rng.standard_normal((2, 1000)).astype(np.float32),
    )

    def run() -> np.ndarray:
        held = memory.copy()
        weights = held[:1000], held[shift : shift + 1000]
        steps = [
            StepInputs(
                weight,
                gradient,
                Slots(),
                Hyperparameters(0.1),
                RECIPES["fixed"],
                TensorRandomBits(0, tensor, 0),
            )
            for tensor, (weight, gradient) in enumerate(zip(weights, gradients, strict=True))
        ]
        for step, (weight, _) in zip(steps, sgd_steps(steps, in_place=True), strict=True):
            step.weight[...] = weight
        return held

    got = run()
    assert calls == [1, 1]
    with kernels.disabled():
        assert (bits(run()) == bits(got)).all()


def test_a_failing_step_changes_nothing() -> None:
    good, bad = np.ones((4, 5), np.float32), np.ones((4, 5), np.float32)
    steps = [
        StepInputs(
            weight, weight, Slots(), Hyperparameters(0.1), Recipe(format), TensorRandomBits(0, 0, 0)
        )
        for weight, format in ((good, "fixed<8,4>"), (bad, "fixed<30,4>"))
    ]
    with pytest.raises(TypeError, match="cannot represent the values of fixed<30,4>"):
        list(sgd_steps(steps, in_place=True))
    assert (good == 1).all()


@pytest.mark.parametrize("step", [-1, 2**32])
def test_steps_beyond_the_random_sequence(step: int) -> None:
    w = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="step must be"):
        sgd_step(
            w, w, Slots(), Hyperparameters(0.1), RECIPES["fixed"], TensorRandomBits(0, 0, step)
        )


def test_read_only_weights_are_not_written() -> None:
    w = np.ones(4, np.float32)
    w.flags.writeable = False
    new, _ = one_step(w, w, in_place=True)
    assert new is not w
    assert (w == 1).all()


def test_what_a_dtype_does_not_hold() -> None:
    w = np.ones((4, 5), np.float32)
    with pytest.raises(TypeError, match="cannot represent the values of fixed<30,4>"):
        one_step(w, w, Recipe("fixed<30,4>/stochastic"))
    assert (w == 1).all()


def test_threads_change_nothing() -> None:
    before = q.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            q.set_num_threads(threads)
            found.append(steps(SGD(0.1, 0.9, recipe=RECIPES["swalp8"]), (300, 700), "float32"))
        assert all(
            (bits(a) == bits(b)).all()
            for other in found[1:]
            for a, b in zip(found[0], other, strict=True)
        )
    finally:
        q.set_num_threads(before)
