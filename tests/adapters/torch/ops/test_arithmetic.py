"""Prepared calls of the kernels give what `qemu_swalp.add`, `qemu_swalp.sum` and so on give without
kernels, and leave to them what they do not do.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.interop.torch_arithmetic import operated, summed

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
RULES = (
    "bf16/nearest_even",
    "e4m3fn/toward_zero",
    "fixed<8,4>/nearest_away",
    "posit8/nearest_even",
)
SPECIAL = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 6e-8, -1e-40, 448.0, 65504.0, 3e38]


def numbers(shape, dtype, seed=0):
    """Special values among ordinary ones."""
    torch.manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64)
    special = torch.tensor(SPECIAL, dtype=torch.float64)[torch.randint(len(SPECIAL), x.shape)]
    return torch.where(torch.rand(x.shape) < 0.2, special, x).to(dtype)


def pairs(dtype):
    """Operands of many shapes and strides."""
    x = numbers((7, 5, 19), dtype)
    yield x, numbers((7, 5, 19), dtype, 1)
    yield x, numbers((5, 1), dtype, 1)
    yield numbers((19,), dtype, 1), x
    yield x, numbers((), dtype, 2)
    yield numbers((), dtype, 2), numbers((), dtype, 3)
    yield x.permute(2, 0, 1), x.permute(2, 0, 1)
    yield x[::2, :, 1::3], numbers((4, 5, 1), dtype, 4).expand(4, 5, 6)
    yield x.to(memory_format=torch.contiguous_format).transpose(0, 2), numbers((19, 5, 7), dtype, 5)
    yield x[:, :1], x[:1]


def equal(a, b):
    """Of one dtype and shape, with the same bits; any NaN equals any NaN."""
    assert (a.dtype, a.shape, a.is_contiguous()) == (b.dtype, b.shape, True)
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.itemsize]
    same = a.contiguous().view(whole) == b.contiguous().view(whole)
    return bool((same | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_operations(rule, dtype):
    for a, b in pairs(dtype):
        for name in ("add", "subtract", "multiply", "divide", "sqrt"):
            operands = (a,) if name == "sqrt" else (a, b)
            try:
                with kernels.disabled():
                    expected = getattr(q, name)(*operands, rule)
            except TypeError:
                with pytest.raises(TypeError, match="cannot represent"):
                    operated(name, operands, rule)
                continue
            assert equal(operated(name, operands, rule), expected), (name, a.shape, b.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "rule",
    ["bf16/nearest_even", "e5m2/toward_zero; chunk=3", "fp16/nearest_even; group=2", "nf4/to_odd"],
)
def test_sums(rule, dtype):
    for x, _ in pairs(dtype):
        if not x.ndim:
            assert summed(x, rule) is None
            continue
        try:
            with kernels.disabled():
                expected = q.sum(x, rule, keepdims=True)
        except TypeError:
            with pytest.raises(TypeError, match="cannot represent"):
                summed(x, rule)
            continue
        assert equal(summed(x, rule), expected), x.shape


def test_a_sum_of_many_terms():
    x = numbers((2, 70_000), torch.float32).nan_to_num(0.5, 2.0, -2.0)
    rule = "e4m3fn/nearest_even; chunk=20000"
    assert equal(summed(x, rule), q.sum(x, rule, keepdims=True))


def test_what_is_left_to_the_functions():
    x = torch.randn(3, 4)
    rule = "bf16/nearest_even"
    assert operated("add", (x, x), "bf16/stochastic") is None
    assert summed(x, "bf16/stochastic") is None
    assert operated("add", (x, x.double()), rule) is None
    assert operated("add", (x, torch.randn(3)), rule) is None  # q.add says that they do not fit
    assert operated("add", (x[:0], x[:0]), rule) is None
    assert summed(x[:, :0], rule) is None
    assert operated("add", (x.to("meta"), x), rule) is None
    assert operated("add", (x.int(), x.int()), rule) is None
    with kernels.disabled():
        assert operated("add", (x, x), rule) is None
        assert summed(x, rule) is None


def test_no_history_and_no_aliases():
    x = torch.randn(3, 4, requires_grad=True)
    for y in (operated("add", (x, x), "bf16/nearest_even"), summed(x, "bf16/nearest_even")):
        assert not y.requires_grad
        y.zero_()
    assert np.isfinite(x.detach().numpy()).all()
    assert (x != 0).all()


def test_a_format_that_is_defined_anew():
    """A prepared call does not outlive the meaning of its string."""
    x = torch.tensor([1.0, 0.3])
    q.register("of_prepared_calls", "e4m3fn")
    try:
        before = operated("add", (x, x), "of_prepared_calls/nearest_even")
        q.unregister("of_prepared_calls")
        q.register("of_prepared_calls", "bf16")
        after = operated("add", (x, x), "of_prepared_calls/nearest_even")
    finally:
        q.unregister("of_prepared_calls")
    assert before.tolist() == q.add(x, x, "e4m3fn").tolist()
    assert after.tolist() == q.add(x, x, "bf16").tolist()


def test_tensors_of_the_host_under_another_default_device():
    for length in (70, 70_000):
        x = torch.ones(3, length)
        with torch.device("meta"):
            added, total = operated("add", (x, x), "bf16/nearest_even"), summed(x, "e5m2/to_odd")
        assert added.is_cpu
        assert total.is_cpu
        assert equal(added, q.add(x, x, "bf16/nearest_even"))
        assert equal(total, summed(x, "e5m2/to_odd"))


def test_tensors_that_are_negated_when_they_are_read():
    """As `x.conj().imag` is."""
    x = numbers((4, 6), torch.float32)
    lazy = torch.complex(x, -x).conj().imag
    assert lazy.is_neg()
    for way in (nullcontext, kernels.disabled):
        with way():
            for format in ("e4m3fn", "bfp<8,axis=1>", "posit8"):
                assert equal(q.quantize(lazy, format), q.quantize(x, format))
            assert equal(q.add(lazy, x, "bf16/nearest_even"), q.add(x, x, "bf16/nearest_even"))
            products = [q.matmul(a, x.t(), "e4m3fn/nearest_even") for a in (lazy, x)]
            assert equal(*products)
    assert operated("add", (lazy, x), "bf16/nearest_even") is None
    assert summed(lazy, "bf16/nearest_even") is None
    out = torch._neg_view(torch.zeros(4, 6))
    q.quantize(x, "e4m3fn", out=out)
    assert equal(out.resolve_neg(), q.quantize(x, "e4m3fn"))
