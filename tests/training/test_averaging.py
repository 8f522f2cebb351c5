"""Averaging policies: each against its rule written out by itself, and what all have in common."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp.training import (
    ASWA,
    EMA,
    LAWA,
    SQWA,
    SWAG,
    SWAP,
    AverageState,
    Averaging,
    Policy,
    Quantizer,
    SQWASchedule,
    SWASchedule,
    TensorRandomBits,
    due,
)
from qemu_swalp.training.averaging.aswa import decide
from qemu_swalp.training.averaging.base import nonfinite_names

NEAREST = Quantizer("fixed<10,4>/nearest_even")
GRID = st.integers(-128, 127).map(lambda n: n / 16)
RUNS = st.lists(st.tuples(GRID, GRID), min_size=1, max_size=30)


def near(target: float) -> Callable[[Any], float]:
    return lambda params: -abs(float(params["a"][0]) - target)


POLICIES: list[Policy] = [
    Averaging(),
    Averaging(2, 3, True, NEAREST),
    Averaging(exact=q.Fixed(8, 4)),
    EMA(decay=0.75),
    EMA(1, 2, quantizer=Quantizer("fixed<10,4>/stochastic"), decay=0.9, warmup=True, seed=3),
    LAWA(size=3),
    LAWA(1, 2, quantizer=Quantizer("fixed<10,4>/stochastic"), size=2, seed=4),
    ASWA(score=near(1.0)),
    ASWA(0, 2, quantizer=NEAREST, score=near(0.0), accept_ties=True),
    SWAP(1),
    SWAP(quantizer=NEAREST),
    SQWA(captures=4),
    SQWA(2, 3, quantizer=NEAREST, captures=2),
    SWAG(rank=3),
    SWAG(1, 2, quantizer=NEAREST, rank=2),
]
each_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)


def params_of(pair: tuple[float, float]) -> dict[str, np.ndarray]:
    return {"a": np.float32([pair[0]]), "b": np.full((2, 1), pair[1], np.float32)}


def run(policy: Policy, iterates: list[tuple[float, float]]) -> AverageState:
    state = policy.init()
    for step, pair in enumerate(iterates, 1):
        state = policy.update(params_of(pair), state, step)
    return state


def first_of(policy: Policy, state: AverageState) -> float:
    return float(policy.average(state)["a"][0])


# What all have in common


@each_policy
@settings(max_examples=40)
@given(RUNS)
def test_the_average_of_equal_iterates_is_that_iterate(
    policy: Policy, iterates: list[tuple[float, float]]
) -> None:
    state = run(policy, [iterates[0]] * 8)
    average = policy.average(state)
    expected = params_of(iterates[0])
    assert set(average) == {"a", "b"}
    assert all(
        (average[name] == expected[name]).all() and average[name].shape == expected[name].shape
        for name in expected
    )


@each_policy
@settings(max_examples=40)
@given(RUNS)
def test_an_average_lies_between_its_iterates_and_is_updated_without_side_effects(
    policy: Policy, iterates: list[tuple[float, float]]
) -> None:
    state = policy.init()
    for step, pair in enumerate(iterates, 1):
        params = params_of(pair)
        before = {name: kept.tobytes() for name, kept in (state.value or {}).items()}
        after = policy.update(params, state, step)
        assert {name: kept.tobytes() for name, kept in (state.value or {}).items()} == before
        if not due(step, policy.start, policy.cycle, policy.include_start):
            assert after is state
        state = after
        held = {name: kept.tobytes() for name, kept in (state.value or {}).items()}
        for weight in params.values():
            weight += 1  # the training loop overwrites its weights
        assert {name: kept.tobytes() for name, kept in (state.value or {}).items()} == held
    if state.n_averaged:
        for index, name in enumerate(("a", "b")):
            values = [pair[index] for pair in iterates]
            assert (
                min(values)
                <= policy.average(state)[name].min()
                <= policy.average(state)[name].max()
                <= max(values)
            )


@each_policy
def test_names_may_be_anything_and_streams_go_by_place(policy: Policy) -> None:
    names = {"a": "a", "b": "layer.1@0"}
    state, renamed = policy.init(), policy.init()
    for step in range(1, 12):
        params = params_of((step / 8, -step / 16))
        state = policy.update(params, state, step)
        renamed = policy.update({names[name]: w for name, w in params.items()}, renamed, step)
    assert {names[n]: w.tobytes() for n, w in policy.average(state).items()} == {
        n: w.tobytes() for n, w in policy.average(renamed).items()
    }


@each_policy
def test_the_state_is_flat_and_the_record_plain(policy: Policy) -> None:
    state = run(policy, [(1.0, 2.0)] * 9)
    assert state.value is not None
    assert all(
        isinstance(name, str) and isinstance(kept, np.ndarray) for name, kept in state.value.items()
    )
    record = json.loads(json.dumps(policy.record()))
    assert record["policy"] == ("Window" if isinstance(policy, LAWA) else type(policy).__name__)
    assert (record["start"], record["cycle"]) == (policy.start, policy.cycle)
    assert record["quantizer"] == (None if policy.quantizer is None else str(policy.quantizer))
    assert "score" not in record


def test_torch_tensors_are_averaged_as_arrays_are() -> None:
    import torch

    for policy in POLICIES:
        if getattr(policy, "exact", None):
            continue  # int64 sums: NumPy and CuPy only
        ours, theirs = policy.init(), policy.init()
        for step in range(1, 12):
            params = params_of((step / 8, -step / 16))
            ours = policy.update(params, ours, step)
            theirs = policy.update(
                {name: torch.from_numpy(w) for name, w in params.items()}, theirs, step
            )
        assert ours.n_averaged == theirs.n_averaged
        for name, mean in policy.average(ours).items():
            assert mean.tobytes() == policy.average(theirs)[name].numpy().tobytes(), policy


# One by one


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


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: EMA(decay=1.0), ValueError, "decay must be at least 0 and below 1, got 1.0"),
        (lambda: EMA(decay="0.9"), TypeError, "decay must be a number, got '0.9'"),
        (lambda: EMA(warmup=1), TypeError, "warmup must be True or False"),
        (lambda: EMA(start=-1), ValueError, "start must be from 0"),
        (lambda: EMA(seed=-1), ValueError, "seed must be from 0"),
        (lambda: LAWA(size=0), ValueError, "size must be from 1"),
        (lambda: LAWA(quantizer=3), TypeError, "a quantizer must be"),
        (
            lambda: LAWA().average(LAWA().init()),
            ValueError,
            "nothing averaged yet: averaging starts after step 0",
        ),
        (lambda: ASWA(), TypeError, "score"),
        (
            lambda: ASWA(score=0.9),
            TypeError,
            r"score must be a function \(parameters by name\) -> number",
        ),
        (
            lambda: SWAP().merge([]),
            ValueError,
            "every worker must have averaged something, and there must be one; got 0",
        ),
        (
            lambda: SWAP().merge([run(SWAP(), [(1, 2)]), SWAP().init()]),
            ValueError,
            "got 2 states, 1 of them empty",
        ),
        (
            lambda: SWAP().merge(
                [SWAP().update({name: np.ones(1)}, SWAP().init(), 1) for name in "ab"]
            ),
            ValueError,
            "the workers must have the same parameters; in one only: a, b",
        ),
        (lambda: SQWA(captures=0), ValueError, "captures must be from 1"),
        (lambda: EMA(nonfinite="ignore"), ValueError, "nonfinite must be one of raise, skip, incl"),
        (lambda: SWAG(rank=1), ValueError, "rank must be from 2"),
        (lambda: SWAG().sample(SWAG().init()), ValueError, "nothing averaged yet"),
        (
            lambda: SWAG().sample(run(SWAG(), [(1, 2)]), scale=-1),
            ValueError,
            "scale must be a number from 0 on, got -1",
        ),
        (
            lambda: SWASchedule(0.1, 2, 4, 0.01, 0.04),
            ValueError,
            "rates must be positive, and low at most high",
        ),
        (lambda: SWASchedule(0.1, 2, 0, 0.04, 0.01), ValueError, "cycle must be from 1"),
        (lambda: SQWASchedule(0.1, 0, 4, 2, 0.01, 0.02, 0.001), ValueError, "low at most high"),
        (lambda: SQWASchedule(0.1, 0, 4, 2, 0.02, 0.01, 0.0), ValueError, "rates must be positive"),
        (
            lambda: SQWASchedule(0.1, 0, 1, 2, 0.02, 0.01, 0.1, "triangular"),
            ValueError,
            "period must be from 2",
        ),
        (
            lambda: SQWASchedule(0.1, 0, 4, 2, 0.02, 0.01, 0.1, "sine"),
            ValueError,
            "shape must be one of linear, cosine",
        ),
    ],
)
def test_errors(make: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("policy", [Averaging(), EMA(), SWAP()], ids=lambda p: type(p).__name__)
def test_other_parameters_than_before_are_refused(policy: Policy) -> None:
    state = policy.update({"w": np.float32([1]), "b": np.float32([1])}, policy.init(), 1)
    with pytest.raises(ValueError, match="those of the average so far; in one only: b, c"):
        policy.update({"w": np.float32([1]), "c": np.float32([1])}, state, 2)


# Iterates that are not finite, and models that changed

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


# Cyclic learning rates


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
