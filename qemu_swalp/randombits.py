"""Layer 3: counter-based random bits (clauses RNG-1 to RNG-4). Stateless: the same counters give the same bits
in every array library, on any device, in any chunking."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

from .backends import Array, Namespace
from .checks import check_int

MASK = 0xFFFFFFFF
ROUNDS = 10
FACTORS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


@dataclass(frozen=True)
class RandomBits:
    """Where in the random sequence an array stands.

    Parameters
    ----------
    seed : 0..2^64-1; chosen by the user, the same throughout a run.
    stream : 0..2^64-1; who draws: see `stream_id`. Two tensors that must not share their noise need two streams.
    step : 0..2^32-1; when: the index of the step. May be a 0-d integer array of a graph library.
    offset : index in the global array, in C order, of the first element (for chunks and shards), 0..2^34-1.

    >>> import numpy as np
    >>> from qemu_swalp import quantize
    >>> quantize(np.full(4, 0.3), "fixed<8,0>", "stochastic", random=RandomBits(seed=1, step=7)).tolist()
    [0.0, 0.0, 0.0, 1.0]
    """

    seed: int = 0
    stream: int = 0
    step: int | Array = 0
    offset: int = 0

    def __post_init__(self) -> None:
        check_int("seed", self.seed, 0, 2**64 - 1)
        check_int("stream", self.stream, 0, 2**64 - 1)
        check_int("offset", self.offset, 0, 2**34 - 1)
        if isinstance(self.step, bool | int | float | str):
            check_int("step", self.step, 0, MASK)

    def words(self, xp: Namespace, shape: tuple[int, ...], like: Array) -> Array:
        """One random word for each element (clause RNG-3): int32 array of the same bits, of that shape."""
        count = 1
        for length in shape:
            count *= length
        if self.offset + count > 2**34:
            raise ValueError(f"random bits reach 2^34 elements of an array, asked for {self.offset + count}")
        k0, k1 = stream_key(self.seed, self.stream)
        skipped = self.offset % 4
        blocks = -(-(count + skipped) // 4)
        lanes = xp.lanes(self.offset // 4, blocks, like)
        flat = xp.words(philox(xp, (lanes, self.step, k0, k1), (k0, k1), like))
        return xp.reshape(flat[skipped : skipped + count], shape)


def stream_id(role: str, tensor: int = 0) -> int:
    """The stream of the tensor of that index in a role such as "weight" or "exp_avg" (clause RNG-4)."""
    if not isinstance(role, str):
        raise TypeError(f"role must be a string such as 'weight', got {role!r}")
    check_int("tensor", tensor, 0, MASK)
    return zlib.crc32(role.encode()) << 32 | tensor


@lru_cache(maxsize=65536)
def stream_key(seed: int, stream: int) -> tuple[int, int]:
    """Philox key of a stream (clause RNG-2)."""
    k0, k1, _, _ = philox_words((stream & MASK, stream >> 32, 0, 0), (seed & MASK, seed >> 32))
    return k0, k1


def philox_words(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 of one counter, on Python ints.

    >>> [hex(w) for w in philox_words((0, 0, 0, 0), (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    for k0, k1 in _round_keys(key):
        p0, p1 = FACTORS[0] * c0, FACTORS[1] * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & MASK, p0 >> 32 ^ c3 ^ k1, p0 & MASK
    return c0, c1, c2, c3


def philox(xp: Namespace, counter: tuple[Array | int, ...], key: tuple[int, int], like: Array) -> list[Array]:
    """Philox4x32-10 on lanes: counter word 0 is an array of lanes, the others are ints or 0-d arrays."""
    c0, *rest = counter
    c1, c2, c3 = (c0 * 0 + xp.lane(word, like) for word in rest)
    for k0, k1 in _round_keys(key):
        high0, low0 = xp.multiply_wide(c0, FACTORS[0])
        high1, low1 = xp.multiply_wide(c2, FACTORS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ xp.lane(k0, like), low1, high0 ^ c3 ^ xp.lane(k1, like), low0
    return [c0, c1, c2, c3]


def _round_keys(key: tuple[int, int]) -> list[tuple[int, int]]:
    return [((key[0] + i * KEY_STEPS[0]) & MASK, (key[1] + i * KEY_STEPS[1]) & MASK) for i in range(ROUNDS)]
