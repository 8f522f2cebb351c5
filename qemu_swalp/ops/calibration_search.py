"""Histograms of blocks, and what clipping and rounding lose of them."""

from __future__ import annotations

import numpy as np

from ..formats import Block
from .quantize import quantize

BINS = 2048
"""Of |x|, for each sign."""


class Histograms:
    """Counts of the numbers of each block in even bins from -2^k to 2^k."""

    def __init__(self, blocks: int) -> None:
        self.counts = np.zeros((blocks, 2 * BINS), np.int64)
        self.exponents = np.full(blocks, -1000)
        """k of each block."""
        self.zeros = np.zeros(blocks, np.int64)
        """How many of the numbers are zero; `counts` has them too."""

    def add(self, values: np.ndarray, blocks: np.ndarray) -> None:
        """Count numbers, given the block of each."""
        amax = np.zeros(len(self.counts))
        np.maximum.at(amax, blocks, np.abs(values))
        needed = np.where(amax > 0, np.frexp(amax)[1], self.exponents)  # amax < 2^k
        self._widen(np.maximum(needed, self.exponents))
        width = np.ldexp(1.0 / BINS, self.exponents)[blocks]
        bins = np.clip(np.floor(values / width).astype(np.int64) + BINS, 0, 2 * BINS - 1)
        flat = np.bincount(blocks * (2 * BINS) + bins, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)
        self.zeros += np.bincount(blocks[values == 0], minlength=len(self.zeros))

    def _widen(self, exponents: np.ndarray) -> None:
        """Join bins by pairs until each range is as wide as asked for."""
        empty = ~self.counts.any(1)
        self.exponents = np.where(empty, exponents, self.exponents)
        while (grow := self.exponents < exponents).any():
            paired = self.counts[grow].reshape(-1, BINS, 2).sum(-1)
            outside = np.zeros((len(paired), BINS // 2), np.int64)
            self.counts[grow] = np.concatenate([outside, paired, outside], 1)
            self.exponents = self.exponents + grow

    @property
    def centers(self) -> np.ndarray:
        """The middle of each bin, of shape (blocks, 2·BINS)."""
        middles = (np.arange(2 * BINS) - BINS + 0.5) / BINS
        return np.asarray(np.ldexp(middles, self.exponents[:, None]))

    def quantile(self, share: float) -> np.ndarray:
        """The magnitude below which that share of each block's numbers lies, those of a bin spread
        evenly.
        """
        positive = self.counts[:, BINS:] + self.counts[:, BINS - 1 :: -1]
        total = np.cumsum(positive, 1)
        wanted = share * total[:, -1]
        reached = (total >= wanted[:, None]).argmax(1)[:, None]
        inside, after = (np.take_along_axis(part, reached, 1) for part in (positive, total))
        edge = reached + 1 - (after - wanted[:, None]) / np.maximum(inside, 1)
        return np.asarray(np.ldexp(edge[:, 0] / BINS, self.exponents))


def quantized(
    histograms: Histograms, format: Block, scales: np.ndarray, points: np.ndarray | None
) -> np.ndarray:
    """What the middle of each bin becomes, in float64."""
    ratio = histograms.centers / scales[:, None]
    if points is None:
        rounded = quantize(ratio, format.element, overflow="saturate")
    else:
        least = -points[:, None]
        rounded = np.clip(np.rint(ratio), least, int(format.element.max) + least)
    return np.asarray(rounded * scales[:, None])


def squared_error(
    histograms: Histograms,
    format: Block,
    scales: np.ndarray,
    points: np.ndarray | None,
    clip: np.ndarray,
) -> np.ndarray:
    """The sum of squared errors of each block."""
    error = quantized(histograms, format, scales, points) - histograms.centers
    error = np.ldexp(error, -histograms.exponents[:, None])  # whose squares are in range
    return np.asarray((error**2 * histograms.counts).sum(1))


def entropy(
    histograms: Histograms,
    format: Block,
    scales: np.ndarray,
    points: np.ndarray | None,
    clip: np.ndarray,
) -> np.ndarray:
    """The Kullback-Leibler divergence of each block's histogram, what lies beyond the clip counted
    in the last bins within, from that of the quantized numbers: each value's count spread evenly
    over the bins that become it and are not empty.

    Zeros are left out: those of a ReLU are exact whatever the clip is, and would outweigh all else.
    (NVIDIA's pytorch-quantization gives their bin the count of its neighbour.)
    """
    nonzero = histograms.counts.copy()
    nonzero[:, BINS] -= histograms.zeros
    values = quantized(histograms, format, scales, points)
    lost = np.zeros(len(values))
    for i, (counts, centers) in enumerate(zip(nonzero, histograms.centers, strict=True)):
        within = np.abs(centers) <= clip[i]
        if not within.any() or not counts.any():
            continue
        first, last = np.flatnonzero(within)[[0, -1]]
        reference = counts[first : last + 1].astype(np.float64)
        inside = reference.copy()
        reference[0] += counts[:first].sum()
        reference[-1] += counts[last + 1 :].sum()
        _, group = np.unique(values[i, first : last + 1], return_inverse=True)
        members = np.bincount(group, inside > 0)
        mean = np.bincount(group, inside) / np.maximum(members, 1)
        model = np.where(inside > 0, mean[group], 0.0)
        if not model.any():
            lost[i] = np.inf
            continue
        p, r = reference / reference.sum(), model / model.sum()
        there = p > 0
        # a bin that the model lacks costs as much as one of the least count in all
        floor = 1.0 / (counts.sum() * 2 * len(p))
        lost[i] = (p[there] * np.log(p[there] / np.maximum(r[there], floor))).sum()
    return lost
