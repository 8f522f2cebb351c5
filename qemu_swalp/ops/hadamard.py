"""Hadamard transforms along an axis, which spread outliers over their neighbours before a product
is rounded (clause OPS-4 of `spec/semantics.md`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from .. import kernels
from .._typing import ArrayT
from .._util.autograph import no_autograph
from .._util.checks import check_bool, check_int
from ..arrays import Array, Namespace, namespace_of
from ..arrays.dtypes import source_dtype
from ..random_bits import RandomBits, stream_id
from ..reference.context import BINARY32, Context
from ..reference.round_to_odd import in_dtype
from .arguments import as_array
from .quantize import quantize

LARGEST = 1 << 20
SIGNS = ("none", "fixed", "random")
COIN = ("uint1", "stochastic")
"""Rounds 1/2 to 0 or 1, either with probability 1/2."""


@dataclass(frozen=True)
class Hadamard:
    """A blockwise Hadamard transform, written `hadamard<SIZE>` or `hadamard<SIZE,signs=SIGNS>`.

    A vector is cut into blocks of `size` numbers; each is multiplied by signs, then by Sylvester's
    Hadamard matrix over √size. A rest that is shorter is cut into blocks of powers of two, the
    greatest first. The matrix is orthogonal, so where both operands of a product are transformed
    along the sum, with the same signs, the product stays the same.

    Parameters
    ----------
    size : of a block, a power of two of at most 2^20.
    signs : "none"; "random" for signs drawn at each call, one for each index of the axis. "fixed"
        for `size` signs that depend on the seed alone, as NVIDIA 2025 (arXiv 2509.25149) has them;
        or these signs themselves, as in "+-++".

    Raises
    ------
    TypeError: if `size` is not an int or `signs` not a string.
    ValueError: if the size is no power of two, or the signs are none of these.

    >>> Hadamard.parse("hadamard<4,signs=+-++>")
    Hadamard(size=4, signs='+-++')
    """

    size: int
    signs: str = "none"

    def __post_init__(self) -> None:
        check_int("size", self.size, 1, LARGEST)
        if self.size & (self.size - 1):
            raise ValueError(f"size must be a power of two, got {self.size}")
        if not isinstance(self.signs, str):
            raise TypeError(f"signs must be a string, got {self.signs!r}")
        if self.signs not in SIGNS and not (
            len(self.signs) == self.size and set(self.signs) <= set("+-")
        ):
            raise ValueError(
                f"signs must be {', '.join(map(repr, SIGNS))}, or size={self.size} characters + and"
                f" -, got {self.signs!r}"
            )

    @property
    def draws(self) -> bool:
        """Whether each call draws signs."""
        return self.signs == "random"

    @staticmethod
    def parse(transform: Hadamard | str) -> Hadamard:
        """A transform from itself or its string. TypeError or ValueError for what is neither."""
        if isinstance(transform, Hadamard):
            return transform
        if not isinstance(transform, str):
            raise TypeError(
                "a transform must be a Hadamard or a string such as 'hadamard<16,signs=random>',"
                f" got {transform!r}"
            )
        found = re.fullmatch(r"hadamard<(\d+)(?:,signs=([a-z]+|[+-]+))?>", transform.strip())
        if found is None:
            raise ValueError(
                f"cannot read the transform {transform!r}; transforms look like hadamard<16> or"
                " hadamard<16,signs=random>"
            )
        return Hadamard(int(found[1]), found[2] or "none")

    def __str__(self) -> str:
        signs = "" if self.signs == "none" else f",signs={self.signs}"
        return f"hadamard<{self.size}{signs}>"

    def stretches(self, length: int | Array) -> tuple[tuple[int | Array, int], ...]:
        """(blocks, size) of each stretch of a vector of that length, in order. A length that a
        traced graph leaves open gives every size, some of them with no block.
        """
        smaller = [1 << bit for bit in reversed(range(self.size.bit_length() - 1))]
        parts = (
            (length // self.size, self.size),
            *((length // size % 2, size) for size in smaller),
        )
        return tuple(part for part in parts if not (isinstance(part[0], int) and part[0] == 0))

    def constant_signs(self, seed: int) -> np.ndarray | None:
        """The signs of a block, float32 of shape (size,); None without, or if a call draws them."""
        if self.signs in ("none", "random"):
            return None
        if self.signs == "fixed":
            bits = RandomBits(seed, stream_id("hadamard"))
            half = np.full(self.size, 0.5, np.float32)
            return cast(np.ndarray, signs_from(quantize(half, *COIN, random=bits)))
        return np.array([1.0 if sign == "+" else -1.0 for sign in self.signs], np.float32)


def signs_from(coins: Any) -> Any:
    """1 for 0, and -1 for 1."""
    return 1 - 2 * coins


@no_autograph
def hadamard_transform(
    x: ArrayT,
    transform: Hadamard | str,
    *,
    axis: int = -1,
    random: RandomBits | None = None,
    inverse: bool = False,
) -> ArrayT:
    """x transformed along an axis.

    Sums and differences of pairs, log2(size) times, then one multiplication by size^(-1/2), each
    rounded to nearest. This is done in float32 for 16-bit arrays, whose results are rounded once
    more, else in the array's dtype. These are the same bits in every library, but for subnormal
    numbers, which JAX and TensorFlow may take for zeros.

    Parameters
    ----------
    x : floating array of at least one axis; a traced TensorFlow graph may leave lengths open.
    transform : a `Hadamard` or its string.
    axis : along which; the last by default.
    random : where `signs` is "random", which random bits: a word for each index of the axis; where
        it is "fixed", whose seed.
    inverse : whether the transform is undone: signs, where there are any, come last then.

    Returns
    -------
    array of x's library, shape and dtype.

    Raises
    ------
    TypeError: if x is not a floating array, or `transform` neither transform nor string.
    ValueError: if x has no such axis, or if signs are to be drawn and there is no `random`.

    >>> import numpy as np
    >>> hadamard_transform(np.float32([3.0, 0.0, 0.0, 0.0]), "hadamard<4>").tolist()
    [1.5, 1.5, 1.5, 1.5]
    """
    check_bool("inverse", inverse)
    transform = Hadamard.parse(transform)
    array = as_array(x)
    xp = namespace_of(array)
    ctx = Context(xp, source_dtype(xp.dtype(array)))
    lengths = xp.lengths(array)
    check_int("axis", axis, -len(lengths), len(lengths) - 1)
    if transform.signs in ("random", "fixed") and random is None:
        raise ValueError(
            f"{transform} draws its signs; pass random=, as in random=RandomBits(seed=0)"
        )
    axis %= len(lengths)
    narrow = ctx.dtype.storage == 16
    wide = in_dtype(ctx, array, BINARY32) if narrow else array
    signs = _signs(xp, transform, lengths[axis], wide, random)
    before = None if inverse else signs
    y = kernels.hadamard(xp, wide, axis, transform.size, before)
    if y is None:
        y = _by_reference(xp, wide, axis, transform, before)
    if inverse and signs is not None:
        after = [1] * (len(lengths) - 1 - axis)
        y = y * xp.reshape(signs, (lengths[axis], *after))
    if narrow:
        rounded = quantize(y, ctx.dtype.name.replace("bfloat", "bf").replace("float", "fp"))
        y = in_dtype(Context(xp, BINARY32), rounded, ctx.dtype)
    return cast(ArrayT, y)


def _by_reference(
    xp: Namespace, x: Array, axis: int, transform: Hadamard, signs: Array | None
) -> Array:
    lengths = xp.lengths(x)
    order = [*(i for i in range(len(lengths)) if i != axis), axis]
    turned = x if axis == len(lengths) - 1 else xp.permuted(x, order)
    lead = [lengths[i] for i in order[:-1]]
    y = transformed(
        turned if signs is None else turned * signs,
        transform.stretches(lengths[axis]),
        lambda a, tail: xp.reshape(a, (*lead, *tail)),
        xp.concatenate,
    )
    back = sorted(range(len(order)), key=order.__getitem__)
    return y if turned is x else xp.permuted(y, back)


def transformed(
    x: Any,
    stretches: Sequence[tuple[Any, int]],
    reshape: Callable[[Any, Sequence[Any]], Any],
    concatenate: Callable[[Sequence[Any], int], Any],
) -> Any:
    """x, to which signs were applied, transformed along its last axis by `Hadamard.stretches`.

    `reshape(x, tail)` gives the last axis of x the lengths `tail`; `concatenate` joins along an
    axis, the last being -1. The caller's functions make it differentiable and traceable.
    """
    parts, start = [], 0
    for blocks, size in stretches:
        part = x if len(stretches) == 1 else x[..., start : start + blocks * size]
        start += blocks * size
        if size > 1:
            part = reshape(part, (blocks, size))
            # Of the halves of a perfect shuffle, log2(size) times: Sylvester's order at the end.
            for _ in range(size.bit_length() - 1):
                part = concatenate(
                    [part[..., 0::2] + part[..., 1::2], part[..., 0::2] - part[..., 1::2]], -1
                )
            part = reshape(part * (1 / math.sqrt(size)), (blocks * size,))
        parts.append(part)
    return x if not parts else parts[0] if len(parts) == 1 else concatenate(parts, -1)


def _signs(
    xp: Namespace, transform: Hadamard, length: int | Array, like: Array, random: RandomBits | None
) -> Array | None:
    if transform.draws:
        return signs_from(quantize(xp.zeros((length,), like) + 0.5, *COIN, random=random))
    constant = transform.constant_signs(0 if random is None else random.seed)
    if constant is None:
        return None
    signs = in_dtype(
        Context(xp, BINARY32),
        xp.floats(xp.integers(constant.view(np.int32), 32), "float32"),
        source_dtype(xp.dtype(like)),
    )
    blocks = length // transform.size + 1
    rows = xp.broadcast(xp.reshape(signs, (1, transform.size)), (blocks, transform.size))
    return xp.first(xp.reshape(rows, (blocks * transform.size,)), length, 0)
