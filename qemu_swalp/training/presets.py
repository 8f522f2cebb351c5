"""Built-in presets: published recipes of low-precision training by name, for every adapter.

>>> print(recipe("fp8_hybrid"))
role            format                                                 rounding
──────────────  ─────────────────────────────────────────────────────  ────────────
forward.input   block<e4m3fn,scale=float<8,23>>                        nearest_even
forward.weight  block<e4m3fn,scale=float<8,23>>                        nearest_even
dgrad.error     block<float<5,2,overflow=saturate>,scale=float<8,23>>  nearest_even
dgrad.weight    block<e4m3fn,scale=float<8,23>>                        nearest_even
wgrad.error     block<float<5,2,overflow=saturate>,scale=float<8,23>>  nearest_even
wgrad.input     block<e4m3fn,scale=float<8,23>>                        nearest_even
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from .._util.checks import check_choice
from ..formats import bfp
from ..ops.quantizer import Quantizer
from .recipe import Recipe

KINDS = ("input", "weight", "error")
"""The operands of matrix products, each for both products that it is in."""

_PRESETS: dict[str, Callable[[], Recipe]] = {}


def recipe(name: str) -> Recipe:
    """The preset of that name.

    ValueError if the name is not one of `recipe_names()`; it suggests the nearest.

    >>> recipe("swalp8") == swalp(8), recipe("mxfp8").quantizer("wgrad.error").format.size
    (True, 32)
    """
    check_choice("the name of a recipe", name, recipe_names())
    return _PRESETS[name]()


def recipe_names() -> tuple[str, ...]:
    """Names of all presets: the built-in ones, then those registered."""
    return tuple(_PRESETS)


def register_recipe(name: str, recipe: Recipe) -> Recipe:
    """Give a recipe a name, by which every call that accepts a recipe finds it. Returns the recipe.

    TypeError if `name` is not a string or `recipe` not a Recipe. ValueError if the name stands for
    another recipe already.
    """
    if not isinstance(recipe, Recipe) or not isinstance(name, str):
        raise TypeError(
            "register_recipe needs a name, which is a string, and a Recipe, got"
            f" {name!r} and {recipe!r}"
        )
    if name in _PRESETS and _PRESETS[name]() != recipe:
        raise ValueError(f"the name {name!r} stands for another recipe already; choose another")
    _PRESETS.setdefault(name, lambda: recipe)
    return recipe


def as_recipe(recipe: Recipe | str) -> Recipe:
    """The recipe itself, or the preset of that name.

    TypeError if it is neither a Recipe nor a string. ValueError if no preset has that name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str) and recipe in _PRESETS:
        return _PRESETS[recipe]()
    kind = ValueError if isinstance(recipe, str) else TypeError
    raise kind(
        "recipe must be a qemu_swalp.training.Recipe, such as swalp(8) or Recipe(weight='bfp8'),"
        f" or the name of a preset, one of {', '.join(recipe_names())}; got {recipe!r}"
    )


def _preset(function: Callable[[], Recipe]) -> Callable[[], Recipe]:
    _PRESETS[function.__name__] = function
    return function


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


@_preset
def swalp8() -> Recipe:
    """SWALP with 8-bit small-block floating point for every number (Yang et al. 2019, arXiv
    1904.11943).

    Average the iterates in full precision to have what the paper has.
    """
    return swalp(8)


@_preset
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


@_preset
def fp8_hybrid() -> Recipe:
    """FP8 products: e4m3 forward, e5m2 for errors (Micikevicius et al. 2022, arXiv 2209.05433).

    Each matrix has a float32 scale, amax divided by the format's greatest value, from its present
    numbers (TransformerEngine's "current scaling" of `Format.HYBRID`).
    """
    forward = "block<e4m3fn,scale=float<8,23>>/nearest_even"
    backward = "block<float<5,2,overflow=saturate>,scale=float<8,23>>/nearest_even"
    return Recipe(operands={"input": forward, "weight": forward, "error": backward})


