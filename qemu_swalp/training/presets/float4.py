"""Presets of 4-bit floating point."""

from __future__ import annotations

from dataclasses import replace

from ..recipe import Recipe
from .registry import in_float, preset

NVFP4_TILES = (
    "block<e2m1fn,axis=(-2,-1),size=16,scale=e4m3fn,rule=transformer_engine,"
    "second=float<8,23>>/nearest_even"
)


@preset
def mxfp4(hadamard: int = 64, forward: str | None = None) -> Recipe:
    """MXFP4 in the backward products (Tseng et al. 2025, arXiv 2502.20586).

    Both operands of dgrad and wgrad are transformed by random Hadamard matrices along the sum, in
    blocks of `hadamard`, and rounded stochastically. The paper takes OCP MX's scale and shrinks
    what it has scaled by 3/4, so that stochastic rounding is never clipped. Here the operand is
    shrunk and then its scale rounded up, which is the same, unless 3/4 of the greatest number of a
    block is exactly 3·2^k. The product is multiplied by 16/9. `forward` is the quantizer of both
    operands of the forward product, which the paper leaves in bf16, as autocast does. Attention
    stays in 16 bits there, too, as it does with `attention=False` of `emulate`.
    """
    backward = "block<e2m1fn,axis=sum,size=32,scale=e8m0fnu,rule=rceil>/stochastic"
    names = ("dgrad.error", "dgrad.weight", "wgrad.error", "wgrad.input")
    return Recipe(
        operands={
            "forward.input": forward,
            "forward.weight": forward,
            **dict.fromkeys(names, backward),
        },
        transforms=dict.fromkeys(("dgrad", "wgrad"), f"hadamard<{hadamard},signs=random>"),
        factors=dict.fromkeys(names, 0.75),
    )


@preset
def nvfp4(last: str | None = "@layers[-15%:]", signs: str = "fixed") -> Recipe:
    """NVFP4 products (NVIDIA 2025, arXiv 2509.25149): 1×16 blocks for inputs and errors, 16×16 for
    weights.

    Errors are rounded stochastically; both operands of wgrad are transformed by 16×16 Hadamard
    matrices with signs that stay the same throughout the training. The last 15 % of the linear
    layers are left in float: `last` says which, since the paper chooses by model; None rounds all.
    `signs` may be those of TransformerEngine, "+++-+------+-+--". Attention, embeddings and
    normalization stay in 16 bits there: `emulate(…, attention=False)` leaves attention so.
    """
    return Recipe(
        operands={
            "input": "nvfp4/nearest_even",
            "weight": NVFP4_TILES,
            "error": "nvfp4/stochastic",
        },
        transforms={"wgrad": f"hadamard<16,signs={signs}>"},
        overrides=in_float(last),
    )


@preset
def fp4_all_the_way() -> Recipe:
    """NVFP4 in all products (Chmiel et al. 2025, arXiv 2505.19115).

    Blocks of 16 along the sum; the errors of both backward products and the input of wgrad are
    rounded stochastically, all else to nearest. The paper goes on in higher precision at the end of
    the training.
    """
    near, stochastic = "nvfp4/nearest_even", "nvfp4/stochastic"
    return Recipe(
        operands={
            "input": near,
            "weight": near,
            "error": stochastic,
            "wgrad.input": stochastic,
        }
    )


@preset
def quartet(hadamard: int = 32, rule: str = "quest", backward: str | None = "rounded") -> Recipe:
    """MXFP4 in all products (Quartet, Castro et al. 2025, arXiv 2505.14669, algorithm 1, and the
    authors' code).

    Forward both operands are transformed by Hadamard matrices without signs, in blocks of
    `hadamard` along the sum, and rounded to nearest (the QuEST projection). The scale of a block is
    the power of two at or below 2.92/6 of its deviation, `rule`; "mse" searches for the least
    squared error. The backward products take what the forward rounded, and their gradients are zero
    where it clipped, and transformed back; `backward=None` takes the numbers before rounding,
    straight through. Operands of dgrad and wgrad are transformed with random signs,
    shrunk by 3/4 and rounded stochastically, as in `mxfp4`.
    """
    near = f"block<e2m1fn,axis=sum,size=32,scale=e8m0fnu,rule={rule}>/nearest_even"
    recipe = mxfp4(hadamard, near)
    forward = {"forward": f"hadamard<{hadamard}>"}
    return replace(
        recipe,
        transforms={**dict(recipe.transforms), **forward},  # type: ignore[arg-type]
        backward=backward,
    )
