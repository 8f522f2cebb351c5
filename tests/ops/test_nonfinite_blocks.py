"""Infinities and NaN in blocks (clause BLK-13): a number that diverged is never hidden."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import qemu_swalp as q
from tests.helpers.backends import Backend, same_bits

INF, NAN = math.inf, math.nan
IN_SCALE = (
    "mxfp8_e4m3",
    "mxfp8_e5m2",
    "mxfp6_e3m2",
    "mxfp6_e2m3",
    "mxfp4",
    "mxint8",
    "nvfp4",
    "nvfp4_torchao",
)
AT_PLACE = (
    "bfp8",
    "bfp4",
    "bfp<8,axis=-1,size=4>",
    "msfp12",
    "hbfp8",
    "bm8_e4m3",
    "int8",
    "int4",
    "int<8,zero_point>",
    "int<4,axis=-1,size=2>",
    "fp8_1x128",
    "fp8_128x128",
    "block<e5m2,axis=-1,size=2>",
)
RULES = ("floor", "ceil", "rceil", "even")
SPECIAL = (INF, -INF, NAN)


def bits_of(x: np.ndarray) -> list[str]:
    """Numbers as text, so that NaN equals NaN."""
    return [str(v) for v in np.asarray(x, np.float64).ravel()]


def test_what_users_met(backend: Backend) -> None:
    """The inputs by which the fault was found."""
    one = np.float32([INF, 1, 1, 1])
    assert np.isnan(backend.quantize(one, "mxfp4")).all()
    assert np.isnan(backend.quantize(np.full(4, INF, np.float32), "nvfp4")).all()
    for name in ("int8", "bfp8"):
        assert backend.quantize(one, name).tolist() == [INF, 1, 1, 1]
    x = np.ones((1, 32), np.float32)
    x[0, 0] = NAN
    assert np.isnan(backend.quantize(x, "mxfp8_e4m3")).all()


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("name", IN_SCALE)
def test_a_block_with_one_is_nan(name: str, special: float) -> None:
    """By a scale of NaN; the other blocks have the numbers and codes that they had."""
    format = q.parse(name)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 128)).astype(np.float32)
    size = format.size
    for dtype in ("float16", "float32"):
        before = x.astype(dtype)
        after = before.copy()
        after[1, size + 3] = special
        block = np.zeros(x.shape, bool)
        block[1, size : 2 * size] = True
        got = q.quantize(after, name)
        assert np.isnan(got[block]).all()
        if name.startswith("nvfp4"):  # the global scale is that of the finite numbers
            before[1, size + 3] = 0
        assert same_bits(got[~block], q.quantize(before, name)[~block]).all()
        if dtype == "float32":
            codes = q.encode(after, name, "nearest_even")
            nan = 255 if format.powers else 0x7F
            assert (codes.scales == nan).tolist() == block[:, ::size].tolist()
            assert (codes.codes[block] == 0).all()
            assert same_bits(q.decode(codes, name), got).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", AT_PLACE)
def test_it_stays_at_its_place(backend: Backend, name: str, dtype: str) -> None:
    """In every source dtype; its neighbours are scaled by the finite numbers."""
    if dtype not in backend.dtypes or backend.name == "jax":
        pytest.skip("this dtype is not of the library; JAX runs compiled below")
    import ml_dtypes

    kind: Any = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    x = np.array([[1.0, INF, 0.5, -3.0], [-INF, 0.25, NAN, 1.5]], kind)
    finite = np.isfinite(x.astype(np.float64))
    without = backend.quantize(np.where(finite, x, np.array(0, kind)).astype(kind), name)
    got = backend.quantize(x, name)
    assert bits_of(got[~finite]) == bits_of(x[~finite])
    assert same_bits(got[finite], without[finite]).all()


@pytest.mark.parametrize("rounding", ["toward_zero", "to_odd", "stochastic", "stochastic_c<3>"])
@pytest.mark.parametrize("name", [*AT_PLACE, *IN_SCALE])
def test_rounding_and_route_make_no_difference(name: str, rounding: str) -> None:
    """The kernels and the reference implementation agree under every policy, in blocks of every
    length, among finite blocks.
    """
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 300)).astype(np.float32)
    x[rng.random(x.shape) < 0.01] = INF
    x[rng.random(x.shape) < 0.01] = -INF
    x[rng.random(x.shape) < 0.005] = NAN
    random = q.RandomBits(3)
    for overflow in (None, "saturate", "propagate", "nan"):
        got = q.quantize(x, name, rounding, random=random, overflow=overflow)
        with q.kernels.disabled():
            expected = q.quantize(x, name, rounding, random=random, overflow=overflow)
        assert same_bits(got, expected).all(), overflow


@pytest.mark.parametrize("name", [*IN_SCALE, *AT_PLACE])
def test_policies(name: str) -> None:
    """`propagate` and `nan` work at the place, `saturate` goes to the ends of the block's range;
    the neighbours keep theirs. A NaN still takes a block whose scale tells it.
    """
    x = np.float32([[INF, 1, 1, 1, -INF, 0.5, 1, 1]])
    here = ~np.isfinite(x)
    alone = q.quantize(np.where(here, np.float32(0), x), name)
    for overflow, expected in (("propagate", ["inf", "-inf"]), ("nan", ["nan", "nan"])):
        got = q.quantize(x, name, overflow=overflow)
        assert bits_of(got[here]) == expected
        assert got[~here].tolist() == alone[~here].tolist()
    got = q.quantize(x, name, overflow="saturate")
    assert np.isfinite(got).all()
    assert got[~here].tolist() == alone[~here].tolist()
    assert got[0, 0] >= 1
    if name != "int<8,zero_point>":
        assert got[0, 4] <= -0.5
    for overflow in ("saturate", "propagate", "nan"):
        lost = np.isnan(q.quantize(np.float32([[NAN, 1, 1, 1]]), name, overflow=overflow))
        assert lost.all() if name in IN_SCALE else lost.tolist() == [[True, False, False, False]]


def test_saturated_numbers() -> None:
    """The ends of the range under the scale of the finite numbers, the least where there are
    none.
    """
    x = np.float32([INF, 1, 1, -INF])
    assert q.quantize(x, "mxfp4", overflow="saturate").tolist() == [1.5, 1, 1, -1.5]
    assert q.quantize(x, "bfp8", overflow="saturate").tolist() == [127 / 64, 1, 1, -127 / 64]
    assert q.quantize(x, "int8", overflow="saturate").tolist() == [1, 1, 1, -1]
    only = q.encode(np.float32([INF, -INF]), "mxfp4", "nearest_even", overflow="saturate")
    assert (only.codes.tolist(), only.scales.tolist()) == ([7, 15], [0])


def test_the_policy_infinity() -> None:
    """Only of elements that have infinities."""
    x = np.float32([INF, 1, -INF, 3])
    assert q.quantize(x, "mxfp8_e5m2", overflow="infinity").tolist() == [INF, 1, -INF, 3]
    with pytest.raises(ValueError, match="needs a format with infinities"):
        q.quantize(x, "mxfp4", overflow="infinity")


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ("block<e2m1fn,axis=-1,size=32,scale=e8m0fnu,nonfinite=element>", "block"),
        ("block<e4m3fn,axis=-1,size=128,scale=float<8,23>,nonfinite=block>", "element"),
        ("block<fixed<8,0,symmetric>,scale=float<8,23>,nonfinite=block>", "element"),
    ],
)
def test_the_other_choice(text: str, default: str) -> None:
    """A format states it by `nonfinite`, which its string leaves out where it is the default."""
    format = q.parse(text)
    assert format.canonical_string() == text
    usual = format.replace(nonfinite=default)
    assert "nonfinite" not in usual.canonical_string()
    assert q.parse(str(format)) == format != usual
    x = np.float32([[INF, 1, 1, 1]])
    assert np.isnan(q.quantize(x, usual)).all() == (default == "block")
    assert np.isnan(q.quantize(x, format)).all() == (default == "element")


def test_blocks_need_a_scale_that_can_tell() -> None:
    """An exponent has no NaN."""
    with pytest.raises(ValueError, match="needs scales with a NaN"):
        q.parse("block<e2m1fn,axis=-1,size=32,nonfinite=block>")
    with pytest.raises(ValueError, match="nonfinite must be one of element, block, got 'array'"):
        q.parse("block<e2m1fn,nonfinite=array>")


@pytest.mark.parametrize("name", ["bfp8", "mxfp8_e4m3", "mxfp4", "hbfp8", "msfp12"])
def test_twice(name: str) -> None:
    """BLK-6: idempotent for arrays with infinities and NaN, too."""
    x = np.random.default_rng(2).standard_normal((4, 96)).astype(np.float32)
    x[0, 5], x[1, 40], x[2, 90] = INF, NAN, -INF
    once = q.quantize(x, name)
    assert q.parse(name).idempotent
    assert same_bits(q.quantize(once, name), once).all()


# ----------------------------------------------------------------------------------------------
# codes


def test_elements_with_codes_of_their_own() -> None:
    """COD-4: e5m2 has infinities, e4m3fn a NaN."""
    x = np.float32([INF, 1, -INF, NAN])
    format = "block<e5m2,scale=float<8,23>>"
    codes = q.encode(x, format, "nearest_even")
    assert codes.codes.tolist()[::2] == [0x7C, 0xFC]
    assert bits_of(q.decode(codes, format)) == bits_of(q.quantize(x, format))
    codes = q.encode(np.float32([NAN, 1]), "fp8_1x128", "nearest_even")
    assert codes.codes.tolist() == [0x7F, 0x7E]


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("name", ["bfp8", "int8", "int<8,zero_point>", "hbfp8", "msfp12"])
def test_elements_without(name: str, special: float) -> None:
    """COD-4: the error names the block format and the first place, and its remedy works."""
    x = np.ones((3, 4), np.float32)
    x[1, 2] = x[2, 0] = special
    roundings = ("nearest_even", None) if q.parse(name).powers else ("nearest_even",)
    for rounding in roundings:
        with pytest.raises(ValueError, match="has no code for") as caught:
            q.encode(x, name, rounding)
        message = str(caught.value)
        assert f"{q.parse(name)} has no code for {special}" in message
        assert "x[1, 2]" in message
        assert ("nan_to_num" if math.isnan(special) else 'overflow="saturate"') in message
    if math.isnan(special):
        cured = q.encode(np.nan_to_num(x), name, "nearest_even")
    else:
        cured = q.encode(x, name, "nearest_even", overflow="saturate")
    assert np.isfinite(q.decode(cured, name)).all()


def test_an_infinity_that_was_asked_for() -> None:
    """COD-4, COD-7: under a policy that leaves it at its place, mxfp4 has no code for it."""
    with pytest.raises(ValueError, match=r"mxfp4 has no code for -inf, which x\[1\] is"):
        q.encode(np.float32([1, -INF]), "mxfp4", "nearest_even", overflow="propagate")
    with pytest.raises(ValueError, match=r"mxfp4 has no code for nan, which x\[1\] becomes"):
        q.encode(np.float32([1, -INF]), "mxfp4", "nearest_even", overflow="nan")


def test_element_formats_say_so_too() -> None:
    """COD-1: where the format of single elements has no NaN."""
    with pytest.raises(ValueError, match=r"e2m1fn has no code for nan, which x\[2\]"):
        q.encode(np.float32([1, 2, NAN]), "e2m1fn", "nearest_even")
    with pytest.raises(
        ValueError, match=r"encode needs values of e2m1fn, and x\[1\] = 1.25 is none"
    ):
        q.encode(np.float32([1, 1.25, 5]), "e2m1fn")


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp8_e5m2"])
def test_codes_from_values(name: str) -> None:
    """COD-4: a block all of NaN has a scale of NaN; others have the elements' codes."""
    x = np.ones((3, 32), np.float32)
    x[0], x[1, 3] = NAN, NAN
    codes = q.encode(x, name)
    assert codes.scales.ravel().tolist()[0] == 255
    assert 255 not in codes.scales.ravel().tolist()[1:]
    assert same_bits(q.decode(codes, name), x).all()


