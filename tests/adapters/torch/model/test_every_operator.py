"""All that PyTorch's own tests list as its operations, of numbers in bfloat16, in models whose
elementwise operations are rounded to it: each gives numbers in bfloat16, or is told.
"""

import functools
import re

import pytest
import torch
from qemu_swalp_torch import UncoveredError, quantize_elementwise
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from qemu_swalp.training import Recipe

SAMPLES = 4
"""Of each operation."""

DRAWN_OR_GIVEN = set(
    """
    _unsafe_masked_index cauchy empty empty_like empty_permuted empty_strided exponential full
    full_like index_fill linspace log_normal new_empty new_empty_strided new_full
    nn.functional.threshold normal normal.in_place normal.number_mean rand_like randn randn_like
    uniform
    """.split()  # noqa: SIM905
)
"""What puts numbers into its results that nobody has computed."""

MANY_PRODUCTS = set(
    """
    __rmatmul__ dot geqrf inner lu lu_solve logdet matmul matrix_exp mv ormqr pca_lowrank pinverse
    nn.functional.bilinear nn.functional.embedding_bag nn.functional.pdist qr stft svd_lowrank
    tensordot triangular_solve vdot
    """.split()  # noqa: SIM905
)
"""Products, or made of them, that the counter of floating-point operations may not know."""

MOVED_OR_CHOSEN = set(
    """
    aminmax as_strided_scatter block_diag diagonal_scatter fmod frexp heaviside index_copy
    index_reduce.amax mode nanmedian nn.functional.channel_shuffle nn.functional.hardshrink
    nn.functional.fractional_max_pool2d nn.functional.interpolate.nearest-exact
    nn.functional.max_unpool2d scatter_reduce.amin unique unique_consecutive
    """.split()  # noqa: SIM905
)
"""Some of what rounds nothing."""

REFUSED = "norms of (positive order|matrices) are rounded"


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs, options):
        return self.function(*inputs, **options)


@functools.cache
def operations():
    pytest.importorskip("expecttest", reason="PyTorch's lists of tests need expecttest")
    from torch.testing._internal.common_methods_invocations import op_db

    found = {}
    for info in op_db:
        if torch.float32 in info.dtypes:
            variant = f".{info.variant_test_name}" if info.variant_test_name else ""
            found[info.name + variant] = info
    return found


def held_in_16_bits(x):
    if isinstance(x, torch.Tensor) and x.dtype == torch.float32 and x.layout == torch.strided:
        return x.detach().bfloat16().float()
    return x


def floats(values):
    tensors = (x for x in tree_leaves(values) if isinstance(x, torch.Tensor))
    return [x for x in tensors if x.is_floating_point() and x.layout == torch.strided]


def in_16_bits(x):
    return torch.equal(x.nan_to_num(), x.bfloat16().to(x.dtype).nan_to_num())


def samples(info):
    """(inputs, options) of calls that give floating numbers, and what they give."""
    given = iter(info.sample_inputs("cpu", torch.float32, requires_grad=False))
    for _, sample in zip(range(SAMPLES), given, strict=False):
        arguments = (sample.input, *sample.args), sample.kwargs
        inputs, options = tree_map(held_in_16_bits, arguments)
        try:
            result = info.op(*inputs, **options)
        except Exception:
            continue
        if floats(result):
            yield tree_map(held_in_16_bits, arguments), result


def multiplies(info, inputs, options):
    with FlopCounterMode(display=False) as counter:
        info.op(*inputs, **options)
    return counter.get_total_flops() > 0


@pytest.mark.filterwarnings("ignore")
def test_each_operation_is_rounded_or_told():
    rounded, silent, told = set(), set(), set()
    for name, info in operations().items():
        if name in MANY_PRODUCTS or name.startswith(("linalg.", "fft.", "cholesky")):
            continue
        for (inputs, options), expected in samples(info):
            if multiplies(info, *tree_map(held_in_16_bits, (inputs, options))):
                continue
            model = Calling(info.op)
            quantize_elementwise(model, Recipe(elementwise="bf16"))
            try:
                found = floats(model(inputs, options))
            except UncoveredError:
                told.add(name)
                continue
            except ValueError as error:
                assert re.match(REFUSED, str(error)), name  # noqa: PT017
                continue
            assert [x.shape for x in found] == [x.shape for x in floats(expected)], name
            (rounded if all(map(in_16_bits, found)) else silent).add(name)
    assert silent <= DRAWN_OR_GIVEN
    assert len(rounded) > 300
    assert {"cumsum", "nn.functional.grid_sample"} <= told
    assert rounded - told >= MOVED_OR_CHOSEN
