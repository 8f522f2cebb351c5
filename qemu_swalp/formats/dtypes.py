"""The dtype objects of array libraries, recognized without importing any of them."""

from __future__ import annotations

import numpy as np


def dtype_name(dtype: object) -> str | None:
    """The name of a dtype object; None for anything else.

    Dtypes and scalar types of NumPy, ml_dtypes and JAX, and dtypes of PyTorch and TensorFlow are
    recognized.

    >>> dtype_name(np.float16), dtype_name(np.dtype(">f8")), dtype_name("float16")
    ('float16', 'float64', None)
    """
    if isinstance(dtype, np.dtype):
        return dtype.name
    if isinstance(dtype, type):
        if issubclass(dtype, np.generic):
            return dtype.__name__
        described = getattr(dtype, "dtype", None)  # jax.numpy.float32 is a class that has one
        return described.name if isinstance(described, np.dtype) else None
    library = type(dtype).__module__.partition(".")[0]
    if (library, type(dtype).__name__) == ("torch", "dtype"):
        return str(dtype).removeprefix("torch.")
    if (library, type(dtype).__name__) == ("tensorflow", "DType"):
        return str(getattr(dtype, "name", None))
    return None
