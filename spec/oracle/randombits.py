"""Philox4x32-10 by counter (clauses RNG)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

WORD = 2**32


def philox(
    counter: Sequence[int], key: Sequence[int], rounds: int = 10
) -> tuple[int, int, int, int]:
    """RNG-1: Philox4x32, Salmon et al., SC 2011, figure 4 and section 4.3."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        high0, low0 = divmod(0xD2511F53 * c0, WORD)
        high1, low1 = divmod(0xCD9E8D57 * c2, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return c0, c1, c2, c3


def stream_key(seed: int, stream: int) -> tuple[int, int]:
    """RNG-2: (k0, k1)."""
    words = philox((stream % WORD, stream // WORD, 0, 0), (seed % WORD, seed // WORD))
    return words[0], words[1]


def element_word(seed: int, stream: int, step: int, index: int) -> int:
    """RNG-3: the word of element `index`."""
    key = stream_key(seed, stream)
    return philox((index // 4, step, *key), key)[index % 4]


def stream_id(role: str, tensor: int) -> int:
    """RNG-4."""
    return zlib.crc32(role.encode()) * WORD + tensor
