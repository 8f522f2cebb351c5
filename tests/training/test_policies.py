"""Averaging policies one by one: EMA, windows, ASWA, SWAP, SQWA."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import qemu_swalp as q
from qemu_swalp.training import (
    ASWA,
    EMA,
    LAWA,
    SQWA,
    SWAP,
    Policy,
    Quantizer,
    SQWASchedule,
    TensorRandomBits,
    due,
)
from qemu_swalp.training.averaging.aswa import decide
from tests.training.iterates import GRID, NEAREST, RUNS, first_of, near, run


@given(RUNS, st.integers(0, 4), st.integers(1, 3), st.sampled_from([0.0, 0.5, 0.75]))
def test_ema_is_the_geometric_sum(
    iterates: list[tuple[float, float]], start: int, cycle: int, decay: float
) -> None:
    taken = [Fraction(a) for step, (a, _) in enumerate(iterates, 1) if due(step, start, cycle)]
    policy = EMA(start, cycle, decay=decay)
    state = run(policy, iterates)
    assert state.n_averaged == len(taken)
    if taken:
        d, n = Fraction(decay), len(taken)
        weights = [d ** (n - 1), *(d ** (n - 1 - i) * (1 - d) for i in range(1, n))]
        assert sum(weights) == 1
        expected = float(sum(w * x for w, x in zip(weights, taken, strict=True)))
        assert math.isclose(first_of(policy, state), expected, abs_tol=1e-5)


def test_ema_warms_up_as_tensorflow_does() -> None:
    policy = EMA(decay=0.99, warmup=True)
    state, expected = policy.init(), None
    for n, weight in enumerate(np.float32([3, 1, 4, 1, 5, 9, 2, 6])):
        state = policy.update({"a": weight[None]}, state, n + 1)
        d = min(0.99, (1 + n) / (10 + n))
        expected = weight if expected is None else expected + (1 - d) * (weight - expected)
        assert math.isclose(first_of(policy, state), expected, rel_tol=1e-6)


def test_a_rounded_ema_is_rounded_each_time_with_its_own_bits() -> None:
    policy = EMA(quantizer=Quantizer("fixed<8,2>/stochastic"), decay=0.5, seed=9)
    state, expected = policy.init(), None
    for n in range(1, 20):
        weight = np.float32([n / 4, -n / 4])
        state = policy.update({"x": np.float32([0]), "a": weight}, state, n)
        moved = weight if expected is None else expected + 0.5 * (weight - expected)
        expected = q.quantize(
            moved, "fixed<8,2>", "stochastic", random=TensorRandomBits(9, 1, n)("average")
        )
        assert policy.average(state)["a"].tobytes() == expected.tobytes()


@given(RUNS, st.integers(0, 4), st.integers(1, 3), st.integers(1, 5))
def test_a_window_is_the_mean_of_the_latest(
    iterates: list[tuple[float, float]], start: int, cycle: int, size: int
) -> None:
    taken = [a for step, (a, _) in enumerate(iterates, 1) if due(step, start, cycle)]
    policy = LAWA(start, cycle, size=size)
    state = run(policy, iterates)
    assert state.n_averaged == len(taken)
    if taken:
        latest = np.float32(taken[-size:])
        assert state.value is not None
        assert len(state.value) == 2 * len(latest)
        assert policy.average(state)["a"] == np.float32(latest.sum()) / len(
            latest
        )  # sums of this grid are exact


@pytest.mark.parametrize(
    "policy",
    [
        LAWA(quantizer=Quantizer("fixed<8,2>/stochastic"), size=2, seed=5),
        SWAP(quantizer=Quantizer("fixed<8,2>/stochastic"), seed=5),
        SQWA(quantizer=Quantizer("fixed<8,2>/stochastic"), captures=9, seed=5),
    ],
)
def test_a_mean_that_is_rounded_once_takes_bits_of_its_own(policy: Policy) -> None:
    weights = [np.float32(n) / 16 + np.arange(64, dtype=np.float32) / 32 for n in (1, 2, 4)]
    state = policy.init()
    for step, weight in enumerate(weights, 1):
        state = policy.update({"x": weight, "a": weight}, state, step)
    latest = weights[-2:] if isinstance(policy, LAWA) else weights
    mean = sum(latest[1:], latest[0]) / np.float32(len(latest))
    assert (
        policy.average(state)["a"]
        == q.quantize(mean, "fixed<8,2>", "stochastic", random=TensorRandomBits(5, 1, 3)("average"))
    ).all()


@given(st.lists(GRID, min_size=1, max_size=20), GRID, st.booleans())
def test_aswa_follows_the_authors_order_of_decisions(
    weights: list[float], target: float, ties: bool
) -> None:
    score = near(target)
    policy = ASWA(score=score, accept_ties=ties)
    state, members, best = policy.init(), [], -math.inf
    for step, weight in enumerate(weights, 1):
        state = policy.update({"a": np.float32([weight])}, state, step)
        mean = np.float32(sum([*members, weight])) / np.float32(len(members) + 1)
        running, ahead = score({"a": [weight]}), score({"a": [mean]})
        if running > ahead and running > best:
            members, best = [weight], running
        elif ahead > best or (ties and ahead == best):
            members, best = [*members, weight], ahead
        assert (state.n_averaged, state.score) == (len(members), best)
        assert first_of(policy, state) == np.float32(sum(members)) / np.float32(len(members))


@given(st.lists(GRID, min_size=1, max_size=20), GRID)
def test_the_score_of_aswa_never_falls(weights: list[float], target: float) -> None:
    policy, scores = ASWA(score=near(target)), []
    state = policy.init()
    for step, weight in enumerate(weights, 1):
        state = policy.update({"a": np.float32([weight])}, state, step)
        scores.append(state.score)
    assert scores == sorted(scores)


def test_aswa_refuses_nan() -> None:
    nan = math.nan
    assert [
        decide(*s) for s in ((nan, 0.1, 0.2), (0.3, nan, 0.2), (nan, nan, 0.2), (nan, 0.3, 0.2))
    ] == ["keep", "keep", "keep", "update"]


@given(st.lists(RUNS, min_size=1, max_size=4), st.randoms())
def test_merged_workers_are_one_in_any_order(
    workers: list[list[tuple[float, float]]], random: Any
) -> None:
    policy = SWAP(quantizer=NEAREST)
    states = [run(policy, iterates) for iterates in workers]
    merged = policy.merge(states)
    everything = [pair for iterates in workers for pair in iterates]
    together = run(policy, everything)
    assert merged.n_averaged == together.n_averaged == len(everything)
    random.shuffle(states)
    for name, mean in policy.average(together).items():
        assert policy.average(merged)[name].tobytes() == mean.tobytes()
        assert policy.average(policy.merge(states))[name].tobytes() == mean.tobytes()
        assert (q.quantize(mean, NEAREST.format) == mean).all()


def test_merging_changes_no_worker() -> None:
    policy = SWAP()
    states = [run(policy, [(1.0, 2.0)]), run(policy, [(3.0, 4.0)])]
    policy.merge(states)
    policy.merge(states[:1]).value["a"] += 1  # type: ignore[index]
    assert [first_of(policy, state) for state in states] == [1.0, 3.0]


@pytest.mark.parametrize("shape", ["linear", "cosine", "triangular"])
@pytest.mark.parametrize("period", [2, 5, 8])
def test_sqwa_captures_where_the_rate_is_least(shape: str, period: int) -> None:
    schedule = SQWASchedule(
        0.1, start=7, period=period, captures=3, high=0.05, low=0.01, fine_tuning=0.002, shape=shape
    )
    policy = schedule.policy()
    state, rates = policy.init(), [schedule(t) for t in range(schedule.end + 4)]
    assert rates[:7] == [0.1] * 7
    assert rates[schedule.end :] == [0.002] * 4
    assert all(0.01 <= rate <= 0.05 for rate in rates[7 : schedule.end])
    if shape != "triangular" or period % 2 == 0:
        assert min(rates[7 : schedule.end]) == pytest.approx(0.01)
    for step in range(1, len(rates) + 1):
        after = policy.update({"a": np.float32([step])}, state, step)
        if after is not state:
            cycle = (step - 1 - 7) // period
            assert rates[step - 1] == pytest.approx(
                min(rates[7 + cycle * period : 7 + (cycle + 1) * period])
            )
        state = after
    assert policy.complete(state)
    assert state.n_averaged == 3


def test_sqwa_averages_in_high_precision_and_quantizes_once() -> None:
    policy = SQWA(quantizer=Quantizer("fixed<4,0>/nearest_even"), captures=3)
    state = run(policy, [(1.0, 0.0), (1.0, 0.0), (2.0, 0.0), (7.0, 0.0)])
    assert state.value is not None
    assert (state.value["a"][0], first_of(policy, state)) == (
        4.0,
        1.0,
    )  # 4/3, the fourth model left out
