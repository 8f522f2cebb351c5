"""The array libraries: for each a class with the primitives that the reference implementation is
written in.

A library is asked only if the program has already imported it, so asking about an array never
imports a framework.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module

import numpy as np

from .namespace import DTYPES, Array, Namespace

__all__ = ["DTYPES", "FRAMEWORKS", "Array", "Namespace", "host", "namespace_of", "numpy_namespace"]

FRAMEWORKS = {
    "numpy": "_numpy",
    "cupy": "_cupy",
    "torch": "_torch",
    "tensorflow": "_tensorflow",
    "jax": "_jax",
}
"""Import name of each library → our module with its `Namespace`."""


@cache
def _namespace(framework: str) -> Namespace:
    module = import_module(f".{FRAMEWORKS[framework]}", __name__)
    return module.NAMESPACE  # type: ignore[no-any-return]


def numpy_namespace() -> Namespace:
    """NumPy's namespace, for work on the host."""
    return _namespace("numpy")


def namespace_of(x: object) -> Namespace:
    """The namespace of an array. TypeError for anything else."""
    for framework in FRAMEWORKS:
        if framework in sys.modules and (namespace := _namespace(framework)).owns(x):
            return namespace
    raise TypeError(
        f"expected an array of {', '.join(FRAMEWORKS)}, got"
        f" {type(x).__module__}.{type(x).__qualname__}; convert it, as in {_conversion(x)}"
    )


def _conversion(x: object) -> str:
    """The expression that makes an array of x."""
    for framework in FRAMEWORKS:
        if framework in sys.modules and (found := _namespace(framework).conversion(x)):
            return found
    for method in ("toarray", "todense"):  # of SciPy, whose todense gives matrices; of JAX
        if hasattr(x, method):
            return f"x.{method}()"
    return "numpy.asarray(x)"


def forget_programs() -> None:
    """Forget what array libraries have compiled, whose meaning has changed."""
    for framework in FRAMEWORKS:
        if framework in sys.modules:
            _namespace(framework).forget_programs()


def host(name: str, x: Array) -> np.ndarray:
    """`Namespace.host` of an argument of that name. TypeError if it is not an array, or has no
    values now.
    """
    xp = namespace_of(x)
    try:
        return xp.host(x)
    except Exception as error:
        raise TypeError(
            f"{name} must hold values that can be copied to the host, and this"
            f" {type(x).__module__}.{type(x).__qualname__} has none ({error}); call it on an array"
            " that has values, outside of any traced graph"
        ) from error
