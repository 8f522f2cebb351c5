"""Tables of values: what the index finds is what the reference implementation finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.arrays.dtypes import SOURCE_DTYPES
from qemu_swalp.kernels import plan as plans, structs, table_index, table_spacing
from qemu_swalp.kernels.plan import plan_of
from qemu_swalp.ops.quantizer import Quantizer
from tests.helpers.samples import DTYPES, POLICIES, ROUNDINGS, array, bits
from tests.kernels import differential

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


EVERY = {
    "bfloat16": ("posit8", "posit<6,1>", "posit<8,0>", "lns8", "pot4"),
    "float16": ("posit<6,1>", "posit<8,0>", "pot4"),
}
"""Formats that a dtype of 16 bits holds."""


@pytest.mark.parametrize("instructions", differential.INSTRUCTIONS)
@pytest.mark.parametrize(
    ("dtype", "format"), [(dtype, format) for dtype in EVERY for format in EVERY[dtype]]
)
def test_every_number_of_16_bits(dtype: str, format: str, instructions: str) -> None:
    """By themselves and under scales, where quotients are no longer numbers of the dtype."""
    x = np.arange(1 << 16, dtype=np.uint16).view(array(dtype).dtype).reshape(256, 256)
    for name in (format, f"block<{format},axis=1,scale=bf16,top=1>"):
        for rounding in ("nearest_even", "stochastic", "stochastic_a<7>"):
            random = q.RandomBits(7) if "stochastic" in rounding else None
            options = {"random": random}
            case = differential.Case(x, name, rounding, options, instructions)
            assert not differential.differs(case), (name, rounding)


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize(
    ("format", "dtype", "expected"),
    [
        ("posit8", "float32", "binades"),
        ("posit8", "float64", "binades"),
        ("posit<10,1>", "float32", "binades"),
        ("lns8", "float32", "period"),
        ("logarithmic<7,2>", "float64", "period"),
        ("nf4", "float32", ""),  # binades differ
        ("codebook<-1,0,1,1.5,2,3,4>", "float32", ""),  # signs differ
        ("codebook<-3,-1.5,1.5,3>", "float32", ""),  # no zero
        ("takum8", "float32", ""),
    ],
)
def test_what_goes_by_bits(format: str, dtype: str, expected: str, rounding: str) -> None:
    plan = plan_of(SOURCE_DTYPES[dtype], Quantizer(format, rounding).target)
    if plan is None:  # neighbours too far apart
        assert (format, rounding) == ("takum8", "stochastic")
        return
    spacing = plan.structure.table.spacing
    assert [name for name in ("binades", "period") if getattr(spacing, name)] == expected.split()


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_buckets_of_many_steps_are_searched(rounding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_index, "MOST_BUCKETS", 64)
    nothing = structs.TableSpacing()
    monkeypatch.setattr(table_spacing, "spacing_of", lambda *arguments: nothing)
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
