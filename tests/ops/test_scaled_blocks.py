"""Properties of every registered block format, and counterexamples where a property does not
hold.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import qemu_swalp as q
from qemu_swalp.arrays import namespace_of
from qemu_swalp.reference.binary32 import divide32, multiply32
from qemu_swalp.rounding import DETERMINISTIC
from tests.helpers.backends import same_bits
from tests.helpers.formats import OTHERS, OWN_BLOCKS, RULED

NAMED = [name for name in q.names() if isinstance(q.parse(name), q.Block)]
ALL = [*NAMED, *RULED, *OTHERS, *OWN_BLOCKS]
IDEMPOTENT = [name for name in ALL if q.parse(name).idempotent]
every = pytest.mark.parametrize("name", ALL)
few = settings(max_examples=8)
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
scaled = st.builds(
    lambda v, e: float(np.float32(v * 2.0**e)), st.floats(-2, 2, width=32), st.integers(-20, 20)
)
arrays = st.lists(numbers | scaled | st.just(0.0), min_size=12, max_size=12).map(
    lambda v: np.array(v, np.float32).reshape(2, 6)
)
modes = st.sampled_from([*DETERMINISTIC, "stochastic", "stochastic_b<4>"])


def extents_in(format: q.Block, x: np.ndarray) -> tuple[int, ...]:
    """Length of a block along each axis of an array."""
    return tuple(
        length if extent is None else extent
        for extent, length in zip(format.extents(x.ndim), x.shape, strict=True)
    )


def block(name: str) -> q.Block:
    found = q.parse(name)
    assert isinstance(found, q.Block)
    return found


@pytest.mark.parametrize("name", IDEMPOTENT)
@few
@given(arrays, modes, st.integers(0, 2**32))
def test_idempotence(name: str, x: np.ndarray, mode: str, seed: int) -> None:
    """BLK-6: once is enough, whatever the modes."""
    once = q.quantize(x, name, mode, random=q.RandomBits(seed))
    again = q.quantize(once, name, "stochastic", random=q.RandomBits(seed, 1))
    assert (again == once).all(), name


def test_which_formats_are_idempotent() -> None:
    """BLK-6."""
    assert [name for name in NAMED if name not in IDEMPOTENT] == [
        "mxint8",
        "nvfp4",
        "nvfp4_torchao",
        "fp8_1x128",
        "fp8_128x128",
        "int8",
        "int4",
        *("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"),
    ]
    assert [name for name in RULED if name not in IDEMPOTENT] == [RULED[3]]


NOT_IDEMPOTENT = [name for name in ALL if name not in IDEMPOTENT]


@pytest.mark.parametrize("name", NOT_IDEMPOTENT)
def test_formats_that_are_not_idempotent(name: str) -> None:
    """BLK-6: there is an array and a mode in which the second pass moves it."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        for power, mode in itertools.product((0, -138), DETERMINISTIC):
            once = q.quantize(
                (rng.standard_normal((2, 16)) * 2.0**power).astype(np.float32), name, mode
            )
            if (q.quantize(once, name, mode) != once).any():
                return
    pytest.fail(f"{name} looks idempotent")


@every
@few
@given(arrays, st.sampled_from(DETERMINISTIC))
def test_order_within_a_block(name: str, x: np.ndarray, mode: str) -> None:
    """BLK-4: under one scale rounding is monotone."""
    extents = extents_in(block(name), x)
    r = q.quantize(x, name, mode)
    part, result = (a[: extents[0], : extents[1]].reshape(-1) for a in (x, r))
    assert (np.diff(result[np.argsort(part, kind="stable")]) >= 0).all()


@every
@few
@given(arrays)
def test_brackets(name: str, x: np.ndarray) -> None:
    """RND-4, BLK-4: nearest lies between the directed modes, and those on either side of what is in
    range. Elements are rounded, so a negative scale turns the directions (BLK-19).
    """
    down, near, up = (
        q.quantize(x, name, mode) for mode in ("toward_negative", "nearest_even", "toward_positive")
    )
    if block(name).rule == "ggml_signed":
        down, up = np.minimum(down, up), np.maximum(down, up)
    assert ((down <= near) & (near <= up)).all()
    if block(name).powers:
        ends = q.quantize(np.full_like(x, np.inf) + x * 0, name, overflow="saturate")
        inside = np.abs(x) <= np.abs(ends).min()
        assert ((down <= x) | ~inside).all()
        assert ((up >= x) | ~inside).all()


