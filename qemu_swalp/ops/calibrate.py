"""Scales for `quantize(…, scales=…)` from batches of data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from .._util.checks import check_choice, check_int
from ..arrays import host, namespace_of
from ..arrays.dtypes import source_dtype
from ..formats import Block, Exponent, Format, parse
from ..reference.blocks import blocks_shape
from .arguments import as_array, policy_of
from .calibration_search import Histograms, entropy, squared_error
from .decode import decode
from .encode import encode
from .given import check_takes_scales

METHODS = ("amax", "percentile", "mse", "entropy")
Method = Literal["amax", "percentile", "mse", "entropy"]


class Calibration(NamedTuple):
    """Scales, and zero points where the format has them: arguments of `quantize` and `encode`."""

    scales: np.ndarray
    """float32, one for each block; without the axes that a block spans."""
    zero_points: np.ndarray | None = None
    """int32, in the same shape."""


class Calibrator:
    """Watches arrays, and gives the scales of a static recipe for them.

    Parameters are those of `calibrate`.

    >>> import numpy as np
    >>> calibrator = Calibrator("int<8>")
    >>> for batch in (np.float32([0.5, -1.27]), np.float32([[1.0], [0.1]])):
    ...     calibrator.observe(batch)
    >>> calibrator.result().scales.item()
    0.009999999776482582
    """

    def __init__(
        self,
        format: Format | str,
        method: Method = "amax",
        *,
        percentile: float = 99.99,
        candidates: int = 64,
    ) -> None:
        format = parse(format)
        if not isinstance(format, Block) or format.second is not None:
            raise ValueError(
                f"format must be a block format without second=, such as int<8,axis=0>, got"
                f" {format}: others have no scales to give"
            )
        check_takes_scales(format)
        policy_of(format, None)
        check_choice("method", method, METHODS)
        if isinstance(percentile, bool) or not isinstance(percentile, int | float):
            raise TypeError(f"percentile must be a number, got {percentile!r}")
        if not 50 < percentile <= 100:
            raise ValueError(f"percentile must be above 50 and at most 100, got {percentile!r}")
        check_int("candidates", candidates, 2, 4096)
        self.format, self.method = format, method
        self.percentile, self.candidates = percentile, candidates
        self._shape: tuple[int, ...] | None = None
        self._low = self._high = np.zeros(0)
        self._histograms: Histograms | None = None

    def observe(self, x: Any) -> None:
        """Take an array of any library into account.

        Raises
        ------
        TypeError: if x is no floating array, or one without values.
        ValueError: if it holds infinities or NaN, or has other blocks than the arrays before it.
        """
        x = as_array(x)
        source_dtype(namespace_of(x).dtype(x))
        values = np.asarray(host("x", x), np.float64)
        if not np.isfinite(values).all():
            raise ValueError("x must be finite, got infinities or NaN; leave such batches out")
        values = values.reshape(values.shape or (1,))
        if not values.size:
            return
        blocks = blocks_shape(values.shape, self.format)
        extents = self.format.extents(values.ndim)
        shape = tuple(n for n, extent in zip(blocks, extents, strict=True) if extent is not None)
        if self._shape is None:
            self._shape = shape
            self._low = self._high = np.zeros(int(np.prod(shape)))
        elif shape != self._shape:
            raise ValueError(
                f"arrays must have the same blocks: {self.format} makes {self._shape} of those"
                f" before, and {shape} of x, of shape {values.shape}"
            )
        rows = _by_blocks(values, extents)
        self._low = np.minimum(self._low, _each(np.minimum, rows))
        self._high = np.maximum(self._high, _each(np.maximum, rows))
        if self.method != "amax":
            if self._histograms is None:
                self._histograms = Histograms(len(self._low))
            self._histograms.add(*rows)

    def result(self) -> Calibration:
        """The scales of what was observed.

        Raises
        ------
        ValueError: if nothing was observed.
        """
        if self._shape is None:
            raise ValueError("calibration needs at least one array with elements, got none")
        low, high = self._low, self._high
        if self._histograms is not None:
            share = self._share(self._histograms)
            low, high = (np.maximum(low, -share), np.minimum(high, share))
        scales, points = scales_of(self.format, low, high)
        return Calibration(
            np.asarray(scales.reshape(self._shape), np.float32),
            None if points is None else points.reshape(self._shape).astype(np.int32),
        )

    def _share(self, histograms: Histograms) -> np.ndarray:
        """The magnitude of each block at which to clip."""
        if self.method == "percentile":
            return histograms.quantile(self.percentile / 100)
        amax = np.maximum(self._high, -self._low)
        loss = squared_error if self.method == "mse" else entropy
        best, least = amax, np.full(len(amax), np.inf)
        for i in range(self.candidates, 0, -1):
            clip = amax * (i / self.candidates)
            low, high = np.maximum(self._low, -clip), np.minimum(self._high, clip)
            lost = loss(histograms, self.format, *scales_of(self.format, low, high), clip)
            best = np.where(lost < least, clip, best)
            least = np.minimum(lost, least)
        return best


def calibrate(
    batches: Iterable[Any],
    format: Format | str,
    method: Method = "amax",
    *,
    percentile: float = 99.99,
    candidates: int = 64,
) -> Calibration:
    """Scales for `quantize(x, format, scales=…)` that suit batches of data.

    Parameters
    ----------
    batches : arrays of any library, at least one with elements. Those of a format without `size`
        may differ in shape, as long as they have the same lengths along its axes.
    format : a block format without `second`.
    method : "amax" covers all that was seen; "percentile" clips what lies beyond that percentile of
        |x|. "mse" and "entropy" try `candidates` clips, even parts of amax, and take the best.
        "mse" takes that of the least squared error; "entropy" that of the least Kullback-Leibler
        divergence of the histogram from that of the quantized numbers (as TensorRT does), zeros
        left out. Numbers are counted in 2,048 bins of |x| for each sign, whose range doubles as
        needed; the format's rule then computes the scales of what is left.
    percentile : above 50, at most 100.
    candidates : 2..4096.

    Returns
    -------
    `Calibration`, NumPy arrays with one entry for each block, without the axes that a block spans:
    of shape () for one block, (n,) for axis=0.

    Raises
    ------
    TypeError: if a batch is no floating array with values.
    ValueError: if there is nothing to observe, a number is infinite or NaN, or blocks differ.

    Source: S. Migacz, 8-bit Inference with TensorRT (GTC 2017), for "entropy".

    >>> import numpy as np
    >>> from qemu_swalp import quantize
    >>> batches = np.random.default_rng(0).standard_normal((8, 1000)).astype(np.float32)
    >>> static = calibrate(batches, "int<4>", "mse")
    >>> bool(0.3 < static.scales < 0.4)
    True
    >>> quantize(np.float32([0.5, 9.0]), "int<4>", **static._asdict()).shape
    (2,)
    """
    calibrator = Calibrator(format, method, percentile=percentile, candidates=candidates)
    for batch in batches:
        calibrator.observe(batch)
    return calibrator.result()


def scales_of(
    format: Block, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """The scales, float64, and zero points that the rule computes for blocks with these ends."""
    rows = format.replace(axis=0, size=None)
    ends = np.stack([low, high], -1)
    codes = encode(ends.astype(np.float32) if format.in_float32 else ends, rows, "nearest_even")
    if isinstance(format.scale, Exponent):
        scales = 2.0 ** codes.scales.astype(np.float64)
    else:
        scales = decode(codes.scales, format.scale, "float64")
    points = codes.zero_points
    return scales.reshape(-1), None if points is None else points.reshape(-1).astype(np.int64)


Rows = tuple[np.ndarray, np.ndarray]
"""Elements sorted by block, and the block of each."""


def _by_blocks(values: np.ndarray, extents: tuple[int | None, ...]) -> Rows:
    number = np.zeros((1,) * values.ndim, np.int64)
    for axis, (length, extent) in enumerate(zip(values.shape, extents, strict=True)):
        if extent is not None:
            along = np.arange(length) // extent
            number = number * (int(along[-1]) + 1) + along.reshape(
                [-1 if i == axis else 1 for i in range(values.ndim)]
            )
    blocks = np.broadcast_to(number, values.shape).reshape(-1)
    order = np.argsort(blocks, kind="stable")
    return values.reshape(-1)[order], blocks[order]


def _each(ufunc: np.ufunc, rows: Rows) -> np.ndarray:
    values, blocks = rows
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    return np.asarray(ufunc.reduceat(values, starts))
