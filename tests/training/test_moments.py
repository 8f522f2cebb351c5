"""Moments merged batch by batch are those of all data."""

from __future__ import annotations

import numpy as np

from qemu_swalp.training.moments import PooledMoments


def pooled(batches: list[np.ndarray]) -> PooledMoments:
    moments = PooledMoments()
    for batch in batches:
        mean = batch.mean(axis=0)
        moments.add(len(batch), mean, ((batch - mean) ** 2).sum(axis=0))
    return moments


def test_batches_of_any_sizes_give_the_moments_of_the_whole() -> None:
    data = np.random.default_rng(0).normal(3, 2, (100, 4))
    moments = pooled([data[:1], data[1:40], data[40:]])
    np.testing.assert_allclose(moments.mean, data.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance(), data.var(axis=0), rtol=1e-14)
    unbiased = data.var(axis=0, ddof=1)
    np.testing.assert_allclose(moments.variance(unbiased=True), unbiased, rtol=1e-14)


def test_counts_differ_by_channel() -> None:
    moments = PooledMoments()
    moments.add(np.array([0.0, 2.0]), np.array([0.0, 1.0]), np.array([0.0, 2.0]))
    moments.add(np.array([0.0, 2.0]), np.array([0.0, 3.0]), np.array([0.0, 2.0]))
    assert moments.count.tolist() == [0, 4]
    assert moments.mean.tolist() == [0, 2]
    assert moments.variance().tolist() == [0, 2]


def test_one_element_has_no_variance() -> None:
    assert pooled([np.ones((1, 1))]).variance(unbiased=True).tolist() == [0]
