"""CuPy: NumPy's interface on a GPU."""

from __future__ import annotations

import cupy

from ._numpy import NumpyNamespace


class CupyNamespace(NumpyNamespace):
    name = "cupy"

    def owns(self, x: object) -> bool:
        return isinstance(x, cupy.ndarray)


NAMESPACE = CupyNamespace(cupy)
