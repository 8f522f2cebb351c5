"""Every array library and execution mode behind one interface, NumPy in and NumPy out, for the
`backend` fixture.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

import qemu_swalp as q
from qemu_swalp import kernels

DTYPES = ("float16", "bfloat16", "float32", "float64")


def dtype_name(x: np.ndarray) -> str:
    return "bfloat16" if x.dtype == ml_dtypes.bfloat16 else x.dtype.name


def kernels_if(used: bool) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if used else kernels.disabled()


class Backend:
    """NumPy itself; the others override the conversions and `call`."""

    name = "numpy"
    dtypes = DTYPES
    every_vector = False
    """Whether compiled backends run every conformance vector, not a sample of some files."""
    half: int | None = None
    """Of what takes seconds to trace or compile, two ways of one library do one half each."""

    def array(self, x: np.ndarray) -> Any:
        return x

    def numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)

    def call(self, function: Any, *arrays: Any) -> Any:
        return function(*arrays)

    def context(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def share(self, items: Sequence[Any], turn: int) -> Sequence[Any]:
        """All, or every other one; which ones it begins with changes from turn to turn."""
        return (
            items if self.half is None or self.every_vector else items[(turn + self.half) % 2 :: 2]
        )

    def _run(self, function: Any, dtype: str, *arrays: np.ndarray) -> Any:
        with self.context(dtype):
            result = self.call(function, *[self.array(a) for a in arrays])
            if isinstance(result, list):
                return [self.numpy(r) for r in result]
            if isinstance(result, tuple):
                return q.BlockCodes(
                    *(None if part is None else self.numpy(part) for part in result)
                )
            return self.numpy(result)

    def quantize_all(
        self, x: np.ndarray, format: Any, roundings: Sequence[str], words: np.ndarray
    ) -> list[np.ndarray]:
        """One result for each rounding, from one call: one graph to compile."""
        return self._run(
            lambda a, w: [q.quantize(a, format, r, random=w) for r in roundings],
            dtype_name(x),
            x,
            words.astype(np.uint32),
        )

    def quantize(
        self,
        x: np.ndarray,
        format: Any,
        rounding: Any = "nearest_even",
        words: np.ndarray | None = None,
        overflow: Any = None,
        random: q.RandomBits | None = None,
        **given: np.ndarray,
    ) -> np.ndarray:
        if words is not None:
            return self._run(
                lambda a, w: q.quantize(a, format, rounding, random=w, overflow=overflow),
                dtype_name(x),
                x,
                words.astype(np.uint32),
            )
        return self._run(
            lambda a: q.quantize(a, format, rounding, random=random, overflow=overflow, **given),
            dtype_name(x),
            x,
        )

    def matmul(
        self, a: np.ndarray, b: np.ndarray, accumulation: Any, random: q.RandomBits | None = None
    ) -> np.ndarray:
        return self._run(lambda a, b: q.matmul(a, b, accumulation, random=random), "float64", a, b)

    def operate(
        self,
        operation: str,
        operands: Sequence[np.ndarray],
        quantizer: Any,
        random: q.RandomBits | None = None,
    ) -> np.ndarray:
        """One of `qemu_swalp.ops.elementwise`, by name."""
        function = getattr(q, operation)
        return self._run(
            lambda *given: function(*given, quantizer, random=random), "float64", *operands
        )

    def encode(
        self,
        x: np.ndarray,
        format: Any,
        rounding: Any = None,
        words: np.ndarray | None = None,
        overflow: Any = None,
    ) -> Any:
        if words is not None:
            return self._run(
                lambda a, w: q.encode(a, format, rounding, random=w, overflow=overflow),
                dtype_name(x),
                x,
                words.astype(np.uint32),
            )
        return self._run(
            lambda a: q.encode(a, format, rounding, overflow=overflow), dtype_name(x), x
        )

    def decode(self, codes: Any, format: Any, dtype: str = "float32") -> np.ndarray:
        if isinstance(codes, tuple):
            present = [part is not None for part in codes]

            def whole(*parts: Any) -> Any:
                left = iter(parts)
                return q.decode(
                    q.BlockCodes(*(next(left) if there else None for there in present)),
                    format,
                    dtype,
                )

            return self._run(whole, dtype, *(part for part in codes if part is not None))
        return self._run(lambda c: q.decode(c, format, dtype), dtype, codes)


class NumpyProgram(Backend):
    """The reference implementation on NumPy, without the compiled kernels."""

    name = "numpy-program"

    def call(self, function: Any, *arrays: Any) -> Any:
        with kernels.disabled():
            return function(*arrays)


class Cupy(Backend):
    name = "cupy"
    dtypes = ("float16", "float32", "float64")

    def __init__(self) -> None:
        import cupy

        cupy.zeros(1)
        self.xp = cupy

    def array(self, x: np.ndarray) -> Any:
        return self.xp.asarray(x)

    def numpy(self, x: Any) -> np.ndarray:
        return self.xp.asnumpy(x)


class Torch(Backend):
    name = "torch"
    device = "cpu"

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def array(self, x: np.ndarray) -> Any:
        if x.dtype == ml_dtypes.bfloat16:
            return (
                self.torch.from_numpy(x.view(np.int16).copy())
                .view(self.torch.bfloat16)
                .to(self.device)
            )
        return self.torch.from_numpy(np.ascontiguousarray(x).reshape(x.shape).copy()).to(
            self.device
        )

    def numpy(self, x: Any) -> np.ndarray:
        x = x.cpu()
        if x.dtype == self.torch.bfloat16:
            return x.view(self.torch.int16).numpy().view(ml_dtypes.bfloat16)
        return x.numpy()


class TorchProgram(Torch):
    """The reference implementation on PyTorch, without the compiled kernels."""

    name = "torch-program"

    def call(self, function: Any, *arrays: Any) -> Any:
        with kernels.disabled():
            return function(*arrays)


class TorchCuda(Torch):
    name = "torch-cuda"
    device = "cuda"

    def __init__(self) -> None:
        super().__init__()
        self.torch.zeros(1, device="cuda")


class Tensorflow(Backend):
    """The reference implementation; `WITH_KERNELS` has the kernels in TensorFlow and JAX."""

    name = "tensorflow"
    kernels = False

    def __init__(self) -> None:
        import tensorflow as tf

        self.tf = tf

    def call(self, function: Any, *arrays: Any) -> Any:
        with kernels_if(self.kernels):
            return function(*arrays)

    def array(self, x: np.ndarray) -> Any:
        return self.tf.constant(x)

    def numpy(self, x: Any) -> np.ndarray:
        return x.numpy()


class TensorflowFunction(Tensorflow):
    name = "tensorflow-function"
    jit = False
    half = 1

    def call(self, function: Any, *arrays: Any) -> Any:
        with kernels_if(self.kernels):
            return self.tf.function(function, jit_compile=self.jit, autograph=False)(*arrays)


class TensorflowXla(TensorflowFunction):
    name = "tensorflow-xla"
    jit = True
    half = 0


class Jax(Backend):
    """Operation by operation: each compiles once for all formats, where eager calls compile a
    program for each.
    """

    name = "jax"
    kernels = False
    op_by_op = True
    half = 0

    def __init__(self) -> None:
        import jax

        self.jax = jax

    @contextlib.contextmanager
    def context(self, dtype: str) -> Iterator[None]:
        """64-bit integers only for float64: the other dtypes must do without, as JAX does by
        default.
        """
        with self.jax.enable_x64(dtype == "float64"), self.jax.disable_jit(self.op_by_op):
            yield

    def array(self, x: np.ndarray) -> Any:
        return self.jax.numpy.asarray(x)

    def call(self, function: Any, *arrays: Any) -> Any:
        with kernels_if(self.kernels):
            return function(*arrays)


class JaxJit(Jax):
    name = "jax-jit"
    op_by_op = False
    half = 1

    def call(self, function: Any, *arrays: Any) -> Any:
        compiled = self.jax.jit(function)
        with kernels_if(self.kernels):
            result = compiled(*arrays)
        # each call compiles anew, and thousands of programs do not fit in memory
        compiled.clear_cache()
        return result


class JaxKernels(Jax):
    name = "jax-kernels"
    kernels = True
    half = None


class JaxJitKernels(JaxJit):
    name = "jax-jit-kernels"
    kernels = True
    half = None


class TensorflowKernels(Tensorflow):
    name = "tensorflow-kernels"
    kernels = True


class TensorflowFunctionKernels(TensorflowFunction):
    name = "tensorflow-function-kernels"
    kernels = True
    half = None


class TensorflowXlaKernels(TensorflowXla):
    name = "tensorflow-xla-kernels"
    kernels = True
    half = None


WITH_KERNELS = (
    JaxKernels,
    JaxJitKernels,
    TensorflowKernels,
    TensorflowFunctionKernels,
    TensorflowXlaKernels,
)
"""For `tests/kernels/test_programs.py`, since their other operations are those of the others."""


BACKENDS = {
    b.name: b
    for b in (
        Backend,
        NumpyProgram,
        Cupy,
        Torch,
        TorchProgram,
        TorchCuda,
        Tensorflow,
        TensorflowFunction,
        TensorflowXla,
        Jax,
        JaxJit,
    )
}
NEED_GPU = {"cupy", "torch-cuda"}


@functools.cache
def backend(name: str) -> Backend:
    return BACKENDS[name]()


def gpu_missing(name: str) -> str:
    """Why a GPU backend cannot run here; "" if it can."""
    try:
        backend(name)
    except Exception as error:
        reason = f"{name} needs a CUDA GPU and its library: {type(error).__name__}: {error}"
        return reason.splitlines()[0]
    return ""


def same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mask of equal bits; any NaN equals any NaN."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    integers = [
        np.ascontiguousarray(v).view(f"i{a.dtype.itemsize}").reshape(a.shape) for v in (a, b)
    ]
    with np.errstate(invalid="ignore"):
        nan = np.isnan(a.astype(np.float64)) & np.isnan(b.astype(np.float64))
    return (integers[0] == integers[1]) | nan