# ----------------------------------------------------------------------------------------------
# peers


@pytest.mark.parametrize("val", SPECIAL)
@pytest.mark.parametrize(
    "name", ["mxfp8_e4m3", "mxfp4", "block<fixed<4,2>,axis=-1,size=32,scale=e8m0fnu>"]
)
def test_as_microxcaling(name: str, val: float) -> None:
    """microxcaling: every element of a block with an infinity or NaN becomes one or the other, a
    neighbour of 2^127 and zeros alike.
    """
    got = q.quantize(np.float32([val, 0, 2.0**127, 0]), name, "toward_zero")
    assert not np.isfinite(got).any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", IN_SCALE[:6])
def test_as_the_kernels_of_torchao(name: str, rule: str) -> None:
    """The contract that the MXFP8 kernels of torchao share, by every rule: a block with an
    infinity or NaN has the scale code 255 and decodes to NaN; the greatest finite number is an
    ordinary one; zeros and the signs of zeros stay.
    """
    format = q.parse(name).replace(rule=rule)
    greatest = float(np.finfo(np.float32).max)
    rows = [[INF], [-INF], [NAN], [INF, NAN], [greatest], [0.0, -0.0], [2.0**-149], [1.0]]
    x = np.zeros((len(rows), 32), np.float32)
    for row, numbers in zip(x, rows, strict=True):
        row[: len(numbers)] = numbers
    codes = q.encode(x, format, "nearest_even")
    assert (codes.scales[:4] == 255).all()
    assert (codes.scales[4:] < 255).all()
    values = q.decode(codes, format)
    assert np.isnan(values[:4]).all()
    assert np.isfinite(values[4:]).all()
    assert same_bits(values, q.quantize(x, format)).all()
