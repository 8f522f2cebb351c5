"""SWAG, and the cyclic schedule of learning rates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp.training import (
    SWAG,
    SWASchedule,
)
from tests.training.iterates import GRID, NEAREST, first_of, params_of, run


# SWAG
@settings(max_examples=40)
@given(st.lists(st.tuples(GRID, GRID), min_size=1, max_size=12), st.integers(2, 5))
def test_swag_keeps_mean_variance_and_the_latest_deviations(
    iterates: list[tuple[float, float]], rank: int
) -> None:
    policy = SWAG(rank=rank)
    state = run(policy, iterates)
    values = np.array([a for a, _ in iterates], np.float64)
    means = np.cumsum(values) / np.arange(1, len(values) + 1)
    variance = (values**2).mean() - means[-1] ** 2
    assert first_of(policy, state) == pytest.approx(means[-1], abs=1e-5)
    assert policy.variance(state)["a"][0] == pytest.approx(variance, abs=1e-4)
    assert state.value is not None
    for i in range(max(0, len(values) - rank), len(values)):
        kept = state.value[f"a@{i % rank}"][0]
        assert kept == pytest.approx(values[i] - means[i], abs=1e-5)


def test_swag_does_not_cancel_far_from_zero() -> None:
    policy = SWAG(rank=2)
    state = run(policy, [(1000 + n % 2 / 8, 0.0) for n in range(100)])
    assert policy.variance(state)["a"][0] == pytest.approx(1 / 256, rel=0.02)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_samples_of_swag_have_its_mean_and_covariance(scale: float) -> None:
    rng = np.random.default_rng(0)
    iterates = (rng.normal(size=(30, 3)) @ rng.normal(size=(3, 3))).astype(np.float32)
    policy = SWAG(rank=5)
    state = policy.init()
    for step, (a, b, c) in enumerate(iterates, 1):
        state = policy.update({"x": np.float32([a, b]), "y": np.float32([c])}, state, step)
    assert state.value is not None
    columns = np.stack([np.r_[state.value[f"x@{k}"], state.value[f"y@{k}"]] for k in range(5)], 1)
    expected = scale * (np.diag(iterates.var(0)) + columns @ columns.T / 4)
    samples = [policy.sample(state, index, scale) for index in range(4000)]
    drawn = np.stack([np.r_[sample["x"], sample["y"]] for sample in samples])
    assert np.allclose(drawn.mean(0), iterates.mean(0), atol=4 * np.sqrt(expected.max() / 4000))
    assert np.allclose(np.cov(drawn.T), expected, atol=0.12 * expected.max())


def test_a_sample_is_repeatable_rounded_once_and_the_mean_at_scale_0() -> None:
    policy = SWAG(quantizer=NEAREST, rank=2)
    state = run(policy, [(1.0, 2.0), (3.0, -1.0), (2.5, 0.0)])
    first, again, other = (policy.sample(state, index) for index in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)
    assert all((q.quantize(x, NEAREST.format) == x).all() for x in first.values())
    exact = policy.sample(state, 0, 0.0)
    assert all((exact[name] == x).all() for name, x in policy.average(state).items())


def test_samples_have_the_same_bits_in_torch() -> None:
    import torch

    policy = SWAG(rank=2)
    ours, theirs = policy.init(), policy.init()
    for step in range(1, 6):
        params = params_of((step**0.5, 1 / step))
        ours = policy.update(params, ours, step)
        theirs = policy.update({k: torch.from_numpy(w) for k, w in params.items()}, theirs, step)
    for name, sample in policy.sample(ours, 3).items():
        assert sample.tobytes() == policy.sample(theirs, 3)[name].numpy().tobytes()


@given(st.integers(0, 9), st.integers(1, 7), st.floats(1e-3, 1), st.floats(1e-3, 1))
def test_the_cyclic_schedule_is_that_of_swa_and_averages_where_it_is_least(
    start: int, cycle: int, a: float, b: float
) -> None:
    low, high = sorted((a, b))
    schedule = SWASchedule(0.1, start, cycle, high, low)
    policy = schedule.policy(nonfinite="skip")
    for t in range(40):
        i = t - start + 1
        progress = ((i - 1) % cycle + 1) / cycle
        expected = 0.1 if i < 1 else (1 - progress) * high + progress * low
        assert schedule(t) == expected
        assert policy.due(t + 1) == (i >= 1 and progress == 1)
