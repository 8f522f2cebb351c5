"""Policies of averaging, and iterates that they see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

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
)

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
