"""Arrays of any library as NumPy arrays of the same dtype, and back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .._util.extras import FILES, require
from ..arrays import Array, host, namespace_of


def in_own_dtype(name: str, x: Array) -> np.ndarray:
    """An array on the host, in its own dtype; those that NumPy lacks are ml_dtypes'.

    Raises TypeError if `x`, the argument of that name, is not an array that has values now.
    """
    namespace = namespace_of(x)
    dtype = namespace.dtype(x)
    if dtype == "bfloat16":
        return host(name, x).astype(_numpy_dtype(name, dtype))
    if namespace.name == "torch" and dtype.startswith("float8"):
        return host(name, x.detach().contiguous().view(sys.modules["torch"].uint8)).view(
            _numpy_dtype(name, dtype)
        )
    if namespace.name == "torch" and dtype.startswith("float4"):
        raise ValueError(
            f"{name} is of dtype {dtype}, two numbers in a byte, which NumPy lacks; give its bytes,"
            " as in x.view(torch.uint8)"
        )
    return host(name, x)


def memory_of(x: Array) -> tuple[object, ...]:
    """What two arrays have alike only if they are the same memory seen the same way: of PyTorch and
    NumPy by address, of other libraries by the object.
    """
    namespace = namespace_of(x)
    kind = (namespace.name, namespace.dtype(x), tuple(namespace.shape(x)))
    if 0 in kind[2]:
        return (*kind, id(x))
    if namespace.name == "torch" and x.device.type != "meta":
        return (*kind, str(x.device), x.data_ptr(), x.stride())
    if isinstance(x, np.ndarray):
        return (*kind, x.ctypes.data, x.strides)
    return (*kind, id(x))


def converted_like(name: str, x: np.ndarray, like: Array) -> Array:
    """The array in the library and dtype and, of PyTorch, on the device of another one.

    Raises ValueError if the shapes differ, or if the dtype cannot hold a number exactly.
    """
    namespace = namespace_of(like)
    if x.shape != tuple(namespace.shape(like)):
        raise ValueError(
            f"{name} must have the shape of that in like=, {tuple(namespace.shape(like))}, got"
            f" {x.shape}"
        )
    dtype = _numpy_dtype(name, namespace.dtype(like))
    with np.errstate(all="ignore"):
        result = np.ascontiguousarray(x).astype(dtype).reshape(x.shape)
        exact = (result.astype(x.dtype) == x) | ((x != x) & (result != result))
    if not exact.all():
        raise ValueError(
            f"{name} has numbers that {dtype.name}, its dtype in like=, cannot hold, such as"
            f" {x[~exact].flat[0]}; leave it out of like=, or give it there in {x.dtype}"
        )
    return _in_library(namespace.name, result, like)


def _in_library(library: str, x: np.ndarray, like: Array) -> Any:
    if library == "numpy":
        return x
    module = sys.modules[library]
    if library == "torch":
        integers = x.copy().view(f"i{x.dtype.itemsize}")  # torch knows none of ml_dtypes' dtypes
        return module.from_numpy(integers).view(like.dtype).to(like.device)
    if library == "tensorflow":
        return module.constant(x)
    return module.asarray(x) if library == "cupy" else module.numpy.asarray(x)


def _numpy_dtype(name: str, dtype: str) -> np.dtype[Any]:
    if hasattr(np, dtype):
        return np.dtype(dtype)
    ml_dtypes = require("ml_dtypes", FILES)
    if not hasattr(ml_dtypes, dtype):
        raise ValueError(
            f"{name} is of dtype {dtype}, which NumPy and ml_dtypes lack; leave it out"
        )
    converted: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype))
    return converted