@every
@few
@given(arrays, modes, st.integers(0, 2**32))
def test_codes_come_back(name: str, x: np.ndarray, mode: str, seed: int) -> None:
    """COD-7: decode(encode(x, rounding)) is quantize(x, rounding), bit for bit, NaN blocks
    included.
    """
    for array in (x, np.where(x == x[0, 0], np.float32(math.nan), x)):
        values = q.quantize(array, name, mode, random=q.RandomBits(seed))
        told = block(name).nonfinite == "block" or block(name).element.has_nan
        if np.isnan(values).any() and not told:
            with pytest.raises(ValueError, match="has no code for nan"):
                q.encode(array, name, mode, random=q.RandomBits(seed))
            continue
        back = q.decode(q.encode(array, name, mode, random=q.RandomBits(seed)), name)
        numbers = ~np.isnan(values)
        assert (np.isnan(back) == ~numbers).all()
        assert (back.view(np.int32) == values.view(np.int32))[numbers].all(), name


@pytest.mark.parametrize(
    "name", ["e4m3fn", "posit8", "bfp<8,axis=0>", "nvfp4", "int<8,zero_point,axis=0>", "mxfp4"]
)
def test_codes_of_arrays_in_pieces(name: str) -> None:
    """COD-7: NumPy works on 65,536 elements at a time, whatever the blocks and the random bits."""
    x = np.random.default_rng(0).standard_normal((3, 70_001)).astype(np.float32)
    words = np.random.default_rng(1).integers(0, 2**32, x.shape, dtype=np.uint32)
    for bits in (q.RandomBits(4), words):
        expected = q.quantize(x, name, "stochastic", random=bits)
        codes = q.encode(x, name, "stochastic", random=bits)
        assert (q.decode(codes, name) == expected).all()
        if not isinstance(q.parse(name), q.Block) or block(name).powers:
            assert (q.decode(q.encode(expected, name), name) == expected).all()
    spoiled = expected.copy()
    spoiled[2, -1] = 0.3
    if name in ("e4m3fn", "posit8"):
        with pytest.raises(ValueError, match="encode needs values of"):
            q.encode(spoiled, name)


@every
def test_special_blocks(name: str) -> None:
    """BLK-3, BLK-4, BLK-8, BLK-13: zeros stay; an infinity and a NaN stay and leave their
    neighbours as they were, or take their block; at its end of the range an infinity has its sign.
    """
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    assert (q.quantize(x * 0, name) == 0).all()
    rows, columns = extents_in(block(name), x)
    home = np.zeros(x.shape, bool)
    home[
        1 // rows * rows : 1 // rows * rows + rows,
        2 // columns * columns : 2 // columns * columns + columns,
    ] = True
    others = np.arange(12).reshape(2, 6) != 8
    lost = home if block(name).nonfinite == "block" else ~others
    for special in (math.inf, -math.inf, math.nan):
        with_it, without = x.copy(), x.copy()
        within = x[1, 3] if block(name).rule == "ggml_minimum" else 0
        with_it[1, 2], without[1, 2] = special, within
        r, plain = q.quantize(with_it, name), q.quantize(without, name)
        assert (r == plain)[~lost].all()
        assert np.isfinite(r)[~lost].all()
        assert (np.isnan(r[lost]) if lost is home else same_bits(r[1, 2], with_it[1, 2])).all()
        if math.isinf(special):
            r = q.quantize(with_it, name, overflow="saturate")
            assert (r == plain)[others].all()
            assert np.isfinite(r[1, 2])
            if block(name).rule == "ggml_minimum":  # the range begins at the least element
                assert (r[1, 2] >= r[1]).all() if special > 0 else (r[1, 2] <= r[1]).all()
            else:
                assert (r[1, 2] > 0) == (special > 0)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (5, 1), (1, 1, 40)])
@every
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    """BLK-2, COD-4: one element, none, and ragged tails."""
    x = np.full(shape, 0.7, np.float32)
    if "(" in block(name).canonical_string() and len(shape) < 2:
        with pytest.raises(ValueError, match="names axis"):
            q.encode(x, name, "nearest_even")
        return
    r = q.quantize(x, name)
    codes = q.encode(x, name, "nearest_even")
    assert r.shape == codes.codes.shape == shape
    assert (q.decode(codes, name) == r).all()
    assert np.abs(r - x).max(initial=0) <= 0.2


