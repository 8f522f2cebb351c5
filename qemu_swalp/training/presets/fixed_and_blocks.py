"""Presets of fixed point, block floating point and 16 bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..._util.checks import check_int
from ...formats import bfp
from ...ops.quantizer import Quantizer
from ..recipe import Recipe
from .registry import KINDS, preset


def swalp(word: int = 8, block: Literal["small", "big"] = "small", average: Any = None) -> Recipe:
    """SWALP's recipe: every number in block floating point, rounded stochastically (Yang et al.
    2019, arXiv 1904.11943, algorithm 2).

    Parameters
    ----------
    word : word length in bits.
    block : "small", one exponent for each output channel of a weight, each sample (index of axis 0)
        of an activation, and each vector; or "big", one for each tensor. The adapters know the
        output channels of layers; for arrays of your own, `resolve` gives the axis.
    average : quantizer of the averaged weights; None, the paper's choice, for full precision.

    Raises
    ------
    ValueError: if `block` is neither "small" nor "big", or the word length is out of range.

    >>> swalp(8).to_dict()["momentum"]
    'bfp<8,axis=out>/stochastic_a'
    >>> swalp(8).resolve(out=-1).to_dict()["momentum"]
    'bfp<8,axis=-1>/stochastic_a'
    """
    if block not in ("small", "big"):
        raise ValueError(f"block must be 'small' or 'big', got {block!r}")
    small = block == "small"
    weight = Quantizer(bfp(word, axis="out" if small else None), "stochastic")
    activation = Quantizer(bfp(word, axis="batch" if small else None), "stochastic")
    return Recipe(
        weight=weight,
        activation=activation,
        error=activation,
        gradient=weight,
        momentum=weight,
        average=average,
    )


def fixed_point(word: int, fraction: int) -> Recipe:
    """Weights alone in `fixed<word,fraction>`, rounded stochastically: the setting of SWALP's
    algorithm 1 and its theory.

    >>> str(fixed_point(8, 6).weight)
    'fixed<8,6>/stochastic_a'
    """
    return Recipe(weight=f"fixed<{word},{fraction}>/stochastic")


@preset
def swalp8() -> Recipe:
    """SWALP with 8-bit small-block floating point for every number (Yang et al. 2019, arXiv
    1904.11943).

    Average the iterates in full precision to have what the paper has.
    """
    return swalp(8)


@preset
def bf16_sr() -> Recipe:
    """Training on bfloat16 alone, weights rounded stochastically (Zamirai et al. 2020, arXiv
    2010.06192).

    Everything else is rounded to nearest, optimizer state included; there is no float32 copy of the
    weights. Rounding the weights to nearest instead makes small updates vanish, which is what the
    paper is about.
    """
    near = "bf16/nearest_even"
    return Recipe(
        weight="bf16/stochastic",
        activation=near,
        error=near,
        gradient=near,
        momentum=near,
        state={"exp_avg_sq": near, "square_avg": near},
    )


@preset
def bf16_kahan(together: str = "float<8,15>/nearest_even") -> Recipe:
    """Training on bfloat16 alone, with a compensation of 16 bits beside each weight (Zamirai et al.
    2020, arXiv 2010.06192, Kahan summation).

    Every weight that the model sees is bf16, rounded to nearest, as all else is; what it loses in
    an update comes back in the next ones. The paper keeps that loss c in bf16 and adds bf16(u - c)
    to the weight w. Here w - c is one number, the accumulator. It has as many significant bits as w
    and c have together where c is as great as it can be: `together`, a quantizer. In the paper a
    smaller c has finer steps than that, and what is added to w is rounded to bf16 first. Most
    weights come out the same; ours are the nearest to exact sums.
    """
    return replace(bf16_sr(), weight="bf16/nearest_even", accumulator=together)  # type: ignore[arg-type]


@preset
def dorefa(weights: int = 2, activations: int = 2, gradients: int = 6) -> Recipe:
    """DoReFa-Net (Zhou et al. 2016, arXiv 1606.06160): products of k-bit inputs, weights and
    errors, k by operand, from 2 to 8.

    Inputs become the nearest of 2^k even steps from 0 to 1, which clips them. Weights become the
    nearest of 2^k from -1 to 1, times the greatest of the tensor. Errors do likewise, and
    stochastically, times the greatest of their sample (the paper's noise of half a step before it
    rounds to nearest). The first layer and the last stay in float.

    The model's part: weights go through tanh before they are rounded, and are divided by the
    greatest, as a parametrization t = w.tanh(); t / t.abs().max() does. Then the greatest is 1, as
    in the paper; without it weights are linear in w. Activations go through a clip to [0, 1], whose
    derivative stops gradients outside. Weights of 1 bit, the sign times the mean of |w|, are not
    held.

    Raises ValueError if a number of bits is not from 2 to 8.

    >>> str(dorefa(weights=4).quantizer("forward.weight"))
    'block<levels<4>,scale=float<8,23>>/nearest_even'
    """
    return Recipe(
        operands={
            "input": f"levels<{activations},unsigned>/nearest_even",
            "weight": f"block<levels<{weights}>,scale=float<8,23>>/nearest_even",
            "error": f"block<levels<{gradients}>,axis=0,scale=float<8,23>>/stochastic",
        },
        overrides={"@layers[0]": None, "@layers[-1]": None},
    )


@preset
def hbfp8(weights: int | None = None) -> Recipe:
    """Hybrid block floating point: 8-bit products, all else in float (Drumond et al. 2018, arXiv
    1804.01526).

    24×24 tiles with a 10-bit exponent each for all operands. The paper stores weights in such tiles
    of 16 bits, as `weights=16` does; by default they stay in float, and no optimizer is rounded.

    >>> str(hbfp8(weights=16).weight)
    'bfp<16,axis=(out,in),size=24,scale_bits=10>/nearest_even'
    """
    tiles = "axis=(out,in),size=24,scale_bits=10"
    return Recipe(
        weight=None if weights is None else f"bfp<{weights},{tiles}>/nearest_even",
        operands=dict.fromkeys(KINDS, "hbfp8/nearest_even"),
    )


@preset
def wage(weights: int = 2, activations: int = 8, gradients: int = 8, errors: int = 8) -> Recipe:
    """WAGE (Wu et al. 2018, arXiv 1802.04680), by default 2-8-8-8: ternary weights, 8-bit
    activations, gradients and errors.

    Weights in {-1/2, 0, 1/2}, nearest, of an accumulator on the grid of the gradients' bits.
    Updates reach it by stochastic rounding, the only one of gradients, in the authors' code too.
    Accumulator, weights and activations stay within ±(1 - 2^(1-bits)); activations are in fixed
    point. Errors are on a grid of 2^(1-bits) of the power of two next to the tensor's greatest, and
    clipped to that power.

    Not held, since they are the model's and the optimizer's part: WAGE goes on to drop the scales
    of errors, which leaves their direction. It divides each gradient by the power of two next to
    its greatest. It uses plain SGD with a learning rate that is a power of two. It starts from
    weights uniform within ±max(√(6/n), 1.5·2^(1-k)), n inputs to a sum and k bits of weights. It
    divides each layer's sums by the power of two next to 1.5·2^(1-k)/√(6/n) where that is above 1.

    weights, activations, gradients, errors : bits of each, from 2 to 16.

    >>> str(wage(weights=4).weight), str(wage(gradients=6).accumulator)
    ('fixed<4,3,symmetric>/nearest_even', 'fixed<6,5,symmetric>/stochastic_a')
    """
    for bits in (weights, activations, gradients, errors):
        check_int("the bits of a number of WAGE", bits, 2, 16)
    # ⌈log2(amax/(2^(bits-1)·√2))⌉ is log2 amax rounded, less bits - 1
    next_power = float(np.float32(2.0 ** (errors - 0.5)))
    return Recipe(
        weight=f"fixed<{weights},{weights - 1},symmetric>/nearest_even",
        accumulator=f"fixed<{gradients},{gradients - 1},symmetric>/stochastic",
        activation=f"fixed<{activations},{activations - 1},symmetric>/nearest_even",
        error=f"block<fixed<{errors},0,symmetric>,rule=rceil,top={next_power!r}>/nearest_even",
    )
