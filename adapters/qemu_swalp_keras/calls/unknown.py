"""Functions of Keras that compute what is not rounded: told by name where a layer calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import keras
import numpy as np
from keras import tree

from .._compat import replace_backend_function, replace_private_function
from ..backend import axes_of, is_number, operand_of
from .pausing import paused
from .scope import current
from .uncovered import report

Function = Callable[..., Any]

_DECOMPOSITIONS = tuple(
    f"linalg.{name}"
    for name in (
        *("cholesky", "cholesky_inverse", "det", "eig", "eigh", "inv", "lstsq", "lu_factor"),
        *("matrix_rank", "pinv", "qr", "solve", "solve_triangular", "svd"),
    )
)
"""They multiply matrices, or their backwards do."""

_TRANSFORMS = tuple(f"math.{name}" for name in ("fft", "fft2", "rfft", "ifft2", "irfft"))
_TRANSFORMS += ("math.stft", "math.istft")

_FILTERS = tuple(
    f"image.{name}"
    for name in ("elastic_transform", "gaussian_blur", "rgb_to_grayscale", "sobel_edges")
)

INTERPOLATIONS = tuple(
    f"image.{name}"
    for name in (
        *("affine_transform", "map_coordinates", "perspective_transform", "resize"),
        *("scale_and_translate",),
    )
)
"""Some backends write them as products; they are none of a model's."""

SELECTIONS = ("math.extract_sequences", "nn.unfold")
"""The same, by kernels of zeros and ones: exact."""

PRODUCTS = (
    *_DECOMPOSITIONS,
    *_TRANSFORMS,
    *_FILTERS,
    *("linalg.jvp", "math.logdet", "nn.ctc_loss", "numpy.slogdet"),
    *("numpy.correlate", "numpy.corrcoef"),
)
"""They sum products, on one backend or another, forward or backward."""

RANGES = ("numpy.linspace", "numpy.logspace", "numpy.geomspace")
"""Between constants, those of NumPy included, they make constants."""

ELEMENTWISE = (
    *_DECOMPOSITIONS,
    *_TRANSFORMS,
    *_FILTERS,
    *INTERPOLATIONS,
    *("image.rgb_to_hsv", "image.hsv_to_rgb", "nn.fold"),
    *("nn.sparsemax", "nn.psnr", "nn.ctc_loss", "math.erfinv", "math.segment_sum", "math.cdist"),
    *("math.logdet", "math.segment_prod", "numpy.slogdet", "numpy.trace", "numpy.vander"),
    *("numpy.prod", "numpy.cumsum", "numpy.cumprod", "numpy.trapezoid", "numpy.hypot"),
    *("numpy.logaddexp", "numpy.logaddexp2", "numpy.arctan2", "numpy.cbrt", "numpy.sinc"),
    *("numpy.nansum", "numpy.nanmean", "numpy.nanvar", "numpy.nanstd", "numpy.nanprod"),
    *("numpy.nancumsum", "numpy.nancumprod", "numpy.nanquantile", "numpy.nanpercentile"),
    *("numpy.cross", "numpy.diff", "numpy.mod", "numpy.fmod", "numpy.floor_divide"),
    *("numpy.quantile", "numpy.percentile", "numpy.median", "numpy.nanmedian", "numpy.i0"),
    *("numpy.correlate", "numpy.corrcoef", "numpy.angle", "numpy.deg2rad", "numpy.rad2deg"),
    *("numpy.heaviside", "numpy.ldexp", "numpy.ptp", "linalg.jvp"),
    *RANGES,
)
"""They compute new numbers one by one, or add them up."""


def _of_norm(x: Any, ord: Any = None, axis: Any = None, **_: Any) -> Sequence[str]:
    axis = axes_of(axis)
    count = _rank(x) if axis is None else 1 if isinstance(axis, int) else len(axis)
    decomposes = count == 2 and ord in (2, -2, "nuc")
    return ("products", "elementwise") if decomposes else ("elementwise",)


def _of_average(x: Any, axis: Any = None, weights: Any = None) -> Sequence[str]:
    alike = weights is None or axis is None or _rank(x) == _rank(weights)
    return () if alike else ("products",)


