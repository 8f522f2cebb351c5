"""Iterates that are not finite, or of other names and shapes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from qemu_swalp.training import (
    EMA,
    SWAP,
    Averaging,
    Policy,
)
from qemu_swalp.training.averaging.base import nonfinite_names
from tests.training.iterates import RUNS, each_policy, params_of, run


@pytest.mark.parametrize("policy", [Averaging(), EMA(), SWAP()], ids=lambda p: type(p).__name__)
def test_other_parameters_than_before_are_refused(policy: Policy) -> None:
    state = policy.update({"w": np.float32([1]), "b": np.float32([1])}, policy.init(), 1)
    with pytest.raises(ValueError, match="those of the average so far; in one only: b, c"):
        policy.update({"w": np.float32([1]), "c": np.float32([1])}, state, 2)


BAD = st.sampled_from([math.inf, -math.inf, math.nan])


@each_policy
@settings(max_examples=15)
@given(RUNS, st.integers(0, 29), BAD)
def test_a_nonfinite_iterate_is_refused_or_skipped_by_every_policy(
    policy: Policy, iterates: list[tuple[float, float]], place: int, bad: float
) -> None:
    iterates = (iterates * 30)[:30]
    skipping = replace(policy, nonfinite="skip")
    state, clean = skipping.init(), policy.init()
    for step, pair in enumerate(iterates, 1):
        if step - 1 != place:
            state = skipping.update(params_of(pair), state, step)
            clean = policy.update(params_of(pair), clean, step)
            continue
        params = params_of(pair) | {"b": np.float32([[pair[1]], [bad]])}
        assert skipping.update(params, state, step) is state
        if policy.due(step):
            with pytest.raises(
                ValueError,
                match=rf"after step {step} there are .* NaN in b, .* {type(policy).__name__} with",
            ):
                policy.update(params, clean, step)
    assert (state.n_averaged, state.score) == (clean.n_averaged, clean.score)
    assert {k: v.tobytes() for k, v in (state.value or {}).items()} == {
        k: v.tobytes() for k, v in (clean.value or {}).items()
    }


def test_included_nonfinite_iterates_stay_in_the_average() -> None:
    policy = Averaging(nonfinite="include")
    state = policy.init()
    for step, weight in enumerate((1.0, math.inf, 1.0), 1):
        state = policy.update({"w": np.float32([weight])}, state, step)
    assert policy.average(state)["w"].item() == math.inf
    assert policy.record() == Averaging().record()


def test_finite_iterates_whose_sum_is_not_are_finite() -> None:
    policy = Averaging()
    largest = np.full(3, np.finfo(np.float32).max)
    assert policy.update({"w": largest}, policy.init(), 1).n_averaged == 1


@pytest.mark.parametrize("library", ["torch", "jax", "tensorflow"])
def test_every_library_finds_nonfinite_numbers(library: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    for values in ([1.0, math.nan], [math.inf, 0.0], [-math.inf, 0.0]):
        arrays = {"a": np.float32([1.0]), "b": np.float32(values)}
        assert nonfinite_names({k: array_in(library, a) for k, a in arrays.items()}) == ["b"]
    assert nonfinite_names({"a": array_in(library, np.float32([3e38, 3e38]))}) == []


def array_in(library: str, array: np.ndarray) -> Any:
    if library == "torch":
        import torch

        return torch.from_numpy(array)
    if library == "jax":
        import jax.numpy as jnp

        return jnp.asarray(array)
    import tensorflow as tf

    return tf.constant(array)


@each_policy
def test_other_names_or_shapes_are_refused(policy: Policy) -> None:
    state = run(policy, [(1.0, 2.0)] * 9)
    step = next(step for step in range(10, 20) if policy.due(step))
    with pytest.raises(ValueError, match="those of the average so far; in one only: c"):
        policy.update(params_of((1.0, 2.0)) | {"c": np.float32([1])}, state, step)
    with pytest.raises(
        ValueError, match=r"b has shape \(1, 1\) now, \(2, 1\) in the average so far"
    ):
        policy.update(params_of((1.0, 2.0)) | {"b": np.float32([[1]])}, state, step)
