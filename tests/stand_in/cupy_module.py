"""The module `cupy`, of NumPy's arrays and the emulated kernels."""

from __future__ import annotations

import ctypes
import functools
import sys
import types
import warnings
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np

from qemu_swalp.kernels import build
from tests.helpers import emulated

from . import NAME, graphs, memory

VERSION = "14.2.0+stand.in"
LAUNCHED: list[tuple[str, int]] = []
"""(kernel, stream) of every launch that was not captured."""


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the device: no NumPy array, and not one implicitly."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return _wrapped(getattr(ufunc, method))(*inputs, **options)

    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self._values.ctypes.data)

    @property
    def device(self) -> Device:
        return Device(memory.device_at(self.data.ptr) or 0)

    @property
    def T(self) -> ndarray:
        return ndarray(self._values.T)

    def __getitem__(self, index: Any) -> Any:
        return _own(self._values[_bare(index)])

    def __setitem__(self, index: Any, values: Any) -> None:
        self._values[_bare(index)] = _bare(values)

    def __len__(self) -> int:
        return len(self._values)

    def __bool__(self) -> bool:
        return bool(self._values)

    def __int__(self) -> int:
        return int(self._values)

    def __float__(self) -> float:
        return float(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._values, name)
        return _wrapped(value) if callable(value) else _own(value)


