"""The parts of codes as arrays that a file holds, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..formats import Block, Exponent, Format, TableFormat
from ..formats.floating import Float
from ..ops.codes import BlockCodes
from ..ops.pack import pack, packed_parts, signed, unpack
from .ml_dtypes import dtype_of
from .state_dict import QuantizedTensor
from .tensor_files import DTYPES

_NATIVE = {dtype for dtype, _ in DTYPES.values()} | {"float16"}


def stored_parts(name: str, tensor: QuantizedTensor, own_dtypes: bool) -> dict[str, np.ndarray]:
    """The parts by their names in the file: packed or, if asked, in a dtype of safetensors files
    that stands for the same, where there is one and the codes fill whole bytes.
    """
    codes = tensor.codes
    parts = codes._asdict() if isinstance(codes, BlockCodes) else {"codes": codes}
    stored = {}
    for part, (bits, _) in packed_parts(tensor.shape, tensor.format).items():
        dtype = _own_dtype(tensor.format, part) if own_dtypes else None
        if dtype is None or parts[part].size * bits % 8:
            stored[f"{name}.{part}"] = pack(parts[part], bits)
        else:
            x = parts[part]  # of which ascontiguousarray makes a row, if it has no axes
            stored[f"{name}.{part}"] = np.ascontiguousarray(x).view(dtype).reshape(x.shape)
    return stored


def codes_of_parts(
    name: str, format: Format, shape: Sequence[int], stored: Iterable[np.ndarray]
) -> np.ndarray | BlockCodes:
    """The codes of the stored parts. ValueError if one does not fit the format and the shape."""
    parts = {
        part: _codes(f"{name}.{part}", array, bits, lengths, format, part)
        for (part, (bits, lengths)), array in zip(
            packed_parts(shape, format).items(), stored, strict=True
        )
    }
    codes = parts["codes"]
    if isinstance(format, TableFormat) and codes.max(initial=0) >= len(format.meanings):
        raise ValueError(
            f"damaged: {name}.codes has the code {codes.max()}, and {format} has"
            f" {len(format.meanings)}"
        )
    if not isinstance(format, Block):
        return codes
    if isinstance(format.scale, Exponent):
        parts["scales"] = signed(parts["scales"], format.scale.bits)
    return BlockCodes(**parts)


def _own_dtype(format: Format, part: str) -> np.dtype | None:
    """The dtype of safetensors files that has the codes of a part; None if there is none."""
    if part == "zero_points":
        return None
    of_part: Format | None = format
    if isinstance(format, Block):
        of_part = {"codes": format.element, "scales": format.scale, "second": format.second}[part]
    if of_part == Float(8, 23):
        return np.dtype(np.float32)
    try:
        dtype = dtype_of(of_part)  # type: ignore[arg-type]
    except ValueError:
        return None
    return dtype if dtype.name in _NATIVE else None


def _codes(
    stored: str, array: np.ndarray, bits: int, shape: tuple[int, ...], format: Format, part: str
) -> np.ndarray:
    if array.dtype != np.uint8 and array.dtype == _own_dtype(format, part) and array.shape == shape:
        return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(shape)
    try:
        codes = unpack(array, bits, shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"damaged: {stored}: {error}") from error
    spare = -math.prod(shape) * bits % 8
    if spare and array[-1] >> (8 - spare):
        raise ValueError(f"damaged: {stored} has set bits after its last code")
    return codes
