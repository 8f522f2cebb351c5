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

from .fixed_and_blocks import bf16_kahan, bf16_sr, dorefa, fixed_point, hbfp8, swalp, swalp8, wage
from .float4 import fp4_all_the_way, mxfp4, nvfp4, quartet
from .float8 import fp8_deepseek, fp8_delayed, fp8_hybrid, fp8_ibm, mxfp8, s2fp8
from .registry import as_recipe, recipe, recipe_names, register_recipe

__all__ = [
    "as_recipe",
    "bf16_kahan",
    "bf16_sr",
    "dorefa",
    "fixed_point",
    "fp4_all_the_way",
    "fp8_deepseek",
    "fp8_delayed",
    "fp8_hybrid",
    "fp8_ibm",
    "hbfp8",
    "mxfp4",
    "mxfp8",
    "nvfp4",
    "quartet",
    "recipe",
    "recipe_names",
    "register_recipe",
    "s2fp8",
    "swalp",
    "swalp8",
    "wage",
]
