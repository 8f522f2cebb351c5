"""Averaging policies: each against its rule written out by itself, and what all have in common."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
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
    SWAP,
    AverageState,
    Averaging,
    Policy,
    Quantizer,
    SQWASchedule,
    TensorRandomBits,
    due,
)
from qemu_swalp.training.averaging.aswa import decide

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
