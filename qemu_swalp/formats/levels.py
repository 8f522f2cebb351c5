"""Tables of even steps between -1 or 0 and 1, by a shorter name than `codebook`."""

from __future__ import annotations

from functools import lru_cache

from .._util.checks import check_bool, check_int
from .base import define_family
from .codebook import SHORTHANDS, Codebook

WORDS = range(2, 9)


def levels(bits: int, signed: bool = True) -> Codebook:
    """2^bits numbers in even steps from -1 to 1, of which 0 is none; unsigned from 0 to 1.

    The grids of DoReFa-Net's k-bit quantizer (Zhou et al. 2016, arXiv 1606.06160, equation 5), as
    float32 holds them.

    bits : 2..8. ValueError beyond that.

    >>> levels(2, signed=False).entries
    (0.0, 0.3333333432674408, 0.6666666865348816, 1.0)
    >>> str(levels(2)), str(levels(6, signed=False))
    ('levels<2>', 'levels<6,unsigned>')
    """
    check_int("bits", bits, WORDS[0], WORDS[-1])
    check_bool("signed", signed)
    top = (1 << bits) - 1
    return Codebook([(2 * n - top if signed else n) / top for n in range(top + 1)])


@lru_cache(maxsize=64)
def _as_levels(entries: tuple[float, ...]) -> str | None:
    bits = len(entries).bit_length() - 1
    if bits not in WORDS or entries[-1] != 1:
        return None
    for signed, written in ((True, f"levels<{bits}>"), (False, f"levels<{bits},unsigned>")):
        if levels(bits, signed).entries == entries:
            return written
    return None


def _written(table: Codebook) -> str | None:
    return _as_levels(table.entries) if table.dtype == "float32" else None


define_family("levels", levels)
SHORTHANDS.append(_written)
