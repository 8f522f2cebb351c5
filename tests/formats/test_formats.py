"""Formats as objects: parameters, derived properties, strings, TOML, the user's own, errors."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, strategies as st

import qemu_swalp as q
from qemu_swalp.formats.builtin_names import BUILTIN

PUBLISHED = {  # name: (max, min normal, min subnormal, number of codes that are NaN or infinite)
    "fp16": (65504.0, 2.0**-14, 2.0**-24, 2048),
    "bf16": ((2 - 2.0**-7) * 2.0**127, 2.0**-126, 2.0**-133, 256),
    "tf32": ((2 - 2.0**-10) * 2.0**127, 2.0**-126, 2.0**-136, 2048),
    "e5m2": (57344.0, 2.0**-14, 2.0**-16, 8),
    "e4m3": (240.0, 2.0**-6, 2.0**-9, 16),
    "e3m4": (15.5, 2.0**-2, 2.0**-6, 32),
    "e4m3fn": (448.0, 2.0**-6, 2.0**-9, 2),
    "e4m3fnuz": (240.0, 2.0**-7, 2.0**-10, 0),
    "e5m2fnuz": (57344.0, 2.0**-15, 2.0**-17, 0),
    "e4m3b11fnuz": (30.0, 2.0**-10, 2.0**-13, 0),
    "e2m3fn": (7.5, 1.0, 2.0**-3, 0),
    "e3m2fn": (28.0, 2.0**-2, 2.0**-4, 0),
    "e2m1fn": (6.0, 1.0, 0.5, 0),
    "e8m0fnu": (2.0**127, 2.0**-127, None, 1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters(name: str) -> None:
    f = q.parse(name)
    maximum, min_normal, min_subnormal, specials = PUBLISHED[name]
    assert (f.max, f.min_normal, f.min_subnormal) == (maximum, min_normal, min_subnormal)
    zeros = (
        1 if name in ("e8m0fnu",) else 2
    )  # ±0, or a NaN in the place of -0; e8m0fnu has none, so nothing to count off
    assert f.value_count == 2**f.bits - specials - (zeros - 1)
    assert f.min == (2.0**-127 if name == "e8m0fnu" else -maximum)


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n not in ("tf32", "bf16", "fp16")])
def test_values_are_what_the_properties_say(name: str) -> None:
    f = q.parse(name)
    values = f.values()
    assert values == sorted(set(values))
    assert len(values) == f.value_count
    assert (values[0], values[-1]) == (f.min, f.max)
    assert min(v for v in values if v > 0) == f.min_positive


@pytest.mark.parametrize("name", BUILTIN)
def test_names_parse_and_print(name: str) -> None:
    f = q.parse(name)
    assert q.parse(str(f)) == f
    assert q.parse(f.canonical_string()) == f
    assert hash(q.parse(BUILTIN[name])) == hash(f)
    assert pickle.loads(pickle.dumps(f)) == f


def test_fixed_properties() -> None:
    f = q.Fixed(8, 6)
    assert (f.min, f.max, f.epsilon, f.bits, f.value_count) == (-2.0, 1.984375, 2.0**-6, 8, 256)
    assert q.Fixed(8, 6, symmetric=True).min == -1.984375
    assert q.Fixed(8, 6, symmetric=True).value_count == 255
    assert q.Fixed(8, 8, signed=False).max == 255 / 256
    assert q.parse("mxint8").element == q.Fixed(8, 6)


def test_block_strings() -> None:
    assert str(q.bfp(8)) == "bfp8"
    assert str(q.bfp(8, axis=0)) == "bfp<8,axis=0>"
    assert str(q.bfp(8, axis=(0, 1))) == "bfp<8,axis=(0,1)>"
    assert str(q.bfp(8, "twos", axis=-1, size=16)) == "bfp<8,range=twos,axis=-1,size=16>"
    assert str(q.Block(q.parse("e4m3fn"), axis=-1, size=32)) == "block<e4m3fn,axis=-1,size=32>"
    assert q.parse("block<float<4,3,specials=fn>,axis=-1,size=32>") == q.Block(
        q.parse("e4m3fn"), axis=(-1,), size=32
    )
    assert not q.bfp(8, "twos").idempotent
    assert q.bfp(8).idempotent


fixed = st.builds(
    lambda w, f, s, y: q.Fixed(w + 1, f, s, y and s),
    st.integers(1, 31),
    st.integers(-30, 60),
    st.booleans(),
    st.booleans(),
)
floats = st.builds(
    q.Float,
    st.integers(2, 8),
    st.integers(1, 10),
    st.none() | st.integers(-3, 100),
    st.just(True),
    st.booleans(),
    st.just(True),
    st.sampled_from(["ieee", "fn", "fnuz", "finite"]),
)
codebooks = st.builds(
    q.Codebook,
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=20, unique_by=lambda v: v + 0.0),
)
blocks = st.builds(
    q.Block,
    fixed | floats,
    st.none() | st.integers(-3, 3),
    st.none(),
    st.builds(q.Exponent, st.integers(2, 16)) | st.just(q.parse("e8m0fnu")),
    st.sampled_from(["floor", "ceil", "rceil", "even"]),
)


@given(fixed | floats | codebooks | blocks)
def test_every_string_parses_back(f: q.Format) -> None:
    assert q.parse(str(f)) == f
    assert q.parse(f.canonical_string()) == f


@given(fixed | floats)
def test_least_positive_and_extremes_are_values(f: q.BinadeFormat) -> None:
    for v in (f.min_positive, f.max, f.min):
        assert q.quantize(np.float64(v), f, "toward_zero") == v
        assert q.quantize(np.float64(v), f, "to_odd") == v


# The user's own


@dataclasses.dataclass(frozen=True)
class Tapered(q.BinadeFormat, family="tapered_test"):
    fraction: int

    @property
    def max(self) -> float:
        return 2.0 ** (2 * self.fraction)

    def quantum(self, binade, xp):  # type: ignore[no-untyped-def]
        kept = xp.maximum(self.fraction - xp.abs(binade) // 2, 0)
        return xp.maximum(binade - kept, -2 * self.fraction)


def test_a_subclass_has_everything() -> None:
    f = Tapered(4)
    assert q.parse("tapered_test<4>") == f
    assert str(f) == "tapered_test<4>"
    values = np.array(f.values(), np.float32)
    assert len(values) == f.value_count
    codes = q.encode(values, f)
    assert len(set(codes.tolist())) == f.value_count
    assert codes.max() < 2**f.bits
    assert (q.decode(codes, f) == values).all()
    assert f.epsilon == 2.0**-4


def test_custom_by_subclass_agrees_with_the_parametric_format() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine(q.BinadeFormat, family="mine_test"):
        @property
        def max(self) -> float:
            return 28.0

        def quantum(self, binade, xp):  # type: ignore[no-untyped-def]
            return xp.maximum(binade, -2) - 2

    x = np.random.default_rng(0).standard_normal(5000).astype(np.float32) * 10
    for rounding in ("nearest_even", "to_odd", "toward_negative"):
        assert (q.quantize(x, Mine(), rounding) == q.quantize(x, "e3m2fn", rounding)).all()
    v = q.quantize(x, Mine())
    assert (q.encode(v + 0, Mine()) == q.encode(v + 0, "e3m2fn")).all()


def test_register_and_toml(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "formats.toml"
    path.write_text("""
        [formats.test_six]
        family = "float"
        exponent = 3
        mantissa = 2
        bias = 4
        specials = "finite"
        description = "six bits"
        [formats.test_nf]
        family = "codebook"
        values = [-1, -0.25, 0, 0.25, 1]
        [formats.test_mx]
        family = "block"
        element = "e2m1fn"
        axis = -1
        size = 32
    """)
    try:
        assert q.load_formats(path) == {
            "test_six": q.Float(3, 2, 4, specials="finite"),
            "test_nf": q.Codebook(-1, -0.25, 0, 0.25, 1),
            "test_mx": q.Block(q.parse("e2m1fn"), axis=-1, size=32),
        }
        assert q.parse("test_six").max == 14.0
        assert str(q.parse("test_six")) == "float<3,2,bias=4,specials=finite>"
        assert q.parse("block<test_six,axis=0>").element == q.parse("test_six")
        assert "test_nf" in q.names()
        with pytest.raises(ValueError, match="already stands for"):
            q.register("test_six", "e4m3fn")
    finally:
        for name in ("test_six", "test_nf", "test_mx"):
            q.unregister(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[formats.a]\nfamily='flot'\nexponent=3", "family must be one of fixed"),
        ("[formats.a]\nfamily='float'\nexponent=3\nmantisa=2", "mantisa"),
        ("[formats.a]\nfamily='fixed'\nword=99\nfraction=2", "word must be from 2 to 32, got 99"),
        ("formats = 3", "expected tables named"),
        ("[formats.a", "not a TOML file"),
        (
            "[formats.e4m3fn]\nfamily='fixed'\nword=8\nfraction=2",
            "already stands for float<4,3,specials=fn>",
        ),
    ],
)
def test_bad_toml_registers_nothing(tmp_path, text: str, words: str) -> None:  # type: ignore[no-untyped-def]
    before = q.names()
    (tmp_path / "f.toml").write_text(
        "[formats.good]\nfamily='fixed'\nword=8\nfraction=1\n" * ("formats =" not in text) + text
    )
    with pytest.raises(ValueError, match=words):
        q.load_formats(tmp_path / "f.toml")
    assert q.names() == before


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: q.Fixed(33, 0), ValueError, "word must be from 2 to 32, got 33"),
        (
            lambda: q.Fixed(8, 0.5),
            TypeError,
            "fraction must be an integer from -256 to 256, got 0.5",
        ),
        (
            lambda: q.Fixed(np.int64(8), 0),  # type: ignore[arg-type]
            TypeError,
            r"word must be an integer from 2 to 32, got .*8\)?; give int\(8\)",
        ),
        (
            lambda: q.Fixed(8, 1, signed=False, symmetric=True),
            ValueError,
            "symmetric=True needs signed=True",
        ),
        (lambda: q.Fixed(8, 1, overflow="infinity"), ValueError, "needs a format with infinities"),
        (lambda: q.Float(0, 3), ValueError, "exponent must be from 1 to 11, got 0"),
        (lambda: q.Float(4, 3, specials="iee"), ValueError, "did you mean 'ieee'"),
        (
            lambda: q.Float(4, 3, specials="fn", overflow="infinity"),
            ValueError,
            "needs a format with infinities",
        ),
        (
            lambda: q.Float(4, 3, specials="finite", overflow="nan"),
            ValueError,
            "needs a format with NaN",
        ),
        (
            lambda: q.Float(4, 3, signed=False, specials="fnuz"),
            ValueError,
            "needs signed=True and zero=True",
        ),
        (lambda: q.Float(1, 0), ValueError, "no positive value left"),
        (lambda: q.Float(8, 3, bias=-1000), ValueError, "choose another bias"),
        (lambda: q.Codebook(1), ValueError, "from 2 to 65536 values, got 1"),
        (lambda: q.Codebook(1, 2, 1), ValueError, "distinct"),
        (lambda: q.Codebook(1, float("inf")), ValueError, "finite"),
        (lambda: q.Codebook("ab"), TypeError, "must be numbers"),
        (lambda: q.bfp(1), ValueError, "word must be from 2 to 32, got 1"),
        (lambda: q.bfp(8, range="two"), ValueError, "did you mean 'twos'"),
        (lambda: q.bfp(8, size=16), ValueError, "needs one axis"),
        (lambda: q.bfp(8, axis=(0, 0)), ValueError, "each axis once"),
        (
            lambda: q.Block(q.parse("bfp8")),
            TypeError,
            "element must be a format of single numbers",
        ),
        (lambda: q.parse("e4m3fm"), ValueError, "did you mean 'e4m3fn'"),
        (lambda: q.parse("flot<4,3>"), ValueError, "did you mean 'float'"),
        (lambda: q.parse("fixed<8"), ValueError, "cannot read the format 'fixed<8'"),
        (lambda: q.parse("fixed<8,6>>"), ValueError, "unexpected '>'"),
        (lambda: q.parse("fixed<8,6,colour=red>"), ValueError, "colour"),
        (lambda: q.parse("fixed<8,6,1.2.3>"), ValueError, "'1.2.3' is not a number"),
        (
            lambda: q.parse("bfp8/stochastic"),
            ValueError,
            r"as in quantize\(x, 'bfp8', 'stochastic', random=RandomBits\(seed\)\)",
        ),
        (lambda: q.Codebook("1", "2"), TypeError, "must be numbers"),
        (lambda: q.parse(8), TypeError, "a format must be a string, a dtype or a Format, got 8"),
        (lambda: q.register("8bit", "e4m3fn"), ValueError, "starts with a letter"),
        (lambda: q.Rounding("nearest"), ValueError, "rounding mode must be one of"),
        (lambda: q.Rounding.parse("nearest_evn"), ValueError, "did you mean 'nearest_even'"),
        (lambda: q.Rounding("stochastic_a", 33), ValueError, "must be from 1 to 32, got 33"),
        (lambda: q.Rounding("to_odd", 3), ValueError, "random_bits of to_odd must be from 0 to 0"),
    ],
)
def test_bad_parameters(make, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("maximum", "quantum", "words"),
    [
        (10.0, lambda e, xp: e - 2, "the values near zero never end"),
        (10.5, lambda e, xp: xp.maximum(e - 2, -3), "not a multiple of 2\\^1"),
        (-1.0, lambda e, xp: xp.maximum(e - 2, -3), "max must be a positive finite float"),
        (8.0, lambda e, xp: e + 1, "exceeds 3, the binade of max"),
        (8.0, lambda e, xp: xp.where(e < -4, 0, e - 2), "must have quantum\\(e\\) = -4"),
    ],
)
def test_bad_grids_are_refused_at_construction(maximum, quantum, words) -> None:  # type: ignore[no-untyped-def]
    @dataclasses.dataclass(frozen=True)
    class Bad(q.BinadeFormat):
        max = maximum

        def quantum(self, binade, xp):  # type: ignore[no-untyped-def]
            return quantum(binade, xp)

    with pytest.raises(ValueError, match=words):
        Bad()


def test_where_without_an_array_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Bad(q.BinadeFormat):
        max = 4.0

        def quantum(self, binade, xp):  # type: ignore[no-untyped-def]
            return xp.where(binade < 0, -3, -2)

    with pytest.raises(TypeError, match=r"where\(mask, -3, -2\) has no dtype"):
        Bad()


def test_a_field_cannot_hide_a_property() -> None:
    with pytest.raises(TypeError, match="would hide the property 'bits'"):

        class Hiding(q.BinadeFormat):
            bits: int


def test_formats_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        q.Fixed(8, 6).word = 9  # type: ignore[misc]
