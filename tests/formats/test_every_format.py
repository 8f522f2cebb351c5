"""Properties that every element format has: one suite over all that are named, and over a user's
own.

A format that gets a name, or a family that comes to `tests.formats.OWN`, is tested with no further
code.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp.formats.base import FAMILIES
from qemu_swalp.rounding import DETERMINISTIC
from tests.helpers.formats import FAR_APART, OWN, PARAMETRIZED

NAMES = [n for n in [*q.names(), *PARAMETRIZED, *OWN] if isinstance(q.parse(n), q.ElementFormat)]
STOCHASTIC = ("stochastic", "stochastic_b<5>", "stochastic_c<32>")
SEEDS = st.integers(0, 2**32)
every = pytest.mark.parametrize("name", NAMES)
few = settings(max_examples=8)


@cache
def landmarks(name: str) -> np.ndarray:
    """The values of a format, or those near its landmarks where there are too many."""
    f = q.parse(name)
    if f.value_count <= 2**16:
        return np.array(f.values())
    marks = np.ldexp(1.0, np.arange(-160, 128))
    return np.unique(q.quantize(np.concatenate([marks, -marks, [f.max, f.min, 0.0]]), f))


@st.composite
def arrays(draw: st.DrawFn, name: str) -> np.ndarray:
    """Any numbers; values, numbers between two and beside one."""
    marks = landmarks(name)
    near = [marks[draw(st.integers(0, len(marks) - 1))] for _ in range(4)]
    after = [marks[min(np.searchsorted(marks, v) + 1, len(marks) - 1)] for v in near]
    between = [a / 2 + b / 2 for a, b in zip(near, after, strict=True)]
    beside = [np.nextafter(v, d) for v in [*near, *between] for d in (-np.inf, np.inf)]
    share = draw(st.floats(0, 1))
    anywhere = draw(st.lists(st.floats(allow_nan=False), max_size=4))
    return np.array(
        [*near, *between, *beside, near[0] + share * (after[0] - near[0]), *anywhere, 0.0, -0.0]
    )


@st.composite
def modes(draw: st.DrawFn, name: str) -> str:
    """Any rounding that the format has: short takums have neighbours too far apart for stochastic
    ones.
    """
    return draw(
        st.sampled_from(DETERMINISTIC if name in FAR_APART else [*DETERMINISTIC, *STOCHASTIC])
    )


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.view(np.int64) == b.view(np.int64)) | (np.isnan(a) & np.isnan(b))


@every
@few
@given(st.data(), SEEDS)
def test_idempotent(name: str, data: st.DataObject, seed: int) -> None:
    """RND-11: the results stay, in every mode and with other random bits."""
    mode = data.draw(modes(name))
    once = q.quantize(data.draw(arrays(name)), name, mode, random=q.RandomBits(seed))
    for again in ("nearest_even", "to_odd", mode):
        assert same(q.quantize(once, name, again, random=q.RandomBits(seed, 1)), once).all()


@every
@few
@given(st.data(), SEEDS)
def test_neighbours_bracket(name: str, data: st.DataObject, seed: int) -> None:
    """RND-2, RND-3: every mode takes one of the two values beside x, which the directed modes
    find.
    """
    mode = data.draw(modes(name))
    f, x = q.parse(name), data.draw(arrays(name))
    x = x[(x >= f.min) & (x <= f.max) & ((x != 0) | (np.isin(0.0, landmarks(name))))]
    down, up = (
        q.quantize(x, f, m, overflow="saturate") for m in ("toward_negative", "toward_positive")
    )
    if (
        isinstance(f, q.Float) and not f.zero and f.signed
    ):  # below the least positive value both signs have their own
        inside = np.abs(x) >= f.min_positive
        x, down, up = x[inside], down[inside], up[inside]
    assert (down <= x).all()
    assert (x <= up).all()
    r = q.quantize(x, f, mode, random=q.RandomBits(seed), overflow="saturate")
    assert ((r == down) | (r == up)).all()
    if f.value_count <= 2**16:
        values = landmarks(name)
        assert (down == values[np.searchsorted(values, x, "right") - 1]).all()
        assert (up == values[np.searchsorted(values, x, "left")]).all()


@every
@few
@given(st.data(), st.sampled_from(DETERMINISTIC))
def test_monotone(name: str, data: st.DataObject, mode: str) -> None:
    x = np.sort(data.draw(arrays(name)))
    assert (np.diff(q.quantize(x, name, mode, overflow="saturate")) >= 0).all()


@every
@few
@given(st.data(), SEEDS)
def test_symmetric(name: str, data: st.DataObject, seed: int) -> None:
    """Of a range that is its own mirror image: -x rounds to minus what x rounds to, in the mirrored
    mode. That of nearest_up has no name.
    """
    mode = data.draw(modes(name).filter(lambda mode: mode != "nearest_up"))
    f, x = q.parse(name), data.draw(arrays(name))
    values = landmarks(name)
    if not (values == -values[::-1]).all() or 0.0 not in values:
        return
    mirrored = {"toward_positive": "toward_negative", "toward_negative": "toward_positive"}.get(
        mode, mode
    )
    bits = q.RandomBits(seed)
    assert same(
        q.quantize(-x, f, mirrored, random=bits) + 0.0, -q.quantize(x, f, mode, random=bits) + 0.0
    ).all()


@every
@few
@given(st.data(), SEEDS)
def test_codes_come_back(name: str, data: st.DataObject, seed: int) -> None:
    """COD-1, COD-2, COD-5: encode, pack, unpack, decode; specials and the sign of zero included."""
    mode = data.draw(modes(name))
    f = q.parse(name)
    r = q.quantize(data.draw(arrays(name)), f, mode, random=q.RandomBits(seed))
    r = np.concatenate([r[~np.isnan(r)], [math.nan] * f.has_nan, [math.inf] * f.has_infinity])
    codes = q.encode(r, f)
    assert int(codes.max()) < 2**f.bits
    expected = r if f.has_negative_zero else r + 0.0
    assert same(q.decode(codes, f, "float64"), expected).all()
    packed = q.pack(codes, f)
    assert packed.nbytes == q.packed_bytes(codes.size, f) == math.ceil(codes.size * f.bits / 8)
    assert (q.unpack(packed, f, codes.shape) == codes).all()


@every
def test_what_the_properties_say(name: str) -> None:
    """FMT-1: range, count, least positive value and precision are those of the values, which every
    code gives.
    """
    f = q.parse(name)
    assert q.parse(str(f)) == q.parse(f.canonical_string()) == f
    if f.value_count > 2**16:
        return
    values = f.values()
    assert (values[0], values[-1], len(values)) == (f.min, f.max, f.value_count)
    assert all(a < b for a, b in pairwise(values))
    assert min((v for v in values if v > 0), default=None) == f.min_positive
    codes = q.encode(np.array(values), f)
    assert len(set(codes.tolist())) == len(values)
    fractions, exponents = np.frexp(np.array(values))
    assert (fractions * 2.0**f.precision % 1 == 0).all()
    nonzero = fractions != 0
    lowest_bits = [float(v).as_integer_ratio() for v in fractions[nonzero]]
    units = exponents[nonzero] + [
        1 - d.bit_length() + (n & -n).bit_length() - 1 for n, d in lowest_bits
    ]
    assert units.min() == f.least_exponent


@every
def test_nan_and_infinity(name: str) -> None:
    """RND-8, RND-9: NaN stays NaN; infinity goes where the policy says."""
    f = q.parse(name)
    assert np.isnan(q.quantize(np.float64([math.nan]), f)).all()
    x = np.float64([math.inf, -math.inf])
    assert q.quantize(x, f, overflow="saturate").tolist() == [f.max, f.min]
    if f.has_infinity:
        kept = q.quantize(x, f, overflow="propagate")
        assert kept.tolist() == [math.inf, -math.inf if f.min < 0 else f.min]
    elif f.has_nan:
        assert np.isnan(q.quantize(x, f, overflow="propagate")).all()
        assert np.isnan(q.quantize(x, f, overflow="nan")).all()


def test_every_family_is_met() -> None:
    ours = {
        family
        for family, make in FAMILIES.items()
        if getattr(make, "__module__", "").startswith("qemu_swalp.")
    }
    elements = {
        family
        for family in ours
        if isinstance(FAMILIES[family], type) and issubclass(FAMILIES[family], q.ElementFormat)
    }
    assert elements >= {"fixed", "float", "codebook", "p3109", "posit", "takum", "logarithmic"}
    assert elements - {q.parse(name).family for name in NAMES} == set()


@pytest.mark.parametrize("name", FAR_APART)
def test_neighbours_too_far_apart_for_stochastic_rounding(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"neighbours more than 2\^62 units of their last place apart"
    ):
        q.quantize(np.ones(1), name, "stochastic", random=q.RandomBits(0))
