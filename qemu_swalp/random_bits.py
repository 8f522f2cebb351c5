"""Counter-based random bits (clauses RNG-1 to RNG-4). Stateless: the same counters give the same
bits in every array library, on any device, in any chunking.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

from ._util.checks import check_int
from .arrays import Array, Namespace

MASK = 0xFFFFFFFF
ROUNDS = 10
FACTORS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
PRODUCT, SUM, TOTAL = 1, 2, 3
"""Kinds of roundings that a product of matrices makes (clause SUM-5)."""


@dataclass(frozen=True)
class RandomBits:
    """Where in the random sequence an array stands.

    Parameters
    ----------
    seed : 0..2^64-1; chosen by the user, the same throughout a run.
    stream : 0..2^64-1; who draws: see `stream_id`. Two tensors that must not share their noise need
        two streams.
    step : 0..2^32-1; when: the index of the step. May be a 0-d integer array of a graph library.
    offset : index in the global array, in C order, of the first element (for chunks and shards),
        0..2^34-1.
    part : which of the roundings that one call makes, as (number, kind); each has a key of its own
        (clause SUM-5).

    >>> import numpy as np
    >>> from qemu_swalp import quantize
    >>> random = RandomBits(seed=1, step=7)
    >>> quantize(np.full(4, 0.3), "fixed<8,0>", "stochastic", random=random).tolist()
    [0.0, 0.0, 0.0, 1.0]
    """

    seed: int = 0
    stream: int = 0
    step: int | Array = 0
    offset: int = 0
    part: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        check_int("seed", self.seed, 0, 2**64 - 1)
        check_int("stream", self.stream, 0, 2**64 - 1)
        check_int("offset", self.offset, 0, 2**34 - 1)
        self._check_step()

    def at(self, step: int | Array) -> RandomBits:
        """The same sequence at another step, the only thing that is validated again."""
        bits: RandomBits = object.__new__(RandomBits)
        bits.__dict__.update(self.__dict__, step=step)
        bits._check_step()
        return bits

    def _check_step(self) -> None:
        if isinstance(self.step, bool | int | float | str):
            check_int("step", self.step, 0, MASK)

    @property
    def key(self) -> tuple[int, int]:
        """Philox key of the stream, or of its part."""
        return stream_key(self.seed, self.stream, self.part)

    def words(self, xp: Namespace, shape: tuple[int | Array, ...], like: Array) -> Array:
        """One random word for each element (clause RNG-3): int32 array of the same bits, of that
        shape.
        """
        return self.counters(xp, shape).words(xp, shape, like)

    def check_reach(self, shape: tuple[int | Array, ...]) -> None:
        """ValueError where an array of that shape ends beyond the sequence."""
        count = math.prod(length for length in shape if isinstance(length, int))
        if self.offset + count > 2**34:
            raise ValueError(
                f"random bits reach 2^34 elements of an array, asked for {self.offset + count}"
            )

    def counters(self, xp: Namespace, shape: tuple[int | Array, ...]) -> Counters:
        """The counters of an array of that shape. ValueError where it ends beyond the sequence."""
        self.check_reach(shape)
        keys = round_keys(*self.key)
        return Counters(*map(xp.as_words, (self.offset // 4, self.offset % 4, self.step, keys)))


class Counters(NamedTuple):
    """The numbers behind the random words of an array, as 0-d words: data, so that one compiled
    program serves every stream, step and offset.

    first : block of the first element. skipped : 0..3, words of that block before it. step : as in
        `RandomBits`.
    keys : `round_keys` of the stream.
    """

    first: Any
    skipped: Any
    step: Any
    keys: Any

    def words(self, xp: Namespace, shape: tuple[int | Array, ...], like: Array) -> Array:
        """As `RandomBits.words`."""
        count = math.prod(shape)
        device = xp.generator_device(like)
        if device is not None and generator_agrees(xp, device):
            flat = xp.generate(self.first, self.skipped, count, self.step, self.keys[0])
        else:
            blocks = xp.block_numbers(self.first, self.skipped, count, like)
            flat = xp.words(
                philox(xp, (blocks, self.step, *self.keys[0]), self.keys), self.skipped, count
            )
        return xp.reshape(flat, shape)


def stream_id(role: str, tensor: int = 0) -> int:
    """The stream of the tensor of that index in a role such as "weight" or "exp_avg" (clause
    RNG-4).
    """
    if not isinstance(role, str):
        raise TypeError(f"role must be a string such as 'weight', got {role!r}")
    check_int("tensor", tensor, 0, MASK)
    return zlib.crc32(role.encode()) << 32 | tensor


@lru_cache(maxsize=65536)
def stream_key(seed: int, stream: int, part: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Philox key of a stream (clause RNG-2), or of a part of it (clause SUM-5)."""
    k0, k1, _, _ = philox_words((stream & MASK, stream >> 32, *part), (seed & MASK, seed >> 32))
    return k0, k1


@lru_cache(maxsize=65536)
def round_keys(k0: int, k1: int) -> tuple[tuple[int, int], ...]:
    """The keys of Philox's rounds; the first is the key itself."""
    return tuple(
        ((k0 + i * KEY_STEPS[0]) & MASK, (k1 + i * KEY_STEPS[1]) & MASK) for i in range(ROUNDS)
    )


def philox_words(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Philox4x32-10 of one counter, on Python ints.

    >>> [hex(w) for w in philox_words((0, 0, 0, 0), (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    for k0, k1 in round_keys(*key):
        p0, p1 = FACTORS[0] * c0, FACTORS[1] * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & MASK, p0 >> 32 ^ c3 ^ k1, p0 & MASK
    return c0, c1, c2, c3


def philox(xp: Namespace, counter: tuple[Array, ...], keys: Array) -> list[Array]:
    """Philox4x32-10 on arrays: word 0 of the counter is an array of words, the others and the
    `round_keys` are 0-d.
    """
    c0, *rest = counter
    c1, c2, c3 = (c0 * 0 + word for word in rest)
    for k0, k1 in keys:
        high0, low0 = xp.multiply_wide(c0, FACTORS[0])
        high1, low1 = xp.multiply_wide(c2, FACTORS[1])
        high1 ^= c1
        high1 ^= k0
        high0 ^= c3
        high0 ^= k1
        c0, c1, c2, c3 = high1, low1, high0, low0
    return [c0, c1, c2, c3]


@cache
def generator_agrees(xp: Namespace, device: str) -> bool:
    """Whether the library's own generator gives the words of clause RNG-3 on a device: it must know
    the answers.
    """
    # first block, words skipped, count, step, key; the last two blocks of the sequence among them
    trials = (
        (0, 0, 9, 0, (0, 0)),
        (7, 3, 2, 5, (0x89ABCDEF, 0x01234567)),
        (MASK - 1, 1, 7, MASK, (MASK, 0x80000000)),
    )
    return all(xp.try_generate(device, *trial) == _answer(*trial) for trial in trials)


def _answer(first: int, skipped: int, count: int, step: int, key: tuple[int, int]) -> list[int]:
    """Words `skipped`, `skipped` + 1, … counted from the start of a block, as int32."""
    words = (
        philox_words((first + i // 4, step, *key), key)[i % 4]
        for i in range(skipped, skipped + count)
    )
    return [word - (word >> 31 << 32) for word in words]