def _rank(x: Any) -> int:
    with paused():
        return 0 if is_number(x) else len(operand_of(x).shape)


SOMETIMES: dict[str, Callable[..., Sequence[str]]] = {
    "linalg.norm": _of_norm,
    "numpy.average": _of_average,
}
"""The sections that are told by name depend on the arguments, where nothing rounds the elementwise
operations.
"""

MADE = ("core.custom_gradient", "numpy.vectorize")
"""They make functions of a user's: whose gradient is computed beyond the layer's call, or which is
computed for all elements at once.
"""

REMEDIES = {
    "products": "multiply by keras.ops.matmul, einsum or convolutions, which are rounded",
    "elementwise": "write it by operations that are rounded",
}


def install() -> None:
    """Put functions that tell in place of the backend's."""
    for name in dict.fromkeys((*PRODUCTS, *ELEMENTWISE)):
        asked = (("products", PRODUCTS), ("elementwise", ELEMENTWISE))
        sections = [section for section, names in asked if name in names]
        replace_backend_function(name, partial(_telling, name, sections))
    replace_backend_function("numpy.bincount", _of_weights)
    for name in SELECTIONS:
        replace_backend_function(name, paused())
    for name in ("2d", "3d"):
        replace_private_function(f"ops.image._extract_patches_{name}", paused())
    for name in MADE:
        replace_backend_function(name, partial(_making, name))


def _tell(name: str, sections: Sequence[str]) -> None:
    scope = current()
    for section in sections if scope is not None and scope.rounds else ():
        if scope is not None and scope.policy.asks(scope.layer_name, section):
            report(scope.policy, scope.layer_name, section, name, REMEDIES[section])


def _telling(name: str, sections: Sequence[str], function: Function) -> Function:
    @wraps(function)
    def telling(*args: Any, **options: Any) -> Any:
        if current() is None:
            return function(*args, **options)
        selects = options.get("interpolation") == "nearest"
        if not selects and _computes(name, args, options):
            _tell(name, sections)
        with paused():
            return function(*args, **options)

    return telling


def sometimes_telling(name: str, function: Function) -> Function:
    """A function that rounds nothing, which tells so as `SOMETIMES` has it."""
    sections = SOMETIMES.get(name)
    if sections is None:
        return function

    @wraps(function)
    def telling(*args: Any, **options: Any) -> Any:
        asked = () if current() is None else sections(*args, **options)
        return (_telling(name, asked, function) if asked else function)(*args, **options)

    return telling


def _of_weights(function: Function) -> Function:
    """`bincount` adds its weights up."""

    @wraps(function)
    def bincount(x: Any, weights: Any = None, *args: Any, **options: Any) -> Any:
        adds = weights is not None and _computes("numpy.bincount", (weights,), {})
        telling = _telling("numpy.bincount", ("elementwise",), function) if adds else function
        return telling(x, weights, *args, **options)

    return bincount


def _making(name: str, function: Function) -> Function:
    @wraps(function)
    def making(*args: Any, **options: Any) -> Any:
        made = function(*args, **options)

        @wraps(made)
        def called(*inputs: Any, **more: Any) -> Any:
            _tell(name, tuple(REMEDIES))
            with paused():
                return made(*inputs, **more)

        return called

    return making


def _computes(name: str, args: Any, options: Any) -> bool:
    """Whether it computes floating numbers from arrays: tensors, arrays of NumPy, and tuples and
    lists of numbers among the positional arguments.
    """
    arrays = [x for x in tree.flatten((args, options)) if hasattr(x, "dtype") and not is_number(x)]
    arrays += [np.array(numbers) for numbers in map(_numbers, args) if numbers]
    if name in RANGES:
        arrays = [x for x in arrays if not isinstance(x, np.ndarray)]
    return bool(arrays) and any(map(_is_floating, (*arrays, *args)))


def _numbers(x: Any) -> list[Any]:
    """Those of a tuple or list of nothing else."""
    found = tree.flatten(x) if isinstance(x, list | tuple) else []
    return found if all(map(is_number, found)) else []


def _is_floating(x: Any) -> bool:
    if isinstance(x, int | float):
        return isinstance(x, float)
    dtype = getattr(x, "dtype", None)
    return dtype is not None and keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(dtype)
    )
