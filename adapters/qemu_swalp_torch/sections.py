"""Which call of this adapter applies which section of a recipe."""

from __future__ import annotations

from qemu_swalp.training import Recipe

CALLS = {
    "optimizer": "quantize_optimizer or SGD",
    "activations": "quantize_activations",
    "products": "quantize_gemms",
    "elementwise": "quantize_elementwise",
    "average": "Averager",
}


def check_section(recipe: Recipe, section: str) -> None:
    """ValueError if that section of the recipe is empty, with the call that applies the others."""
    recipe.check_section(section, CALLS[section], CALLS)
