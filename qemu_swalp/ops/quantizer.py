"""A format together with a rounding mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from .._typing import ArrayT, Numbers
from .._util.autograph import no_autograph
from ..formats import Format, parse
from ..formats.axis_words import Axis, Layout
from ..formats.dtypes import dtype_name
from ..random_bits import RandomBits
from ..reference.context import Target
from ..rounding import Rounding
from .arguments import policy_of
from .quantize import quantize


@dataclass(frozen=True)
class Quantizer:
    """A format and a rounding mode, written `FORMAT/ROUNDING` (clause STR-2); called on arrays, it
    rounds them.

    A format alone is rounded to nearest, ties to even, as everywhere.

    >>> str(Quantizer("bfp8/stochastic")), Quantizer("e4m3fn")([0.1]).tolist()
    ('bfp8/stochastic_a', [0.1015625])
    """

    format: Format
    rounding: Rounding

    def __init__(self, format: Format | str, rounding: Rounding | str | None = None) -> None:
        if isinstance(format, str) and rounding is None:
            format, slash, after = format.partition("/")
            rounding = after if slash else None
        object.__setattr__(self, "format", parse(format))
        object.__setattr__(self, "rounding", Rounding.parse(rounding or "nearest_even"))

    @overload
    def __call__(
        self, x: Numbers, random: RandomBits | None = ..., out: np.ndarray | None = ...
    ) -> np.ndarray: ...

    @overload
    def __call__(
        self, x: ArrayT, random: RandomBits | None = ..., out: ArrayT | None = ...
    ) -> ArrayT: ...

    @no_autograph
    def __call__(self, x: Any, random: RandomBits | None = None, out: Any = None) -> Any:
        """`quantize(x, format, rounding)`; `random` counts for stochastic rounding only."""
        return quantize(x, self.format, self.rounding, random=random, out=out)

    @property
    def plain(self) -> bool:
        """Whether a call does no more than `quantize`, so that a fused step may do it instead."""
        return True

    @property
    def target(self) -> Target:
        """What it rounds to, for the functions that compute."""
        return Target(self.format, policy_of(self.format, None), self.rounding)

    @property
    def axis_words(self) -> tuple[str, ...]:
        """The words among the axes of its format."""
        return self.format.axis_words

    def resolve(self, layout: Layout | None = None, /, **axes: Axis) -> Quantizer:
        """The quantizer with numbers for the words among the axes of its format (`Format.resolve`).

        >>> str(Quantizer("bfp<8,axis=out>/stochastic").resolve(out=-1))
        'bfp<8,axis=-1>/stochastic_a'
        """
        return Quantizer(self.format.resolve(layout, **axes), self.rounding)

    def __str__(self) -> str:
        return f"{self.format}/{self.rounding}"

    @staticmethod
    def parse(quantizer: Quantizer | Format | str) -> Quantizer:
        """A quantizer from a quantizer, a format or a string."""
        if isinstance(quantizer, Quantizer):
            return quantizer
        if not isinstance(quantizer, Format | str) and dtype_name(quantizer) is None:
            raise TypeError(
                "a quantizer must be a Quantizer, a Format or a string such as 'bfp8/stochastic', "
                f"got {quantizer!r}"
            )
        return Quantizer(quantizer)
