"""CuPy: NumPy's interface on a GPU."""

from __future__ import annotations

import cupy
import numpy as np

from ._numpy import NumpyNamespace
from .namespace import Array


class CupyNamespace(NumpyNamespace):
    name = "cupy"

    def owns(self, x: object) -> bool:
        return isinstance(x, cupy.ndarray)

    def host(self, x: Array) -> np.ndarray:
        return super().host(cupy.asnumpy(x))


NAMESPACE = CupyNamespace(cupy)
