"""Codes as arrays of the ml_dtypes and NumPy dtypes that have the same layout (clause COD-6)."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np

from ..arrays import Array
from ..formats import Format, parse
from ..formats.float_layout import FloatLayout

_DTYPES = {
    "fp16": "float16",
    "bf16": "bfloat16",
    "e5m2": "float8_e5m2",
    "e4m3": "float8_e4m3",
    "e3m4": "float8_e3m4",
    "e4m3fn": "float8_e4m3fn",
    "e4m3fnuz": "float8_e4m3fnuz",
    "e5m2fnuz": "float8_e5m2fnuz",
    "e4m3b11fnuz": "float8_e4m3b11fnuz",
    "e2m3fn": "float6_e2m3fn",
    "e3m2fn": "float6_e3m2fn",
    "e2m1fn": "float4_e2m1fn",
    "e8m0fnu": "float8_e8m0fnu",
    "p3109_k8p4sf": "float8_e4m3fnuz",
    "p3109_k8p3sf": "float8_e5m2fnuz",
}
"""Format → dtype of ml_dtypes (float16: of NumPy) in which every code stands for the same."""


def to_ml_dtypes(codes: Array, format: Format | str) -> np.ndarray:
    """A view of NumPy codes, as `encode` gives them, in the ml_dtypes dtype of the format.

    Raises ValueError if ml_dtypes does not have the format, TypeError if `codes` is not a NumPy
    array of the dtype that `encode` gives, and ImportError without ml_dtypes.

    >>> import numpy as np
    >>> from qemu_swalp import encode
    >>> codes = encode(np.float32([1.5, -448.0]), "e4m3fn")
    >>> floats = to_ml_dtypes(codes, "e4m3fn")
    >>> floats.dtype.name, floats.astype(np.float32).tolist()
    ('float8_e4m3fn', [1.5, -448.0])
    """
    dtype = dtype_of(format)
    expected = np.dtype(f"uint{8 * dtype.itemsize}")
    if not isinstance(codes, np.ndarray) or codes.dtype != expected:
        got = codes.dtype if isinstance(codes, np.ndarray) else type(codes).__qualname__
        raise TypeError(
            f"codes of {parse(format)} must be a NumPy array of {expected}, as encode gives, got"
            f" {got}"
        )
    return codes.view(dtype)


def from_ml_dtypes(x: Array, format: Format | str) -> np.ndarray:
    """A view of a NumPy array of the ml_dtypes dtype of the format as codes; inverse of
    `to_ml_dtypes`.

    >>> import ml_dtypes, numpy as np
    >>> from_ml_dtypes(np.array([1.5, -448.0], ml_dtypes.float8_e4m3fn), "e4m3fn").tolist()
    [60, 254]
    """
    dtype = dtype_of(format)
    if not isinstance(x, np.ndarray) or x.dtype != dtype:
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__qualname__
        raise TypeError(f"x must be a NumPy array of {dtype} to hold {parse(format)}, got {got}")
    return x.view(f"uint{8 * dtype.itemsize}")


def dtype_of(format: Format | str) -> np.dtype:
    """The dtype that has the layout of a format. ValueError if there is none."""
    parsed = parse(format)
    name = next(
        (dtype for known, dtype in _DTYPES.items() if _layout(parse(known)) == _layout(parsed)),
        None,
    )
    if name is None:
        raise ValueError(
            f"no dtype of ml_dtypes has the layout of {parsed}; those of {', '.join(_DTYPES)}"
            " have one"
        )
    return np.dtype(np.float16) if name == "float16" else np.dtype(getattr(_ml_dtypes(), name))


def _layout(format: Format) -> Format:
    """The format without its overflow policy, which no code depends on."""
    return format.replace(overflow="saturate") if isinstance(format, FloatLayout) else format


def _ml_dtypes() -> ModuleType:
    try:
        return importlib.import_module("ml_dtypes")
    except ImportError as error:
        raise ImportError(
            "views of codes as low-bit floats need ml_dtypes: pip install ml_dtypes"
        ) from error