def test_a_scale_out_of_its_range() -> None:
    """BLK-8, BLK-10: the greatest value of a narrow scale; its least one for a block too small;
    both extremes alike.
    """
    assert q.quantize(np.float32([1e30, 1.0]), "int<8,scale=fp16>").tolist() == [65504.0 * 127, 0.0]
    least = np.float32(2.0**-24)
    assert q.quantize(np.float32([2.0**-30, -(2.0**-18)]), "int<8,scale=fp16>").tolist() == [
        0.0,
        -64 * least,
    ]
    big = np.finfo(np.float32).max
    codes = q.encode(np.float32([big, -big]), "int<8,zero_point>", "nearest_even")
    assert codes.scales.view(np.float32).item() == np.float32(big / 255)
    assert codes.codes.tolist() == [255, 0]


def test_zero_points() -> None:
    """BLK-10: zero is a number of the grid; extremes of one sign reach from zero."""
    codes = q.encode(np.float32([1.0, 2.0, 3.0]), "int<4,zero_point>", "nearest_even")
    assert (codes.codes.tolist(), codes.zero_points.tolist()) == ([5, 10, 15], [0])
    codes = q.encode(np.float32([-3.0, 0.0]), "int<4,zero_point>", "nearest_even")
    assert (codes.codes.tolist(), codes.zero_points.tolist()) == ([0, 15], [15])
    assert 0.0 in q.quantize(np.float32([-1.7, 0.0, 0.4]), "int<2,zero_point>").tolist()