def _bare(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._values
    if type(value) in (list, tuple):
        return type(value)(map(_bare, value))
    return value


def _own(value: Any) -> Any:
    """What NumPy gave, on the device: in memory of the pool, unless it is a view."""
    if type(value) is tuple:
        return tuple(map(_own, value))
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        return value
    return ndarray(value if value.base is not None or value.size == 0 else _copied(value))


def _copied(values: np.ndarray) -> np.ndarray:
    axes = sorted(range(values.ndim), key=lambda axis: -abs(values.strides[axis]))  # order="K"
    lying = memory.empty(tuple(values.shape[axis] for axis in axes), values.dtype)
    copy = lying.transpose(np.argsort(axes)) if axes else lying
    copy[...] = values
    return copy


def _wrapped(function: Any) -> Any:
    """A function of NumPy on arrays of the device, which refuses those of the host."""

    @functools.wraps(function, updated=())
    def wrapped(*arguments: Any, **options: Any) -> Any:
        for value in (*arguments, *options.values()):
            if isinstance(value, np.ndarray) and value.ndim:
                raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        given = {name: _bare(value) for name, value in options.items()}
        return _own(function(*map(_bare, arguments), **given))

    return wrapped


class Device:
    """One of the devices."""

    attributes = {"MultiProcessorCount": 3}  # noqa: RUF012

    def __init__(self, number: int | None = None) -> None:
        self.id = memory.current[-1] if number is None else int(number)

    def __enter__(self) -> Device:
        memory.current.append(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        memory.current.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def synchronize(self) -> None:
        graphs.refuse_in_capture("cudaDeviceSynchronize", of_any_thread=True)
        graphs.finish()


class Stream:
    """A stream by its address, which work is told of and does not wait for."""

    current: list[Stream] = []  # noqa: RUF012

    def __init__(self, ptr: int = 0) -> None:
        self.ptr = ptr

    @classmethod
    def from_external(cls, stream: Any) -> Stream:
        return cls(stream.__cuda_stream__()[1])

    def __enter__(self) -> Stream:
        Stream.current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        Stream.current.pop()

    def synchronize(self) -> None:
        graphs.refuse_in_capture("cudaStreamSynchronize")
        graphs.finish(self.ptr)

    def begin_capture(self) -> None:
        graphs.begin(graphs.Graph())

    def end_capture(self) -> graphs.Graph:
        return graphs.end()

    def is_capturing(self) -> bool:
        return graphs.capturing()


def ExternalStream(ptr: int, device_id: int = -1) -> Stream:
    """Deprecated since CuPy 14."""
    warnings.warn("ExternalStream is deprecated", DeprecationWarning, stacklevel=2)
    return Stream(ptr)


def get_current_stream() -> Stream:
    return Stream.current[-1] if Stream.current else Stream()


class RawModule:
    """A program of `src/cuda`, known by its text and its definitions, compiled for the CPU."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        graphs.refuse_in_capture("cuModuleLoadData")
        defined = tuple(
            tuple(option[2:].split("=", 1))
            for option in options
            if option.startswith("-D") and not option.startswith(("-DQS_SOURCES", "-DQS_LAYOUTS"))
        )
        (source,) = (
            path.relative_to(build.SOURCES).as_posix()
            for path in (build.SOURCES / "cuda").glob("*.cu")
            if path.read_text() == code
        )
        self._library = emulated.library(build.CudaProgram(source, defined))

    def get_function(self, name: str) -> Any:
        kernel = getattr(self._library, f"emulated_{name}")

        def launch(grid: tuple[int], block: tuple[int], arguments: tuple[Any]) -> None:
            (argument,) = arguments
            (blocks,), (threads,) = grid, block
            assert 0 < blocks < 2**31, grid
            assert threads == 256, block
            call = ctypes.string_at(argument.ptr, kernel_bytes(name))
            refuse_other_devices(call, kernel_structure(name))

            stream = get_current_stream().ptr

            def run() -> None:
                kernel(blocks, ctypes.create_string_buffer(call, len(call)))
                LAUNCHED.append((name, stream))

            graphs.launched(run, stream)

        return launch


class CPointer:
    """The address of an argument of a kernel."""

    def __init__(self, ptr: int = 0) -> None:
        self.ptr = ptr


def kernel_structure(name: str) -> type[ctypes.Structure]:
    """A kernel's argument."""
    from qemu_swalp.kernels import structs

    others: dict[str, type[ctypes.Structure]] = {
        "qs_span": structs.SpanCall,
        "qs_matmul": structs.MatmulCall,
        "qs_round_many": structs.RoundManyCall,
        "qs_sgd": structs.SgdCall,
    }
    return others.get(name, structs.QuantizeCall)


def kernel_bytes(name: str) -> int:
    """Of a kernel's argument."""
    return ctypes.sizeof(kernel_structure(name))


def refuse_other_devices(data: bytes, kind: type[ctypes.Structure]) -> None:
    """RuntimeError if a structure points to memory of a device that is not the current one."""
    structure = kind.from_buffer_copy(data)
    for name, field, *_ in kind._fields_:
        value = getattr(structure, name)
        if isinstance(value, ctypes.Structure):
            refuse_other_devices(bytes(value), type(value))
        elif (
            field is ctypes.c_void_p
            and value
            and memory.device_at(value) not in (None, memory.current[-1])
        ):
            raise RuntimeError(f"cudaErrorIllegalAddress: {kind.__name__}.{name}")


def _on_device(values: Any, *arguments: Any, **options: Any) -> ndarray:
    return ndarray(_copied(np.array(_bare(values), *arguments, **options)))


def _as_on_device(values: Any, *arguments: Any, **options: Any) -> ndarray:
    if isinstance(values, ndarray) and not arguments and not options:
        return values
    return _on_device(values, *arguments, **options)


def _as_on_current(values: Any, *arguments: Any, **options: Any) -> ndarray:
    if isinstance(values, ndarray) and values.device != Device():
        return _on_device(values, *arguments, **options)
    return _as_on_device(values, *arguments, **options)


def module() -> types.ModuleType:
    """A new module `cupy`."""
    cupy = types.ModuleType("cupy", __doc__)
    for name in dir(np):
        value = getattr(np, name)
        if not name.startswith("_"):
            is_function = callable(value) and not isinstance(value, type)
            setattr(cupy, name, _wrapped(value) if is_function else value)
    parts = {
        "ndarray": ndarray,
        "asnumpy": lambda array: _bare(array).copy(),
        "array": _on_device,
        "asarray": _as_on_current,
        "empty": lambda shape, dtype=float: ndarray(memory.empty(shape, dtype)),
        "RawModule": RawModule,
        "__version__": VERSION,
    }
    cuda = types.ModuleType("cupy.cuda")
    for name, value in {
        "Device": Device,
        "Stream": Stream,
        "ExternalStream": ExternalStream,
        "get_current_stream": get_current_stream,
        "function": types.SimpleNamespace(CPointer=CPointer),
        "runtime": types.SimpleNamespace(
            getDeviceCount=lambda: memory.DEVICES,
            getDevice=lambda: memory.current[-1],
            getDeviceProperties=lambda number: {"name": NAME.encode()},
            is_hip=False,
        ),
        "nvrtc": types.SimpleNamespace(getVersion=lambda: (13, 0)),
    }.items():
        setattr(cuda, name, value)
    for name, value in {**parts, "cuda": cuda}.items():
        setattr(cupy, name, value)
    for each in (cupy, cuda):
        each.__spec__ = ModuleSpec(each.__name__, None)
    return cupy


def install() -> None:
    """As `cupy`, for this process. RuntimeError if a real one is imported already."""
    if "cupy" in sys.modules:
        raise RuntimeError("a real CuPy is imported: the stand-in is for processes without one")
    sys.modules["cupy"] = cupy = module()
    sys.modules["cupy.cuda"] = cupy.cuda
