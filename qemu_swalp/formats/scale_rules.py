"""Rules of one's own for the scales of blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..arrays import Array, forget_programs
from .base import forget_strings
from .scale import RULES


class BlockView(NamedTuple):
    """What a scale rule of one's own sees: arrays of the array's own library, of float32 (of
    float64 sources float64), with an entry for each block but for `values`.
    """

    amax: Array
    """The greatest finite magnitude of each block."""
    values: Array
    """The elements, 0 for infinities and NaN."""
    maximum: Callable[[Array], Array]
    """The greatest of numbers like `values`, none below zero, in each block."""
    total: Callable[[Array], Array]
    """Their sum in each block; its last bits differ from library to library."""
    count: Array
    """How many elements each block has."""
    top: float
    """What the built-in rules bring amax to: the format's `top`."""
    xp: Any
    """The array library's functions: `maximum`, `minimum`, `where`, `abs`, …"""


ScaleRule = Callable[[BlockView], Array]
"""The scale of each block: an array like `amax`."""


def _quest(block: BlockView) -> Array:
    """QuEST's scale: the clip of least error of a normal distribution, by the block's deviation."""
    mean = block.total(block.values) / block.count
    variance = block.total(block.values * block.values) / block.count - mean * mean
    return block.xp.sqrt(block.xp.maximum(variance, 0 * variance)) * (2.92247856 / block.top)


PROVIDED: dict[str, ScaleRule] = {"quest": _quest}
"""Rules that are written as one's own are, and come with the package."""

OWN_RULES: dict[str, ScaleRule] = dict(PROVIDED)
"""These and rules of one's own, by name."""


def register_scale_rule(name: str, rule: ScaleRule) -> None:
    """Let a name stand for a scale rule of one's own, as `rule=` of `Block`.

    It then serves every array library and every element format, in the reference implementation.
    What it gives is rounded to the format of scales as computed scales are (clause BLK-8), to a
    power of two downwards where scales are such. Zero becomes the least scale, and what is negative
    or not finite makes its block NaN. The array library computes it: libraries agree to the bit
    where that arithmetic is exact, such as products with powers of two.

    Parameters
    ----------
    name : an identifier that is no built-in rule; an earlier rule of that name is replaced.
    rule : a function of `BlockView` that gives an array like its `amax`.

    Raises
    ------
    ValueError: if the name is built in, or no identifier.
    TypeError: if `rule` cannot be called.

    >>> import numpy as np, qemu_swalp as q
    >>> register_scale_rule("mean_abs", lambda b: b.total(abs(b.values)) / b.count)
    >>> x = np.float32([[1.0, -3.0], [0.5, 0.1]])
    >>> q.quantize(x, "block<binary,axis=0,scale=float<8,23>,rule=mean_abs>").tolist()
    [[2.0, -2.0], [0.30000001192092896, 0.30000001192092896]]
    >>> unregister_scale_rule("mean_abs")
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"name must be an identifier, such as 'mean_abs', got {name!r}")
    if name in RULES or name in PROVIDED:
        raise ValueError(f"the scale rule {name!r} is built in; choose another name")
    if not callable(rule):
        raise TypeError(f"rule must be a function of BlockView, got {rule!r}")
    OWN_RULES[name] = rule
    forget_strings()
    forget_programs()


def unregister_scale_rule(name: str) -> None:
    """Forget a rule that `register_scale_rule` has named. ValueError without one."""
    if name not in OWN_RULES or name in PROVIDED:
        raise ValueError(f"no scale rule of that name is registered, got {name!r}")
    del OWN_RULES[name]
    forget_strings()
    forget_programs()
