"""Tables of values: what the index finds is what the reference implementation finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.arrays.dtypes import SOURCE_DTYPES
from qemu_swalp.kernels import plan as plans, table_index
from qemu_swalp.kernels.plan import plan_of
from qemu_swalp.ops.quantizer import Quantizer
from tests.helpers.samples import DTYPES, POLICIES, ROUNDINGS, array, bits

NAMED = ("posit8", "posit16", "posit<6,1>", "takum8", "takum_linear16", "lns8", "pot4", "nf4")


@st.composite
def codebooks(draw: st.DrawFn) -> str:
    """Of few or many values, close to one another or far apart, with zero or without it."""
    values = draw(
        st.lists(
            st.builds(np.ldexp, st.integers(-31, 31), st.integers(-20, 10)).map(float),
            min_size=2,
            max_size=40,
            unique=True,
        )
    )
    return f"codebook<{','.join(map(repr, sorted(values)))}>"


def outcome(*arguments: Any, **options: Any) -> Any:
    try:
        return q.quantize(*arguments, **options)
    except (TypeError, ValueError) as error:
        return str(error)


def beside(values: np.ndarray) -> np.ndarray:
    """Finite values, their midpoints, and the numbers next to both."""
    values = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        middles = (values[1:].astype("f8") / 2 + values[:-1].astype("f8") / 2).astype(values.dtype)
    unsigned = bits(np.concatenate([values, middles]))
    near = np.concatenate([unsigned, unsigned + 1, unsigned - 1]).astype(unsigned.dtype)
    return near.view(values.dtype)


@settings(max_examples=250, deadline=None)
@given(
    st.one_of(codebooks(), st.sampled_from(NAMED)),
    st.sampled_from(DTYPES),
    st.sampled_from(ROUNDINGS),
    st.sampled_from(POLICIES),
    st.sampled_from([None, 0, 1, 2**31 - 1, 2**31, 2**32 - 1]),
)
def test_tables(format: str, dtype: str, rounding: str, policy: str, word: int | None) -> None:
    sample = array(dtype)
    with np.errstate(over="ignore"):
        values = np.array(list(q.parse(format).finite), np.float64).astype(sample.dtype)
    x = np.concatenate([sample.reshape(-1), beside(values)])
    random: Any = None
    if "stochastic" in rounding:
        random = q.RandomBits(3) if word is None else np.full(x.shape, word, np.uint32)
    options = {"random": random, "overflow": policy}
    got = outcome(x, format, rounding, **options)
    with kernels.disabled():
        expected = outcome(x, format, rounding, **options)
    assert got == expected if isinstance(expected, str) else (bits(got) == bits(expected)).all()


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_buckets_of_many_steps_are_searched(rounding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_index, "MOST_BUCKETS", 64)
    plans._plan_or_reason.cache_clear()
    target = Quantizer("posit<10,1>", rounding).target
    plan = plan_of(SOURCE_DTYPES["float32"], target)
    assert plan is not None
    assert plan.structure.table.index.levels > 2
    x = array("float32")
    random = q.RandomBits(5) if rounding == "stochastic" else None
    got = q.quantize(x, "posit<10,1>", rounding, random=random)
    plans._plan_or_reason.cache_clear()
    with kernels.disabled():
        assert (bits(got) == bits(q.quantize(x, "posit<10,1>", rounding, random=random))).all()
