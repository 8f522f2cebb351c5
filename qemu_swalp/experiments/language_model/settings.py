"""What `qemu-swalp reproduce language-model` lets a user choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...training import Recipe, recipe, recipe_names
from ...training.roles import KINDS
from ..common.settings import RunSettings, option

FLOAT, BF16 = "float32", "bf16"
OWN = {
    BF16: lambda: Recipe(operands=dict.fromkeys(KINDS, "bf16/nearest_even")),
    "mxfp4": lambda: recipe("mxfp4", forward="bf16/nearest_even"),
}
"""Recipes that no preset's defaults give: operands as autocast has them, and MXFP4 with them in the
forward products, as its authors have it.
"""


@dataclass(frozen=True)
class Settings(RunSettings):
    """Options of `qemu-swalp reproduce language-model`."""

    chosen: ClassVar[tuple[str, ...]] = ("seed", "seeds", "recipes")

    seeds: int = option(3, "number of runs, with seeds SEED, SEED + 1, …", quick=2, above=0)
    recipes: tuple[str, ...] = option(
        (FLOAT, BF16, "swalp8", "mxfp8", "nvfp4", "mxfp4"),
        "recipes, as published, but for the last layer, which stays in float in all; each in a run"
        " of its own",
        choices=(FLOAT, BF16, *recipe_names()),
        quick=(FLOAT, "nvfp4"),
    )
    steps: int = option(600, "mini-batch steps", quick=8, above=1)
    fork: int = option(
        300, "steps before averaging, and before the decayed run parts", quick=4, above=0
    )
    learning_rate: float = option(2e-3, "of AdamW, constant after the warm-up", above=0)
    warm_up: int = option(50, "steps in which the rate rises, linearly", quick=2, above=-1)
    floor: float = option(0.01, "part of the rate to which it decays", above=0, most=1)
    weight_decay: float = option(0.1, "of AdamW", above=-1)
    batch: int = option(16, "windows in a mini-batch", quick=2, above=0)
    context: int = option(128, "bytes of a window", quick=32, above=1)
    width: int = option(128, "numbers that stand for a byte", quick=32, above=0)
    depth: int = option(3, "blocks of attention and perceptron", quick=2, above=0)
    heads: int = option(4, "of attention", quick=2, above=0)
    held_out: int = option(256, "windows of held-out files to judge by", quick=8, above=0)
    cycle: int = option(10, "lawa: steps between iterates", quick=1, above=0)
    lawa_size: int = option(6, "lawa: number of latest iterates", quick=2, above=0)
    ema_decay: float = option(
        0.98, "ema: part of the average that a step keeps", above=-1, most=0.999999
    )
    save_every: int = option(
        50, "steps between checkpoints and points of the curve", quick=3, above=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fork >= self.steps:
            raise ValueError(
                "--fork must be less than --steps, or nothing is averaged; "
                f"got {self.fork} and {self.steps}"
            )
        if self.width % self.heads:
            raise ValueError(
                f"--width must be a multiple of --heads, got {self.width} and {self.heads}"
            )

    def recipe(self, name: str) -> Recipe | None:
        """Of that name; None for float32."""
        if name == FLOAT:
            return None
        return OWN[name]() if name in OWN else recipe(name)

    def rate(self, step: int, decayed: bool) -> float:
        """Of the step, the first being 0: a trapezoid, or the constant part alone.

        >>> settings = Settings()
        >>> [settings.rate(step, True) for step in (0, 24, 49, 299, 450, 599)]
        [4e-05, 0.001, 0.002, 0.002, 0.00101, 2.66e-05]
        """
        rise = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        fall = max(0, step - self.fork) / (self.steps - self.fork) if decayed else 0.0
        return round(self.learning_rate * rise * (1 - (1 - self.floor) * fall), 12)
