"""`torch.cuda` and its tensors: those of the CPU whose storage is marked."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qemu_swalp.arrays import _torch

from . import NAME, graphs, memory

HOST = torch.device("cpu")
_MARK = "on_the_stand_in"
_to, _cpu, _numpy = torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.numpy


def is_marked(x: torch.Tensor) -> bool:
    """Whether a tensor counts as CUDA's."""
    with torch._C.DisableTorchFunction():
        return x.layout == torch.strided and hasattr(x.untyped_storage(), _MARK)


def mark(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor, from now on that device's, and so are all that share its storage."""
    with torch._C.DisableTorchFunction():
        if x.layout == torch.strided:
            number = memory.current[-1] if device.index is None else device.index
            setattr(x.untyped_storage(), _MARK, torch.device("cuda", number))
    return x


def device_of(x: torch.Tensor) -> torch.device:
    """`Tensor.device`."""
    if not is_marked(x):
        return _device(x)
    with torch._C.DisableTorchFunction():
        return getattr(x.untyped_storage(), _MARK)


_device = torch.Tensor.device.__get__


def _tensors(values: Any) -> list[torch.Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor)]


class Factories(TorchFunctionMode):
    """What is asked for on a CUDA device is made on the host, and marked."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("device")
        if not isinstance(asked, str | torch.device) or torch.device(asked).type != "cuda":
            return function(*args, **kwargs)
        return mark(function(*args, **{**kwargs, "device": HOST}), torch.device(asked))


class OnDevice(TorchDispatchMode):
    """Results of marked tensors are marked."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("device")
        if on_cuda := asked is not None and asked.type == "cuda":
            kwargs["device"] = HOST
        result = function(*args, **kwargs)
        marked = [x for x in _tensors((args, kwargs)) if is_marked(x)]
        if on_cuda or (asked is None and marked):
            device = asked if on_cuda else device_of(marked[0])
            for x in _tensors(result):
                mark(x, device)
        return result


def _pooled(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A new tensor, in a device's memory, which is overwritten once it is given back."""
    if x.grad_fn is not None or x.layout != torch.strided:
        return x
    with torch._C.DisableTorchFunction(), torch.no_grad(), on_device(device):
        own = torch.from_numpy(memory.empty(x.untyped_storage().nbytes(), np.uint8))
        own.untyped_storage().copy_(x.untyped_storage())
        return x.set_(own.untyped_storage(), x.storage_offset(), x.size(), x.stride())


def to(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to`, which leaves a tensor where it is on its device, and copies it to another."""
    device = kwargs.get("device", args[0] if args else None)
    if isinstance(device, torch.Tensor):
        device, args = device_of(device), (device_of(device), device.dtype, *args[1:])
    if isinstance(device, str | torch.device):
        device = torch.device(device)
        moves = device.type != device_of(x).type
        if "device" in kwargs:
            kwargs["device"] = HOST
        else:
            args = (HOST, *args[1:])
        if moves and not is_marked(x):
            return mark(_pooled(_to(x, *args, **{**kwargs, "copy": True}), device), device)
        return _to(cpu(x) if moves else x, *args, **kwargs)
    return _to(x, *args, **kwargs)


def cpu(x: torch.Tensor) -> torch.Tensor:
    """`Tensor.cpu`."""
    if not is_marked(x):
        return x
    return torch.ops.aten._to_copy(x, device=HOST) if x.layout == torch.strided else _cpu(x)


def numpy(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """`Tensor.numpy`."""
    if is_marked(x):
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")
    return _numpy(x, *args, **kwargs)


class Recording(TorchDispatchMode):
    """Operators while a graph is captured: replays write to what they have written then. What they
    write in place is as before once the capture has ended, since a GPU runs none of them.
    """

    def __init__(self, graph: graphs.Graph) -> None:
        super().__init__()
        self.graph = graph
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def restore(self) -> None:
        for x, values in reversed(self.before):
            x.detach().copy_(values)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.overloadpacket is torch.ops.aten._local_scalar_dense:
            graphs.refuse_in_capture("cudaStreamSynchronize")
        for parameter, value in zip(function._schema.arguments, args, strict=False):
            if parameter.alias_info is not None and parameter.alias_info.is_write:
                self.before += [(x, x.detach().clone()) for x in _tensors(value)]
        result = function(*args, **kwargs)

        @torch.no_grad()
        def again() -> None:
            new = function(*args, **kwargs)
            for old, now in zip(_tensors(result), _tensors(new), strict=True):
                if old.data_ptr() != now.data_ptr():
                    old.copy_(now)

        self.graph.recorded.append(again)
        return result


class Stream:
    """A stream: what is on it has happened at once."""

    def __init__(self, number: int = 77) -> None:
        self.cuda_stream = number

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.cuda_stream

    def wait_stream(self, other: Stream) -> None: ...

    def synchronize(self) -> None:
        graphs.refuse_in_capture("cudaStreamSynchronize")
        graphs.finish(self.cuda_stream)


class CUDAGraph(graphs.Graph):
    """`torch.cuda.CUDAGraph`."""


_streams = [Stream()]


@contextlib.contextmanager
def on_stream(stream: Stream) -> Any:
    """`torch.cuda.stream`."""
    _streams.append(stream)
    try:
        yield
    finally:
        _streams.pop()


@contextlib.contextmanager
def capture(graph: CUDAGraph, **options: Any) -> Any:
    """`torch.cuda.graph`."""
    graphs.begin(graph)
    recording = Recording(graph)
    try:
        with on_stream(Stream(99)), recording:
            yield
    finally:
        try:
            graphs.end()
        finally:
            recording.restore()


def synchronize(device: Any = None) -> None:
    graphs.refuse_in_capture("cudaDeviceSynchronize", of_any_thread=True)
    graphs.finish()


@contextlib.contextmanager
def on_device(device: Any) -> Any:
    """`torch.cuda.device`."""
    number = device if isinstance(device, int) else device.index
    memory.current.append(memory.current[-1] if number is None else number)
    try:
        yield
    finally:
        memory.current.pop()


def install() -> None:
    """In place of `torch.cuda`, and for all tensors of this process."""
    given = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "device_count": lambda: memory.DEVICES,
        "current_device": lambda: memory.current[-1],
        "device": on_device,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: (0, 0),
        "current_stream": lambda device=None: _streams[-1],
        "is_current_stream_capturing": graphs.capturing,
        "synchronize": synchronize,
        "empty_cache": lambda: None,
        "Stream": lambda: Stream(78),
        "stream": on_stream,
        "CUDAGraph": CUDAGraph,
        "graph": capture,
    }
    for name, value in given.items():
        setattr(torch.cuda, name, value)
    members = {
        "device": property(lambda x: device_of(x)),
        "is_cuda": property(is_marked),
        "is_cpu": property(lambda x: device_of(x).type == "cpu"),
        "get_device": lambda x: device_of(x).index if is_marked(x) else -1,
        "to": to,
        "cpu": cpu,
        "cuda": lambda x, device=None, **options: to(x, torch.device(device or "cuda"), **options),
        "numpy": numpy,
        "pin_memory": lambda x: x,
    }
    for name, member in members.items():
        setattr(torch.Tensor, name, member)
    before = torch._C._len_torch_dispatch_stack()
    OnDevice().__enter__()
    own = torch._C._len_torch_dispatch_stack() - before

    def is_traced() -> bool:  # by others than the stand-in
        return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > own

    _torch._is_traced = is_traced
    Factories().__enter__()