@_preset
def fp8_ibm() -> Recipe:
    """FP8 products summed up in 16 bits (Wang et al. 2018, arXiv 1812.08011).

    Operands in float<5,2>, saturating here; sums in float<6,9>, to nearest, by chunks of 64;
    weights and momentum in float<6,9>, stochastic. The paper scales the loss by 1,000, and keeps
    the operands of the last layer and the images in 16 bits: leave the last layer out by exclude=.
    """
    operand, sixteen = "float<5,2,overflow=saturate>/nearest_even", "float<6,9>/stochastic"
    return Recipe(
        weight=sixteen,
        momentum=sixteen,
        operands=dict.fromkeys(KINDS, operand),
        sums="float<6,9>/nearest_even; chunk=64",
    )


@_preset
def fp8_deepseek() -> Recipe:
    """DeepSeek-V3's FP8 products (DeepSeek-AI 2024, arXiv 2412.19437, section 3.3).

    e4m3 everywhere; inputs and errors in 1×128 runs along the sum (so that wgrad rounds them anew,
    along the batch), weights in 128×128 tiles, which serve forward and backward alike; float32
    scales from present numbers. Sums are float32, as the paper's promotion every 128 products aims
    at.
    """
    run = "fp8_1x128/nearest_even"
    return Recipe(operands={"input": run, "error": run, "weight": "fp8_128x128/nearest_even"})


@_preset
def mxfp8() -> Recipe:
    """MXFP8 products: e4m3 for all operands, 32-wide blocks along the sum (Mishra et al. 2025,
    arXiv 2506.08027).

    The scale is rounded up, so that nothing saturates; with OCP MX 1.0's, rounded down, they saw
    training diverge.
    """
    return Recipe(
        operands=dict.fromkeys(
            KINDS, "block<e4m3fn,axis=sum,size=32,scale=e8m0fnu,rule=rceil>/nearest_even"
        )
    )


@_preset
def mxfp4() -> Recipe:
    """MXFP4 products (OCP MX 1.0), errors rounded stochastically, as in Tseng et al. 2025, arXiv
    2502.20586.

    That paper keeps the forward product in 16 bits, transforms the backward operands by random
    Hadamard matrices, and shrinks them by 3/4 so that stochastic rounding is never clipped; none of
    it is in a recipe. Drop the forward operands for its placement.
    """
    return Recipe(
        operands={
            "input": "mxfp4/nearest_even",
            "weight": "mxfp4/nearest_even",
            "error": "mxfp4/stochastic",
        }
    )


@_preset
def nvfp4() -> Recipe:
    """NVFP4 products (NVIDIA 2025, arXiv 2509.25149): 1×16 blocks for inputs and errors, 16×16 for
    weights.

    Errors are rounded stochastically. The paper also transforms wgrad's operands by random Hadamard
    matrices, which is in no recipe, and keeps some layers in bf16, mostly the last: leave them out
    by exclude=.
    """
    tiles = (
        "block<e2m1fn,axis=(-2,-1),size=16,scale=e4m3fn,rule=transformer_engine,"
        "second=float<8,23>>/nearest_even"
    )
    return Recipe(
        operands={"input": "nvfp4/nearest_even", "weight": tiles, "error": "nvfp4/stochastic"}
    )


@_preset
def hbfp8() -> Recipe:
    """Hybrid block floating point: 8-bit products, all else in float (Drumond et al. 2018, arXiv
    1804.01526).

    24×24 tiles with a 10-bit exponent each for all operands. The paper stores weights with 16 bits;
    here they stay in float.
    """
    return Recipe(operands=dict.fromkeys(KINDS, "hbfp8/nearest_even"))


@_preset
def wage() -> Recipe:
    """WAGE 2-8-8-8 (Wu et al. 2018, arXiv 1802.04680): ternary weights, 8-bit activations,
    gradients and errors.

    Weights in {-1/2, 0, 1/2} from an 8-bit accumulator; activations in 8-bit fixed point; errors
    under one power of two for each tensor, gradients likewise and stochastic. WAGE goes on to drop
    the scales of errors and gradients, uses plain SGD with a learning rate that is a power of two,
    and scales each layer by a constant: these are the model's and the optimizer's part.
    """
    return Recipe(
        weight="fixed<2,1,symmetric>/nearest_even",
        accumulator="fixed<8,7,symmetric>/stochastic",
        activation="fixed<8,7,symmetric>/nearest_even",
        error="bfp8/nearest_even",
        gradient="bfp8/stochastic",
    )
