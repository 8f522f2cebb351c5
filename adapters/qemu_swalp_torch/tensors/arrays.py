"""Quantizers of the parameters of an optimizer, and rounding of many tensors in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qemu_swalp import RandomBits
from qemu_swalp.arrays import Array
from qemu_swalp.formats.axis_words import Axis, Layout
from qemu_swalp.interop.torch import has_gradient, is_dtensor, rounded, viewed
from qemu_swalp.ops.round_many import round_many
from qemu_swalp.training import ROLES, Quantizer, Recipe, TensorRandomBits

from .observers import Label, observe, watched


class TensorQuantizer(Quantizer):
    """A quantizer of what the core's step functions are handed here: the arrays of `array_of`,
    DTensors among them.
    """

    label: Label

    @staticmethod
    def of(quantizer: Quantizer, name: str, role: str) -> TensorQuantizer:
        """The same quantizer, of a role of the parameter of that name."""
        converted = TensorQuantizer(quantizer.format, quantizer.rounding)
        object.__setattr__(converted, "label", Label(name, role))
        return converted

    def resolve(self, layout: Layout | None = None, /, **axes: Axis) -> TensorQuantizer:
        resolved = super().resolve(layout, **axes)
        return TensorQuantizer.of(resolved, self.label.name, self.label.role)

    @property
    def plain(self) -> bool:
        return not watched()

    def __call__(self, x: Array, random: RandomBits | None = None, out: Array | None = None) -> Any:
        if isinstance(x, Tensor) and has_gradient(x):
            return rounded(x, self, random)
        if not isinstance(x, Tensor) or not is_dtensor(x):
            observe(self.label, x, self, random)
            return super().__call__(x, random, out)
        from .dtensor import round_shard

        return round_shard(x, self, random)


def on_tensors(recipe: Recipe, parameter: str) -> Recipe:
    """A recipe without overrides whose quantizers are `TensorQuantizer`s of the parameter of that
    name.
    """

    def converted(role: str, quantizer: Quantizer | None) -> Quantizer | None:
        return None if quantizer is None else TensorQuantizer.of(quantizer, parameter, role)

    roles: dict[str, Any] = {role: converted(role, recipe.quantizer(role)) for role in ROLES}
    return replace(
        recipe,
        **roles,
        state=tuple((name, converted(name, quantizer)) for name, quantizer in recipe.state),
    )


def rounded_for(x: Tensor, quantizer: Quantizer, draw: TensorRandomBits, role: str) -> Tensor:
    """x `rounded`, with the random bits of a role."""
    return rounded(x, quantizer, random_for(quantizer, draw, role))


def random_for(quantizer: Quantizer, draw: TensorRandomBits, role: str) -> RandomBits | None:
    """The random bits that a quantizer takes for a role."""
    return draw(role) if quantizer.rounding.stochastic else None


def round_all(tensors: Sequence[tuple[Tensor, Quantizer, RandomBits | None]]) -> None:
    """Round tensors in place, in as few calls of the kernels as possible."""
    if not tensors:
        return
    xs, quantizers, random = zip(*tensors, strict=True)
    with torch.no_grad():
        for x, quantizer, bits, done in zip(
            xs,
            quantizers,
            random,
            round_many([viewed(x) for x in xs], quantizers, random),
            strict=True,
        ):
            if done:
                torch.autograd.graph.increment_version(x)
            else:
                x.copy_(rounded(x, quantizer, bits))
