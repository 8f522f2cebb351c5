"""State dicts whose arrays are held as codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ..arrays import DTYPES, Array, host, namespace_of
from ..formats import Format, Overflow, parse
from ..ops.encode import BlockCodes, decode, encode
from ..ops.pack import packed_bytes
from ..ops.arguments import as_array
from ..random_bits import RandomBits, stream_id
from ..rounding import Rounding

Formats = Format | str | Mapping[str, Format | str | None]
"""One format, or patterns of names with a format each (None: left as it is)."""


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """An array as the codes of a format, on the host.

    format : of the codes. codes : as `encode` gives them, in NumPy. dtype : the source dtype, which
        `decode` gives.

    >>> coded = QuantizedTensor.of([0.1, -7.0, 3.0], "mxfp4")
    >>> coded.shape, coded.nbytes, coded.decode().tolist()
    ((3,), 3, [0.0, -6.0, 3.0])
    """

    format: Format
    codes: np.ndarray | BlockCodes
    dtype: str

    @staticmethod
    def of(
        x: Array,
        format: Format | str,
        rounding: Rounding | str = "nearest_even",
        *,
        random: RandomBits | Array | None = None,
        overflow: Overflow | None = None,
    ) -> QuantizedTensor:
        """The codes of `quantize(x, format, rounding, random=random, overflow=overflow)`; errors as
        of `encode`.
        """
        x, format = as_array(x), parse(format)
        codes = encode(x, format, rounding, random=random, overflow=overflow)
        here = (
            BlockCodes(*(None if part is None else host("x", part) for part in codes))
            if isinstance(codes, BlockCodes)
            else host("x", codes)
        )
        return QuantizedTensor(format, here, namespace_of(x).dtype(x))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple((self.codes.codes if isinstance(self.codes, BlockCodes) else self.codes).shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes, scales included."""
        return packed_bytes(self.shape, self.format)

    def decode(self) -> np.ndarray:
        """The values, in NumPy; bfloat16 is ml_dtypes'."""
        values: np.ndarray = decode(self.codes, self.format, self.dtype)
        return values


def quantize_state_dict(
    state: Mapping[str, Array],
    formats: Formats,
    rounding: Rounding | str = "nearest_even",
    *,
    seed: int | None = None,
    overflow: Overflow | None = None,
) -> dict[str, Any]:
    """A state dict with its floating arrays as `QuantizedTensor`; the others are kept as they are.

    Parameters
    ----------
    state : names → arrays of any library.
    formats : a format for all floating arrays; or patterns of names (shell style, the first that
        matches counts) and the format of each, None for arrays to keep. Arrays that no pattern
        matches are kept.
    rounding, overflow : as for `quantize`.
    seed : of stochastic rounding; array i of the state draws from the stream `stream_id("weight",
        i)`.

    Errors are those of `encode`, with the array's name.

    >>> import numpy as np
    >>> state = {"fc.weight": np.float32([[0.1, 0.2]]), "fc.bias": np.float32([0.3]), "steps": np.int64(7)}
    >>> coded = quantize_state_dict(state, {"*.bias": None, "*": "e4m3fn"})
    >>> str(coded["fc.weight"].format), coded["fc.bias"].tolist(), coded["steps"].tolist()
    ('e4m3fn', [0.30000001192092896], 7)
    >>> dequantize_state_dict(coded)["fc.weight"].tolist()
    [[0.1015625, 0.203125]]
    """
    found: dict[str, Any] = {}
    for i, (name, x) in enumerate(state.items()):
        format = format_for(name, formats)
        if format is None or namespace_of(x).dtype(x) not in DTYPES:
            found[name] = x
            continue
        random = None if seed is None else RandomBits(seed, stream_id("weight", i))
        try:
            found[name] = QuantizedTensor.of(x, format, rounding, random=random, overflow=overflow)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
    return found


def dequantize_state_dict(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the values of what is `QuantizedTensor`, as NumPy arrays."""
    return {name: x.decode() if isinstance(x, QuantizedTensor) else x for name, x in state.items()}


def format_for(name: str, formats: Formats) -> Format | None:
    """The format of the array of that name; None: it is kept as it is."""
    if not isinstance(formats, Mapping):
        return parse(formats)
    found = next(
        (format for pattern, format in formats.items() if fnmatchcase(name, pattern)), None
    )
    return None if found is None else parse(found)
