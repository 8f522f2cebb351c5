"""Threads, chunks, strides, alignment, overlap, processes: nothing of them changes a bit."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import qemu_swalp as q
from qemu_swalp import kernels
from tests.helpers.samples import array, bits

FORMATS = (
    "e4m3fn",
    "bfp8",
    "bfp<8,axis=0>",
    "bfp<8,axis=-1>",
    "mxfp4",
    "block<e4m3fn,axis=(0,1),size=13>",
    "nvfp4",
)
RANDOM = q.RandomBits(3, 5, 7)


@pytest.fixture
def threads() -> Iterator[Any]:
    before = q.get_num_threads()
    yield q.set_num_threads
    q.set_num_threads(before)


def large(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("format", FORMATS)
def test_threads_and_chunks(format: str, threads: Any) -> None:
    """Sizes below, at and above what a task takes, whole and in parts of rows and columns."""
    for shape in (
        (1, 32767),
        (1, 32768),
        (1, 32769),
        (3, 40000),
        (700, 331),
        (5000, 33),
        (2, 131073),
    ):
        x = large(shape)
        with kernels.disabled():
            expected = q.quantize(x, format, "stochastic", random=RANDOM)
        for count in (1, 2, 3, 8):
            threads(count)
            assert (
                bits(q.quantize(x, format, "stochastic", random=RANDOM)) == bits(expected)
            ).all(), (shape, count)


@pytest.mark.parametrize("format", FORMATS)
def test_parts_of_an_array(format: str) -> None:
    """A shard whose random bits start where it starts has the bits of the whole (blocks along its
    rows).
    """
    if format in ("bfp8", "bfp<8,axis=-1>", "block<e4m3fn,axis=(0,1),size=13>", "nvfp4"):
        pytest.skip("its blocks cross rows")
    x = large((20, 96))
    whole = q.quantize(x, format, "stochastic", random=RANDOM)
    for first in (1, 7, 19):
        part = q.quantize(
            x[first:], format, "stochastic", random=q.RandomBits(3, 5, 7, offset=first * 96)
        )
        assert (part == whole[first:]).all()


def views() -> dict[str, np.ndarray]:
    x = array("float32", (24, 40))
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    misaligned = buffer[1:].view(np.float32).reshape(x.shape)
    misaligned[...] = x
    wide = np.zeros((48, 80), np.float32)
    wide[::2, :40] = x
    every_other = np.zeros((24, 80), np.float32)
    every_other[:, ::2] = x
    readonly = x.copy()
    readonly.flags.writeable = False
    record = np.zeros((24, 40), [("a", np.uint8), ("x", np.float32)])
    record["x"] = x
    return {
        "plain": x,
        "misaligned": misaligned,
        "rows apart": wide[::2, :40],
        "columns apart": every_other[:, ::2],
        "columns first": np.asfortranarray(x),
        "turned": x[::-1, ::-1].copy()[::-1, ::-1],
        "read only": readonly,
        "in a record": record["x"],
    }


@pytest.mark.parametrize("view", list(views()))
@pytest.mark.parametrize("format", FORMATS)
def test_strides(format: str, view: str) -> None:
    given = views()
    expected = q.quantize(given["plain"].copy(), format, "stochastic", random=RANDOM)
    before = bits(given[view]).copy()
    assert (
        bits(q.quantize(given[view], format, "stochastic", random=RANDOM)) == bits(expected)
    ).all()
    assert (bits(given[view]) == before).all()
    if view == "read only":
        with pytest.raises(ValueError, match="read-only"):
            q.quantize(given["plain"], format, "stochastic", random=RANDOM, out=given[view])
        return
    assert (
        q.quantize(given[view], format, "stochastic", random=RANDOM, out=given[view]) is given[view]
    )
    assert (bits(given[view]) == bits(expected)).all()


@pytest.mark.parametrize("shift", [1, 40, 41])
def test_an_out_that_overlaps(shift: int) -> None:
    memory = large((1, 4000))[0]
    x, out = memory[: 40 * 30].reshape(30, 40), memory[shift : shift + 40 * 30].reshape(30, 40)
    expected = q.quantize(x.copy(), "bfp<8,axis=0>")
    assert q.quantize(x, "bfp<8,axis=0>", out=out) is out
    assert (out == expected).all()


def test_tensors() -> None:
    """Zero-copy where memory allows; gradients, versions and views as with the reference
    implementation.
    """
    x = torch.from_numpy(large((2, 3, 4, 5))).contiguous(memory_format=torch.channels_last)
    for format in ("bfp<8,axis=0>", "e4m3fn", "bfp<8,axis=1>"):
        expected = q.quantize(x.contiguous().numpy(), format, "stochastic", random=RANDOM)
        assert (q.quantize(x, format, "stochastic", random=RANDOM).numpy() == expected).all()
        for out in (
            torch.empty(2, 3, 4, 5),
            torch.empty_like(x),
            torch.empty(2, 3, 5, 4).transpose(2, 3),
        ):
            version = out._version
            assert q.quantize(x, format, "stochastic", random=RANDOM, out=out) is out
            assert (out.numpy() == expected).all()
            assert out._version > version
    whole = torch.from_numpy(large((1, 300))[0])
    shifted, expected = whole[1:201], q.quantize(whole[:200].numpy().copy(), "e4m3fn")
    assert (q.quantize(whole[:200], "e4m3fn", out=shifted).numpy() == expected).all()


def test_tensors_inside_transforms() -> None:
    """Where a tensor has no memory of its own, the reference implementation rounds it."""
    x = torch.from_numpy(large((4, 6)))
    mapped = torch.func.vmap(lambda row: q.quantize(row, "e4m3fn"))(x)
    assert (mapped == q.quantize(x, "e4m3fn")).all()
    assert q.quantize(torch.empty(3, device="meta"), "e4m3fn").is_meta


def _child(queue: Any) -> None:
    queue.put(q.quantize(large((700, 331)), "bfp8", "stochastic", random=RANDOM).tobytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
def test_a_process_may_fork(threads: Any) -> None:
    threads(2)
    expected = q.quantize(large((700, 331)), "bfp8", "stochastic", random=RANDOM).tobytes()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(queue,)) for _ in range(3)]
    for child in children:
        child.start()
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert found == [expected] * 3


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"QEMU_SWALP_NUM_THREADS": "5", "OMP_NUM_THREADS": "3"}, 5),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        (
            {"OMP_NUM_THREADS": "many"},
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        ),
    ],
)
def test_the_usual_settings(environment: dict[str, str], threads: int) -> None:
    clean = {
        k: v
        for k, v in os.environ.items()
        if k not in ("QEMU_SWALP_NUM_THREADS", "OMP_NUM_THREADS")
    }
    script = "import qemu_swalp as q; print(q.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", script], env=clean | environment, capture_output=True, text=True
    )
    assert int(done.stdout) == threads


@pytest.mark.parametrize("count", [0, -1, 1025, 1.5, True])
def test_numbers_of_threads_that_are_none(count: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="threads must be"):
        q.set_num_threads(count)


def test_without_kernels() -> None:
    script = (
        "import numpy as np, qemu_swalp as q; from qemu_swalp import kernels; "
        "print(kernels.enabled(), q.quantize(np.float32([0.1, 1.3]), 'e4m3fn').tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"QEMU_SWALP_KERNELS": "off"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False [0.1015625, 1.25]"


@pytest.mark.exhaustive
def test_more_than_two_to_the_31_elements() -> None:
    """Eight GiB: indices of 64 bits. The ends are compared with small arrays whose random bits
    start there.
    """
    count, tail = 2**31 + 4096, 8192
    x = np.zeros(count, np.float16)
    x[-tail:] = np.random.default_rng(1).standard_normal(tail)
    end = x[-tail:].copy()
    assert q.quantize(x, "e4m3fn", "stochastic", random=RANDOM, out=x) is x
    expected = q.quantize(
        end, "e4m3fn", "stochastic", random=q.RandomBits(3, 5, 7, offset=count - tail)
    )
    assert (x[-tail:] == expected).all()