def test_tiles() -> None:
    """BLK-2: each tile has the bits of an array of its own."""
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    for name in ("int<8,axis=(0,1),size=3>", "int<8,axis=(1,0),size=(4,2)>"):
        rows, columns = extents_in(block(name), x)
        r = q.quantize(x, name)
        for i in range(0, 5, rows):
            for j in range(0, 7, columns):
                tile = (slice(i, i + rows), slice(j, j + columns))
                assert (r[tile] == q.quantize(x[tile], "int8")).all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: q.Block(q.parse("e4m3fn"), scale=8),
            TypeError,
            "a format must be a string, a dtype or a Format, got 8",
        ),
        (
            lambda: q.Block(q.parse("e4m3fn"), scale=q.Fixed(30, 0)),
            ValueError,
            "up to 24 significant bits",
        ),
        (lambda: q.Block(q.parse("e4m3fn"), rule="flor"), ValueError, "did you mean 'floor'"),
        (
            lambda: q.Block(q.parse("e4m3fn"), rule="nearest"),
            ValueError,
            "have the rules floor, ceil, rceil, even",
        ),
        (
            lambda: q.parse("int8").replace(rule="ceil"),
            ValueError,
            "have the rules nearest, minmax, ggml",
        ),
        (
            lambda: q.parse("block<nf4,axis=-1,size=32,scale=fp16,rule=ggml>"),
            ValueError,
            "rule='ggml' has elements of binades, got the table",
        ),
        (
            lambda: q.parse("block<bf16,axis=-1,size=32,scale=fp16,rule=mse>"),
            ValueError,
            "top must be from 2\\^-125 to below 2\\^127, got 3.38953e\\+38",
        ),
        (lambda: q.parse("int8").replace(rule="minmax"), ValueError, "needs unsigned integers"),
        (lambda: q.parse("int8").replace(rule="torchao"), ValueError, "is NVFP4: element=e2m1fn"),
        (
            lambda: q.parse("mxfp4").replace(second=q.Float(8, 23)),
            ValueError,
            "rule='floor' with scale=e8m0fnu has no global scale.* or use scale=e4m3fn",
        ),
        (
            lambda: q.parse("block<e2m1fn,scale=e8m0fnu,rule=mse,second=float<8,23>>"),
            ValueError,
            "rule='mse' with scale=e8m0fnu has no global scale",
        ),
        (
            lambda: q.parse("nvfp4").replace(second=q.parse("bf16")),
            ValueError,
            "second, the global scale, must be float<8,23> or None",
        ),
        (lambda: q.bfp(8, axis=(0, 1), size=(1, 2, 3)), ValueError, "one for each of the 2 axes"),
        (lambda: q.Exponent(17), ValueError, "exponent_bits must be from 2 to 16, got 17"),
        (lambda: q.integer(17), ValueError, "word must be from 2 to 16, got 17"),
        (lambda: q.integer(8, zero_point=1), TypeError, "zero_point must be True or False"),
        (
            lambda: q.quantize(np.ones(3), "nvfp4"),
            TypeError,
            "defined by float32 steps, and float64 has more",
        ),
        (lambda: q.quantize(np.ones(3, np.float16), "int<16>"), TypeError, "lacks precision"),
        (lambda: q.quantize(np.ones(3, np.float32), "exponent<8>"), TypeError, "must derive from"),
        (
            lambda: q.encode(np.ones(3, np.float32), "int8"),
            ValueError,
            "cannot be told from values alone",
        ),
        (
            lambda: q.encode(np.ones(3, np.float32), "int8", "stochastic"),
            ValueError,
            "needs random=",
        ),
        (lambda: q.decode(q.encode([1.0], "mxfp4", "to_odd"), "nvfp4"), ValueError, "lack second"),
        (
            lambda: q.decode(q.encode([1.0], "nvfp4", "to_odd"), "mxfp4"),
            ValueError,
            "have no second",
        ),
        (
            lambda: q.decode(q.encode([1.0], "int8", "to_odd"), "int<8,zero_point>"),
            ValueError,
            "lack zero_points",
        ),
    ],
)
def test_bad_input(call, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        call()


def test_a_block_format_in_toml(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "f.toml").write_text("""
        [formats.test_scaled]
        family = "block"
        element = { family = "float", exponent = 3, mantissa = 4, specials = "finite" }
        axis = [-2, -1]
        size = [1, 16]
        scale = "e4m3fn"
        second = { family = "float", exponent = 8, mantissa = 23 }
    """)
    try:
        loaded = q.load_formats(tmp_path / "f.toml")["test_scaled"]
        assert loaded == q.Block(
            q.Float(3, 4, specials="finite"),
            (-2, -1),
            (1, 16),
            q.parse("e4m3fn"),
            "nearest",
            q.Float(8, 23),
        )
        assert q.parse(loaded.canonical_string()) == loaded
    finally:
        q.unregister("test_scaled")


def test_steps_are_those_of_ieee_754() -> None:
    """BLK-11, SRC-3: products and quotients in integers have NumPy's bits, subnormals and overflow
    included.
    """
    rng = np.random.default_rng(0)
    near = (
        rng.integers(0, 2**23, (2, 100_000)) + (rng.integers(1, 254, (2, 100_000)) << 23)
    ).astype(np.int32)
    a, b = np.concatenate(
        [near, rng.integers(1, 0x7F80_0000, (2, 100_000)).astype(np.int32)], axis=1
    )
    xp = namespace_of(a)
    with np.errstate(over="ignore", under="ignore"):
        product, quotient = (
            a.view(np.float32) * b.view(np.float32),
            a.view(np.float32) / b.view(np.float32),
        )
    assert (multiply32(xp, a, b) == product.view(np.int32)).all()
    assert (divide32(xp, a, b) == quotient.view(np.int32)).all()


def test_scales_with_a_zero_point_have_two_roundings() -> None:
    """BLK-10: h - l in float32, then divided by 2^W - 1 in float32."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((5000, 2)) * 2.0 ** rng.integers(-30, 30, (5000, 2))).astype(
        np.float32
    )
    high, low = np.maximum(x.max(1), 0), np.minimum(x.min(1), 0)
    scales = q.encode(x, "int<8,zero_point,axis=0>", "nearest_even").scales.view(np.float32)
    assert (scales[:, 0] == (high - low) / np.float32(255)).all()


@pytest.mark.parametrize("scale", ["float<8,23>", "e8m0fnu"])
def test_ties_go_by_the_parity_of_the_element_format(scale: str) -> None:
    """RND-5: P3109 with one value to a binade ties by its codes; a block whose scale is 1 rounds as
    its elements do.
    """
    element = q.parse("p3109<5,1,domain=finite>")
    values = np.array(element.values(), np.float32)
    x = np.append((values[1:] + values[:-1]) / 2, np.float32(element.max))
    rounded = q.quantize(x, q.Block(element, scale=q.parse(scale)))
    assert (rounded == q.quantize(x, element)).all()
