"""Averaging policies: what all have in common."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings

from qemu_swalp.training import (
    ASWA,
    EMA,
    LAWA,
    SQWA,
    SWAG,
    SWAP,
    Policy,
    SQWASchedule,
    SWASchedule,
    due,
)
from tests.training.iterates import POLICIES, RUNS, each_policy, params_of, run


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
