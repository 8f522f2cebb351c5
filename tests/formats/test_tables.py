"""Table formats: a user's own in every tool, everything that a table may hold, bad input (clauses
FMT-10, RND-12).
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp.rounding import DETERMINISTIC
from qemu_swalp.training import SGD, Recipe
from tests.helpers.backends import Backend, same_bits


@dataclasses.dataclass(frozen=True)
class Cubes(q.TableFormat, family="cubes_test"):
    """A format designed from scratch: ±k³/8 in two's complement order."""

    word: int

    @property
    def table(self) -> list[float]:
        positive = [k**3 / 8 for k in range(2 ** (self.word - 1))]
        return [*positive, math.nan, *(-v for v in reversed(positive[1:]))]


@dataclasses.dataclass(frozen=True)
class Odd(q.TableFormat, family="odd_table_test"):
    """Both zeros, infinities, two NaN, two codes for 0.5; boundaries of its own; places from 1."""

    table = (0.0, 0.5, 0.5, 3.0, math.inf, math.nan, -math.nan, 7.0, -0.0, -0.5, -3.0, -math.inf)
    boundaries = (Fraction(-3), Fraction(-1, 4), Fraction(1, 10), Fraction(1), Fraction(5))
    first_place = 1


def test_a_format_designed_from_scratch(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """In quantize, codes, strings, TOML, a recipe, an optimizer, packed: with no further code."""
    f = Cubes(4)
    assert q.quantize([0.1, -1.2, 40.0, 1e9], f).tolist() == [0.125, -1.0, 42.875, 42.875]
    assert q.encode([-1.0, 42.875, float("nan")], f).tolist() == [14, 7, 8]
    assert q.decode(np.uint8([14, 7, 8]), f).tolist()[:2] == [-1.0, 42.875]
    assert str(f) == "cubes_test<4>"
    assert q.parse("cubes_test<4>") == f
    assert (f.bits, f.max, f.min, f.min_positive, f.epsilon, f.value_count) == (
        4,
        42.875,
        -42.875,
        0.125,
        2.375,
        15,
    )
    (tmp_path / "formats.toml").write_text('[formats.my_cubes]\nfamily = "cubes_test"\nword = 4\n')
    try:
        assert q.load_formats(tmp_path / "formats.toml") == {"my_cubes": f}
        recipe = Recipe(weight="my_cubes/stochastic", gradient="cubes_test<8>")
        assert Recipe.from_dict(recipe.to_dict()) == recipe
    finally:
        q.unregister("my_cubes")
    optimizer = SGD(learning_rate=0.1, recipe=recipe, seed=3)
    params = {"w": np.float32([1.0, -3.375])}
    params, _ = optimizer.update(params, {"w": np.float32([0.4, 20.0])}, optimizer.init(params))
    assert set(params["w"].tolist()) <= set(f.values())
    assert q.packed_bytes(1000, f) == 500


def test_everything_that_a_table_can_hold(backend: Backend) -> None:
    """FMT-10, COD-1, COD-2, RND-7, RND-8, RND-10, RND-12."""
    f, inf = Odd(), math.inf
    assert (f.has_nan, f.has_infinity, f.has_negative_zero, f.value_count, f.bits) == (
        True,
        True,
        True,
        6,
        4,
    )
    x = np.float32(
        [
            0.0,
            -0.0,
            0.1,
            0.11,
            -0.2,
            -0.25,
            -0.3,
            1.0,
            1.5,
            5.0,
            -2.9,
            8.0,
            -4.0,
            inf,
            -inf,
            math.nan,
        ]
    )
    even = [
        0.0,
        -0.0,
        0.5,
        0.5,
        -0.0,
        -0.5,
        -0.5,
        0.5,
        3.0,
        7.0,
        -0.5,
        7.0,
        -3.0,
        7.0,
        -3.0,
        math.nan,
    ]
    away = [
        0.0,
        -0.0,
        0.5,
        0.5,
        -0.0,
        -0.5,
        -0.5,
        3.0,
        3.0,
        7.0,
        -0.5,
        7.0,
        -3.0,
        7.0,
        -3.0,
        math.nan,
    ]
    assert same_bits(backend.quantize(x, f, overflow="saturate"), np.float32(even)).all()
    assert same_bits(
        backend.quantize(x, f, "nearest_away", overflow="saturate"), np.float32(away)
    ).all()
    ends = np.float32([8.0, -4.0, inf, -inf])
    expected = {
        "saturate": [7, -3, 7, -3],
        "propagate": [7, -3, inf, -inf],
        "infinity": [inf, -inf, inf, -inf],
    }
    for policy, results in expected.items():
        assert backend.quantize(ends, f, overflow=policy).tolist() == results
    assert backend.quantize(ends, f, "toward_zero", overflow="infinity").tolist() == [
        7,
        -3,
        inf,
        -inf,
    ]
    assert np.isnan(backend.quantize(ends, f, "toward_negative", overflow="nan")).tolist() == [
        False,
        True,
        True,
        True,
    ]
    codes = backend.encode(np.float32([0.0, -0.0, 0.5, 3.0, inf, -inf, math.nan, 7.0]), f)
    assert codes.tolist() == [0, 8, 1, 3, 4, 11, 5, 7]
    back = backend.decode(np.arange(12, dtype=np.uint8), f)
    assert same_bits(back, np.float32(f.table)).all()


def test_stochastic_rounding_is_linear_in_value_whatever_the_boundaries() -> None:
    """RND-12: the mean over all words is x."""
    words = (np.arange(256, dtype=np.uint64) << np.uint64(24)).astype(np.uint32)
    for x, f in ((1.0, Odd()), (3.0 * 2.0**18, q.Posit(8))):
        r = q.quantize(np.full(256, x), f, "stochastic<8>", random=words)
        low, high = (
            float(q.quantize(np.float64([x]), f, m)[0])
            for m in ("toward_negative", "toward_positive")
        )
        assert int((r == high).sum()) == math.floor((x - low) / (high - low) * 256)


def test_pseudo_logarithmic_boundaries() -> None:
    """RND-12: √2·2^k, to the last bit of float64, with geometric midpoints; 3/2·2^k with arithmetic
    ones.
    """
    root = math.sqrt(2.0)  # correctly rounded, and above the root
    assert Fraction(math.nextafter(root, 0)) ** 2 < 2 < Fraction(root) ** 2
    x = np.float64([math.nextafter(root, 0), root, 1.5, math.nextafter(1.5, 2)])
    assert q.quantize(x, "pot4").tolist() == [1.0, 2.0, 2.0, 2.0]
    assert q.quantize(x, "logarithmic<4,0,midpoint=arithmetic>").tolist() == [1.0, 1.0, 1.0, 2.0]
    assert q.quantize(x, "logarithmic<4,0,midpoint=arithmetic>", "to_odd").tolist() == [
        2.0,
        2.0,
        2.0,
        2.0,
    ]
    assert q.quantize(np.float64([0.08, 0.09]), "pot4").tolist() == [0.0, 0.125]  # 2^-3.5 = 0.0884


def test_zero_where_there_is_none_has_no_code() -> None:
    """COD-1."""
    for f in ("binary", "e8m0fnu"):
        for zero in (0.0, -0.0):
            with pytest.raises(ValueError, match="encode needs values"):
                q.encode([zero], f)


@pytest.mark.parametrize("mode", DETERMINISTIC)
def test_coarse_values_need_no_wide_integers(mode: str) -> None:
    """Deterministic modes search; only stochastic ones divide, and so need neighbours within
    reach.
    """
    least, greatest = np.float32([1e-30, 1e30]).tolist()
    r = q.quantize(np.float32([1e-30, 1e30, 3.0]), "codebook<1e-30,1e30>", mode).tolist()
    assert r == [least, greatest, greatest if mode in ("toward_positive", "to_odd") else least]


def table(*entries: float, **attributes: object) -> type[q.TableFormat]:
    return dataclasses.dataclass(frozen=True)(
        type("Bad", (q.TableFormat,), {"table": entries, **attributes})
    )


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (table(1.0), ValueError, "table must have from 2 to 65536 entries, got 1"),
        (table(1.0, math.nan), ValueError, "at least two different finite numbers"),
        (table(0.0, -0.0), ValueError, "at least two different finite numbers"),
        (table(-1.0, 1.0, math.inf), ValueError, "-infinity as well where it has negative numbers"),
        (table(0.0, 1.0, -math.inf), ValueError, "or neither"),
        (
            table(0.0, 1.0, boundaries=(0.5, 0.6)),
            ValueError,
            "boundaries must be one fewer than the 2 values, got 2",
        ),
        (
            table(0.0, 1.0, boundaries=(1.5,)),
            ValueError,
            r"between 0\.0 and 1\.0 must lie between them, got 1\.5",
        ),
        (table(0.0, 1.0, overflow="nan"), ValueError, "needs a format with NaN"),
        (
            table(0.0, 1.0, overflow="propagate"),
            ValueError,
            "needs a format with infinities or NaN",
        ),
        (lambda: q.P3109(2, 1), ValueError, "k must be from 3 to 16, got 2"),
        (lambda: q.P3109(8, 8), ValueError, "p must be from 1 to 7, got 8"),
        (
            lambda: q.P3109(16, 2),
            ValueError,
            "14 exponent bits, and float64, the widest source, has 11; give it p of",
        ),
        (lambda: q.P3109(8, 4, domain="inf"), ValueError, "domain must be one of extended, finite"),
        (
            lambda: q.P3109(8, 4, domain="finite", overflow="infinity"),
            ValueError,
            "needs a format with infinities",
        ),
        (lambda: q.P3109(8, 4).overflow_of("SatFinit"), ValueError, "did you mean 'SatFinite'"),
        (lambda: q.parse("p3109_k8p9se"), ValueError, "p must be from 1 to 7, got 9"),
        (
            lambda: q.register("p3109_k5p2se", "e4m3fn"),
            ValueError,
            r"already stands for p3109<5,2>",
        ),
        (lambda: q.Posit(17), ValueError, "word must be from 2 to 16, got 17"),
        (lambda: q.Posit(16, 7), ValueError, "beyond float64; choose a smaller word or es"),
        (lambda: q.Posit(8, overflow="infinity"), ValueError, "needs a format with infinities"),
        (lambda: q.Takum(1), ValueError, "word must be from 2 to 16, got 1"),
        (lambda: q.Takum(8, linear=1), TypeError, "linear must be True or False, got 1"),
        (lambda: q.Logarithmic(2, 0), ValueError, "word must be from 3 to 16, got 2"),
        (
            lambda: q.Logarithmic(16, 2),
            ValueError,
            "beyond the normal numbers of float32; choose another bias",
        ),
        (
            lambda: q.Logarithmic(8, 3, midpoint="geometrical"),
            ValueError,
            "did you mean 'geometric'",
        ),
        (lambda: q.quantize(np.ones(2, np.float32), "takum16"), TypeError, "convert it to float64"),
        (lambda: q.decode(np.uint8([12]), Odd()), ValueError, "run from 0 to 11"),
    ],
)
def test_bad_parameters(make, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        make()
