"""Axes by words (clause BLK-14): strings, what a layout makes of them, and refusal without one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import qemu_swalp as q
from qemu_swalp.formats.axis_words import AXIS_WORDS, VECTOR
from tests.helpers.backends import Backend

FORMATS = (
    "bfp<8,axis={}>",
    "int<8,axis={}>",
    "int<4,zero_point,axis={}>",
    "block<e4m3fn,axis={},size=4,scale=e8m0fnu>",
    "block<e2m1fn,axis={},size=4,scale=e4m3fn,second=float<8,23>>",
)


@pytest.mark.parametrize("axis", ["out", "in", "sum", "batch", "(out,in)", "(batch,-1)"])
@pytest.mark.parametrize("string", FORMATS)
def test_strings_read_print_and_pickle(string: str, axis: str) -> None:
    format = q.parse(string.format(axis))
    assert str(format) == string.format(axis)
    assert q.parse(str(format)) == format == pickle.loads(pickle.dumps(format))
    assert hash(q.parse(str(format))) == hash(format)
    assert format.axis_words == tuple(word for word in AXIS_WORDS if word in axis)
    assert format != q.parse(string.format(0))
    assert q.parse(string.format(0)).axis_words == ()


def test_constructors_take_words() -> None:
    assert q.bfp(8, axis="out") == q.parse("bfp<8,axis=out>")
    assert q.integer(8, axis=("out", "in"), size=(2, 4)).axis == ("out", "in")
    assert q.Block("e4m3fn", axis="sum", size=32, scale="e8m0fnu").axis_words == ("sum",)


def test_a_format_of_the_users_may_bear_such_a_name() -> None:
    q.register("sum", "e4m3fn")
    try:
        assert str(q.parse("block<sum,axis=sum>")) == "block<e4m3fn,axis=sum>"
    finally:
        q.unregister("sum")


@pytest.mark.parametrize("axis", ["uot", "(out,out)", "OUT", "true"])
def test_other_words_are_refused(axis: str) -> None:
    with pytest.raises((TypeError, ValueError), match="axis"):
        q.parse(f"bfp<8,axis={axis}>")


CALLS: dict[str, Callable[[Any, q.Block], object]] = {
    "quantize": lambda x, f: q.quantize(x, f),
    "a quantizer": lambda x, f: q.Quantizer(f)(x),
    "its target": lambda x, f: q.Quantizer(f).target,
    "encode": lambda x, f: q.encode(x, f),
    "encode, rounding": lambda x, f: q.encode(x, f, "nearest_even"),
    "analyze": lambda x, f: q.analyze(x, f),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("string", FORMATS)
def test_an_array_is_refused_by_words(backend: Backend, string: str, call: str) -> None:
    """Of any shape: empty and 0-d arrays too."""
    if call == "analyze" and backend.name != "numpy":
        pytest.skip("analyze is the same for all libraries")
    for shape in ((4, 4), (3,), (), (0, 3)):
        x = backend.array(np.ones(shape, np.float32))
        with pytest.raises(ValueError, match=r"word 'in'.*axis=0.*\.resolve\(in_=…\)"):
            CALLS[call](x, q.parse(string.format("in")))


def test_files_and_codes_are_refused_by_words() -> None:
    with pytest.raises(ValueError, match="word 'out'"):
        q.quantize_state_dict({"w": np.ones((2, 2), np.float32)}, "bfp<8,axis=out>")
    codes = q.BlockCodes(np.zeros((2, 2), np.int8), np.zeros((2, 1), np.int8))
    with pytest.raises(ValueError, match="word 'out'"):
        q.decode(codes, "bfp<8,axis=out>")


@pytest.mark.parametrize(
    ("string", "layout", "expected"),
    [
        ("bfp<8,axis=out>", {"out": 0}, "bfp<8,axis=0>"),
        ("bfp<8,axis=out>", {"out": (-2, -1), "in": 0}, "bfp<8,axis=(-2,-1)>"),
        ("bfp<8,axis=out>", {"out": ()}, "bfp8"),
        ("bfp<8,axis=(out,in)>", {"out": 0, "in": ()}, "bfp<8,axis=0>"),
        ("bfp<8,axis=(out,in)>", VECTOR, "bfp<8,axis=0>"),
        ("bfp<8,axis=(out,in),size=(16,4)>", VECTOR, "bfp<8,axis=0,size=4>"),
        ("bfp<8,axis=(out,in),size=(16,4)>", {"in": 0, "out": 1}, "bfp<8,axis=(1,0),size=(16,4)>"),
        ("bfp<8,axis=(batch,2)>", {"batch": 0}, "bfp<8,axis=(0,2)>"),
        ("bfp<8,axis=out>", {"out": {0: 3, 1: 1, 2: 5}}, "bfp<8,axis=(0,1,2),size=(3,1,5)>"),
        (
            "bfp<8,axis=(out,in)>",
            {"out": {0: 3, 1: 1, 2: 5}, "in": 0},
            "bfp<8,axis=(0,1,2),size=(1,1,5)>",
        ),
        ("e4m3fn", {"out": 0}, "e4m3fn"),
        ("bfp<8,axis=1>", {"out": 0}, "bfp<8,axis=1>"),
    ],
)
def test_a_layout_gives_the_numbers(string: str, layout: Any, expected: str) -> None:
    format = q.parse(string)
    assert format.resolve(layout) == q.parse(expected)
    assert format.resolve(**{word + "_" * (word == "in"): a for word, a in layout.items()}) == (
        q.parse(expected)
    )
    assert q.Quantizer(format, "toward_zero").resolve(layout) == q.Quantizer(
        expected, "toward_zero"
    )


@pytest.mark.parametrize(
    ("string", "layout", "error", "words"),
    [
        ("bfp<8,axis=out>", {"in": 0}, ValueError, "word 'out'"),
        ("bfp<8,axis=(out,in)>", {"out": 0}, ValueError, r"word 'in'.*in_=…"),
        ("bfp<8,axis=out>", {"uot": 0}, ValueError, "did you mean 'out'"),
        ("e4m3fn", {"uot": 0}, ValueError, "did you mean 'out'"),
        ("bfp<8,axis=out>", {"out": "0"}, TypeError, "'out' stands for must be an integer"),
        ("bfp<8,axis=out>", {"out": 1.0}, TypeError, "'out' stands for must be an integer"),
        ("bfp<8,axis=out>", {"out": {0: 0}}, ValueError, "run along axis 0"),
        ("bfp<8,axis=out>", [("out", 0)], TypeError, "layout must be a mapping"),
        ("bfp<8,axis=out,size=4>", {"out": (0, 1)}, ValueError, "'out' stands for axes 0, 1"),
        ("bfp<8,axis=out,size=4>", {"out": ()}, ValueError, "'out' stands for no axis"),
    ],
)
def test_layouts_that_do_not_fit(string: str, layout: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        q.parse(string).resolve(layout)


@st.composite
def moved(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    """An array of wide-ranged numbers, and an order of its axes."""
    ndim = draw(st.integers(1, 4))
    shape = draw(st.tuples(*[st.integers(1, 5)] * ndim))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal(shape) * np.exp2(rng.integers(-8, 8, shape))
    return x.astype(np.float32), tuple(draw(st.permutations(range(ndim))))


@given(case=moved(), data=st.data())
def test_two_layouts_of_the_same_numbers_agree(
    case: tuple[np.ndarray, tuple[int, ...]], data: st.DataObject
) -> None:
    """Whatever the order of the axes: each word follows its axis."""
    x, order = case
    words = data.draw(
        st.lists(st.sampled_from(AXIS_WORDS), min_size=1, max_size=x.ndim, unique=True)
    )
    axes = data.draw(st.permutations(range(x.ndim)))[: len(words)]
    size = data.draw(st.sampled_from([None, 1, 2, 3]))
    format = q.bfp(4, axis=tuple(words), size=size)
    here = format.resolve(dict(zip(words, axes, strict=True)))
    there = format.resolve({w: order.index(a) for w, a in zip(words, axes, strict=True)})
    expected = q.quantize(x, here).transpose(order)
    assert (q.quantize(np.ascontiguousarray(x.transpose(order)), there) == expected).all()


@given(
    groups=st.integers(1, 4), inner=st.integers(1, 3), outer=st.integers(1, 3), k=st.integers(1, 3)
)
def test_runs_are_the_indices_of_a_grouped_word(
    groups: int, inner: int, outer: int, k: int
) -> None:
    """Output channels of a grouped weight (in, out/groups, k): one scale for each."""
    rng = np.random.default_rng(groups + 5 * inner + 25 * outer + 125 * k)
    x = rng.standard_normal((groups * inner, outer, k)) * np.exp2(
        rng.integers(-8, 8, (1, outer, 1))
    )
    x = x.astype(np.float32)
    layout = {"out": {0: inner, 1: 1, 2: k}}
    got = q.quantize(x, q.bfp(4, axis="out").resolve(layout))
    for group in range(groups):
        for channel in range(outer):
            one = np.s_[group * inner : (group + 1) * inner, channel]
            assert (got[one] == q.quantize(x[one], "bfp4")).all()
