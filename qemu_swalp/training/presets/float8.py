"""Presets of 8-bit floating point."""

from __future__ import annotations

from dataclasses import replace

from ..delayed import Delayed
from ..recipe import Recipe
from .registry import KINDS, in_float, preset


@preset
def fp8_hybrid() -> Recipe:
    """FP8 products: e4m3 forward, e5m2 for errors (Micikevicius et al. 2022, arXiv 2209.05433).

    Each matrix has a float32 scale, amax divided by the format's greatest value, from its present
    numbers (TransformerEngine's "current scaling" of `Format.HYBRID`).
    """
    forward = "block<e4m3fn,scale=float<8,23>>/nearest_even"
    backward = "block<float<5,2,overflow=saturate>,scale=float<8,23>>/nearest_even"
    return Recipe(operands={"input": forward, "weight": forward, "error": backward})


@preset
def fp8_delayed(history: int = 1024, margin: int = 0, amax: str = "max", lag: int = 0) -> Recipe:
    """`fp8_hybrid` with delayed scaling (TransformerEngine's `DelayedScaling`, with its defaults;
    Micikevicius et al. 2022, arXiv 2209.05433).

    Options are those of `Delayed`. TransformerEngine takes the greatest amax of all processes; here
    each process has its own.
    """
    return replace(fp8_hybrid(), scaling=Delayed(history, margin, amax, lag))  # type: ignore[arg-type]


@preset
def fp8_ibm(loss_scale: float = 1000.0) -> Recipe:
    """FP8 products summed up in 16 bits (Wang et al. 2018, arXiv 1812.08011).

    Operands in float<5,2>, saturating here; sums in float<6,9>, to nearest, by chunks of 64;
    weights and momentum in float<6,9>, stochastic. The last layer has its operands in 16 bits, the
    first its input, the images. The paper scales the loss by 1,000: here errors are multiplied by
    that before they are rounded, and the products divided by it (`loss_scale`).
    """
    operand, sixteen = "float<5,2,overflow=saturate>/nearest_even", "float<6,9>/nearest_even"
    stochastic = "float<6,9>/stochastic"
    inner = Recipe(
        weight=stochastic,
        momentum=stochastic,
        operands=dict.fromkeys(KINDS, operand),
        sums="float<6,9>/nearest_even; chunk=64",
        factors={"error": loss_scale},
    )
    first = {"input": sixteen, "weight": operand, "error": operand}
    return replace(
        inner,
        overrides={  # type: ignore[arg-type]
            "@layers[-1]": replace(inner, operands=dict.fromkeys(KINDS, sixteen)),  # type: ignore[arg-type]
            "@layers[0]": replace(inner, operands=first),  # type: ignore[arg-type]
        },
    )


@preset
def s2fp8(results: bool = False) -> Recipe:
    """S2FP8 (Cambier et al. 2020, arXiv 2001.05674): the operands of all products in float<5,2>
    after a shift and a squeeze of their logarithms.

    Each tensor has its own two numbers, from present values (`Squeezed`). Products are summed up in
    float32; weights stay in float32; no loss scaling, no layer left out, rounding to nearest, all
    as in the paper. `results=True` rounds what layers give, and its gradient, as well: this could
    not be told from the sources at hand.
    """
    kind = "squeezed<e5m2>/nearest_even"
    result = kind if results else None
    return Recipe(activation=result, error=result, operands=dict.fromkeys(KINDS, kind))


PROMOTED = "float<8,13>/toward_zero; group=32; chunk=128; total=float<8,23>/nearest_even"
"""A model of sums on H800 GPUs, whose tensor cores retain some 14 bits, that are promoted to
float32 every 128 products, which are 4 of their instructions; that they truncate is an assumption.
"""


@preset
def fp8_deepseek(promoted: bool = False, last: str | None = None) -> Recipe:
    """DeepSeek-V3's FP8 products (DeepSeek-AI 2024, arXiv 2412.19437, section 3.3).

    e4m3 everywhere; inputs and errors in 1×128 runs along the sum (so that wgrad rounds them anew,
    along the batch), weights in 128×128 tiles, which serve forward and backward alike. They have
    float32 scales from present numbers. Sums are float32, as the paper's promotion every 128
    products aims at; `promoted=True` sums up as these GPUs do (`PROMOTED`), which takes much
    longer. The paper keeps attention, embeddings, normalization and the head in 16 bits, for
    which `emulate` has `attention=False`, and this `last="@layers[-1]"`, the layers left in float.
    """
    run = "fp8_1x128/nearest_even"
    return Recipe(
        operands={"input": run, "error": run, "weight": "fp8_128x128/nearest_even"},
        sums=PROMOTED if promoted else (),
        overrides=in_float(last),
    )


@preset
def mxfp8(last: str | None = None) -> Recipe:
    """MXFP8 products: e4m3 for all operands, 32-wide blocks along the sum (Mishra et al. 2025,
    arXiv 2506.08027).

    The scale is rounded up, so that nothing saturates; with OCP MX 1.0's, rounded down, they saw
    training diverge. The paper keeps attention's products, embeddings and the last projection in
    16 bits, for which `emulate` has `attention=False`, and this `last="@layers[-1]"`, the layers
    left in float.
    """
    return Recipe(
        operands=dict.fromkeys(
            KINDS, "block<e4m3fn,axis=sum,size=32,scale=e8m0fnu,rule=rceil>/nearest_even"
        ),
        overrides=in_float(last),
    )
