"""How long memory on a device lives: copies of tables, and what graphs read and write.
`tests/kernels/test_stand_in.py` runs it with the plugin.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import cupy
import numpy as np
import pytest
import torch

import qemu_swalp as q
from qemu_swalp.arrays.dtypes import SOURCE_DTYPES
from qemu_swalp.kernels.gpu import cupy_devices
from qemu_swalp.kernels.gpu.copies import Copies
from qemu_swalp.kernels.gpu.device import plan_on
from qemu_swalp.kernels.plan import plan_of
from qemu_swalp.ops.quantizer import Quantizer
from qemu_swalp.ops.round_many import round_many
from qemu_swalp.reference.context import Target
from qemu_swalp.training import SGD, Recipe
from tests.stand_in import cupy_module, graphs, memory, torch_cuda

VALUES = np.random.default_rng(0).standard_normal((30, 20)).astype(np.float32) * 9
WORDS = np.random.default_rng(1).integers(0, 2**32, VALUES.shape, np.uint32)


class Torch:
    device = cupy_devices.torch_gpu(0).device

    def array(self, values: np.ndarray) -> Any:
        return torch.from_numpy(values.copy()).to("cuda")

    def numpy(self, x: Any) -> np.ndarray:
        found: np.ndarray = x.cpu().numpy()
        return found

    def beside(self, number: int) -> AbstractContextManager[Any]:
        return torch.cuda.stream(torch_cuda.Stream(number))

    @contextmanager
    def captured(self) -> Iterator[Any]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            yield graph.replay


class Cupy:
    device = cupy_devices.cupy_gpu(0).device

    def array(self, values: np.ndarray) -> Any:
        return cupy.asarray(values)

    def numpy(self, x: Any) -> np.ndarray:
        found: np.ndarray = cupy.asnumpy(x)
        return found

    def beside(self, number: int) -> AbstractContextManager[Any]:
        stream: AbstractContextManager[Any] = cupy.cuda.Stream(number)
        return stream

    @contextmanager
    def captured(self) -> Iterator[Any]:
        stream, graph = cupy.cuda.Stream(99), []
        with stream:
            stream.begin_capture()
            try:
                yield lambda: graph[0].launch()
            finally:
                graph.append(stream.end_capture())


@pytest.fixture(params=[Torch, Cupy], ids=["torch", "cupy"])
def library(request: pytest.FixtureRequest) -> Any:
    return request.param()


def codebook(i: int) -> str:
    """A format with tables of its own."""
    return f"codebook<{','.join(str(k + i / 1024) for k in range(-20, 21))}>"


def fill_free_memory(value: int) -> list[np.ndarray]:
    """What was given back is taken by others, and written to."""
    taken = []
    for (device, size), free in memory._FREE.items():
        count = len(free) if device == 0 else 0
        taken += [memory.empty((size - 9,), np.uint8) for _ in range(count)]
    for each in taken:
        each.fill(value)
    return taken


FORMATS = [codebook(i) for i in range(30)]


@pytest.fixture
def few(library: Any, monkeypatch: pytest.MonkeyPatch) -> Copies:
    """Room for the copies of few of these formats."""
    made = Copies(library.device, 1 << 14)
    monkeypatch.setattr(library.device, "copies", made)
    return made


def live(copies: Copies) -> int:
    """Bytes of all copies that are not given back."""
    return sum(c.size for c in copies._found.values()) + sum(m.size for m in copies._given_back)


def test_copies_are_bounded_and_kernels_that_wait_have_theirs(library: Any, few: Copies) -> None:
    x, outs = library.array(VALUES), []
    for format in FORMATS[:2]:
        q.quantize(x, format)  # compiled
    with graphs.late():
        for number, format in enumerate(FORMATS, 1000):
            with library.beside(number):
                outs.append(q.quantize(x, format))
            assert live(few) <= few.limit * 9 // 8 + (1 << 12), format
    assert live(few) > few.limit // 2
    for format, out in zip(FORMATS, outs, strict=True):
        assert np.array_equal(library.numpy(out), q.quantize(VALUES, format)), format


def test_what_was_used_last_stays(
    library: Any, few: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, placed, place = library.array(VALUES), [], type(library.device).place
    monkeypatch.setattr(
        type(library.device), "place", lambda self, data: placed.append(1) or place(self, data)
    )
    q.quantize(x, FORMATS[0])
    for format in FORMATS[1:]:
        assert placed
        placed.clear()
        q.quantize(x, FORMATS[0])
        assert not placed
        q.quantize(x, format)
    placed.clear()
    q.quantize(x, FORMATS[1])
    assert placed


def test_steps_have_their_tables_though_they_are_no_longer_kept(library: Any, few: Copies) -> None:
    recipe = Recipe(weight=f"{FORMATS[0]}/nearest_even")

    def stepped(convert: Any) -> tuple[Any, Any]:
        optimizer, params = SGD(0.5, recipe=recipe), {"w": convert(VALUES)}
        return lambda: optimizer.update(
            params, {"w": convert(VALUES[::-1].copy())}, optimizer.init(params)
        )[0]["w"]

    step, expected = stepped(library.array), stepped(np.array)()
    for formats in (FORMATS[1:], ()):
        assert np.array_equal(library.numpy(step()), expected)
        for format in formats:
            q.quantize(library.array(VALUES), format)
        gc.collect()
        few._give_back()
        taken = fill_free_memory(0xAA)
    del taken


def test_copies_of_calls_of_many_tensors_are_bounded(library: Any, few: Copies) -> None:
    """A call has all that it needs, which may be more; nothing but `few` keeps it for later."""
    quantizers = [Quantizer(f"{format}/nearest_even") for format in FORMATS]
    expected = [q.quantize(VALUES, format) for format in FORMATS]

    def rounded(quantizers: list[Quantizer]) -> list[Any]:
        arrays = [library.array(VALUES) for _ in quantizers]
        assert all(round_many(arrays, quantizers, [None] * len(arrays)))
        return arrays

    cupy_module.LAUNCHED.clear()
    found = []
    for quantizer in quantizers:
        found += rounded([quantizer])
        assert live(few) <= few.limit * 9 // 8 + (1 << 12), quantizer
    together = rounded(quantizers)
    assert live(few) > few.limit * 2
    rounded(quantizers[:1])
    assert live(few) <= few.limit * 9 // 8 + (1 << 12)
    for got in (found, together):
        for format, array, values in zip(FORMATS, got, expected, strict=True):
            assert np.array_equal(library.numpy(array), values), format
    assert {kernel for kernel, _ in cupy_module.LAUNCHED} == {"qs_round_many"}
    assert len(cupy_module.LAUNCHED) == len(FORMATS) + 2, "together they are one"


def test_keys_of_the_same_copies_are_bounded(library: Any, few: Copies) -> None:
    few.most = 5
    table = few.recent("table", lambda: few.copy(b"table"))
    for i in range(9):
        found = few.recent(i, lambda: few.copy(b"table"))
        assert found is table
        few.recent("table", lambda: few.copy(b"another"))
        assert len(few._recent) <= 5
    assert list(few._recent) == [5, 6, 7, 8, "table"]
    assert few._size == len(b"table")


def test_graphs_keep_the_copies_that_they_read(library: Any, few: Copies) -> None:
    x, replays = library.array(VALUES), []
    outs = [library.array(VALUES * 0) for _ in range(3)]
    for format, out in zip(FORMATS, outs, strict=False):
        q.quantize(x, format, out=out)
        with library.captured() as replay:
            q.quantize(x, format, out=out)
        replays.append(replay)
    for format in FORMATS[3:]:
        q.quantize(x, format)
    gc.collect()
    few._give_back()
    taken = fill_free_memory(0xAA)
    for format, out, replay in zip(FORMATS, outs, replays, strict=False):
        out[...] = 0
        replay()
        assert np.array_equal(library.numpy(out), q.quantize(VALUES, format)), format
    del taken


def test_calls_of_many_tensors_are_not_captured(library: Any) -> None:
    """Replays would read the tables of tensors, whose memory is given back after the launch."""
    x, quantizers = library.array(VALUES), [Quantizer("e4m3fn/nearest_even")]
    assert round_many([x], quantizers, [None]) == [True]
    with library.captured():
        assert round_many([x], quantizers, [None]) == [False]


@pytest.mark.parametrize(
    "case", ["two levels", "one scale", "a view", "words", "another order", "a product"]
)
def test_graphs_keep_the_memory_that_calls_took(case: str, library: Any) -> None:
    """What a call takes beside its arrays: scales in two passes, copies in C order."""
    view = VALUES[:, ::2]
    x, view_of_x, words = (library.array(a) for a in (VALUES, VALUES, WORDS))
    wide = library.array(np.tile(VALUES, (15, 15)))
    wide_out = library.array(np.tile(VALUES, (15, 15)))
    out, small = library.array(VALUES), library.array(np.ascontiguousarray(view))
    turned = library.array(np.ascontiguousarray(WORDS.T)).T

    def run() -> Any:
        if case == "two levels":
            return q.quantize(x, "nvfp4", out=out)
        if case == "one scale":
            return q.quantize(wide, "bfp8", out=wide_out)
        if case == "a view":
            return q.quantize(view_of_x[:, ::2], "e4m3fn", out=small)
        if case == "words":
            return q.quantize(x, "e4m3fn", "stochastic", random=words, out=out)
        if case == "another order":
            return q.quantize(x, "e4m3fn", "stochastic", random=turned, out=out)
        return q.matmul(x, x.T, "e4m3fn/nearest_even")

    expected = library.numpy(run()).copy()
    with library.captured() as replay:
        result = run()
    gc.collect()
    for value in (0xAA, 0):
        taken = fill_free_memory(value)
        if case != "a product":
            result[...] = 0
        replay()
        assert np.array_equal(library.numpy(result), expected)
        assert all((each == value).all() for each in taken)
        del taken


def given_back(copies: Copies) -> int:
    """Bytes that wait for the device."""
    return sum(memory.size for memory in copies._given_back)


def test_a_first_use_within_a_capture_is_refused(library: Any, few: Copies) -> None:
    """Also that of a format whose tables are no longer kept, and where much memory waits to be
    given back; the capture goes on, and what was refused goes on after it.
    """
    x, out = library.array(VALUES), library.array(VALUES)
    for format in FORMATS:
        q.quantize(x, format, out=out)
    few.limit //= 2
    q.quantize(x, codebook(998), out=out)
    q.quantize(x, FORMATS[-1], out=out)
    assert given_back(few) > few.limit // 8
    with library.captured():
        q.quantize(x, FORMATS[-1], out=out)
        for format in (FORMATS[0], codebook(999)):
            with pytest.raises(RuntimeError, match="do once what is to be captured"):
                q.quantize(x, format, out=out)
    for format in (FORMATS[0], codebook(999)):
        q.quantize(x, format, out=out)
        assert np.array_equal(library.numpy(out), q.quantize(VALUES, format))


def test_captures_of_other_threads_are_not_spoiled(library: Any, few: Copies) -> None:
    """By a wait for the device. Whoever captured and asks no more holds back a bounded part."""
    x, out, numbers = library.array(VALUES), library.array(VALUES), iter(range(100, 900))

    def place() -> int:
        plan = plan_of(SOURCE_DTYPES["float32"], target(codebook(next(numbers))))
        assert plan is not None
        plan_on(library.device, plan)
        return given_back(few)

    def placed_elsewhere(count: int) -> int:
        with ThreadPoolExecutor(1) as pool:
            return max(pool.submit(place).result() for _ in range(count))

    soon, late, one = few.limit // 8, few.limit, 1 << 12
    for format in FORMATS:
        q.quantize(x, format, out=out)
    assert placed_elsewhere(10) < soon + one
    with library.captured() as replay:
        q.quantize(x, FORMATS[-1], out=out)
        assert soon + one < placed_elsewhere(10) < late
    assert late - one < placed_elsewhere(30) < late + one
    q.quantize(x, FORMATS[-1])
    place()
    assert placed_elsewhere(10) < soon + one
    out[...] = 0
    replay()
    assert np.array_equal(library.numpy(out), q.quantize(VALUES, FORMATS[-1]))


def test_threads_that_need_more_than_is_kept(library: Any, few: Copies) -> None:
    """What one of them makes the others forget, kernels still find."""
    x = library.array(VALUES)

    def placed(first: int) -> None:
        for i in range(first, first + 40):
            plan = plan_of(SOURCE_DTYPES["float32"], target(codebook(i % 50)))
            assert plan is not None
            found = plan_on(library.device, plan)
            addresses = {copy.address for copy in found.copies}
            assert {found.structure.table.values, found.structure.table.thresholds} <= addresses

    q.quantize(x, FORMATS[0])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(placed, range(0, 80, 10)))
    finally:
        sys.setswitchinterval(interval)
    assert few._size == sum(copy.size for copy in few._holders) <= few.limit
    held = [copy for each in few._recent.values() for copy in each.copies]
    assert set(held) == set(few._holders)


def target(format: str) -> Target:
    return Target(q.parse(format), "saturate", q.Rounding.parse("nearest_even"))


@pytest.mark.parametrize("format", ["e4m3fn", "nf4", "bfp8", "mxfp4"])
def test_arrays_without_elements_or_axes(format: str, library: Any) -> None:
    for shape in ((0,), (3, 0), (0, 4, 5)):
        empty = library.array(np.zeros(shape, np.float32))
        got = q.quantize(empty, format)
        assert tuple(got.shape) == shape
        assert q.quantize(empty, format, out=got) is got
    if format != "mxfp4":
        number = np.full((), 1.3, np.float32)
        got = q.quantize(library.array(number), format)
        assert np.array_equal(library.numpy(got), q.quantize(number, format))
