"""`torch.cuda` and its tensors: those of the CPU whose storage is marked."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import NAME, graphs

DEVICE = torch.device("cuda", 0)
HOST = torch.device("cpu")
_MARK = "on_the_stand_in"
_to, _cpu, _numpy = torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.numpy


def is_marked(x: torch.Tensor) -> bool:
    """Whether a tensor counts as CUDA's."""
    with torch._C.DisableTorchFunction():
        return x.layout == torch.strided and hasattr(x.untyped_storage(), _MARK)


def mark(x: torch.Tensor) -> torch.Tensor:
    """The tensor, from now on CUDA's, and so are all that share its storage."""
    with torch._C.DisableTorchFunction():
        if x.layout == torch.strided:
            setattr(x.untyped_storage(), _MARK, True)
    return x


def device_of(x: torch.Tensor) -> torch.device:
    """`Tensor.device`."""
    return DEVICE if is_marked(x) else _device(x)


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
        return mark(function(*args, **{**kwargs, "device": HOST}))


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
        if on_cuda or (asked is None and any(map(is_marked, _tensors((args, kwargs))))):
            for x in _tensors(result):
                mark(x)
        return result


def to(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to`, which leaves a tensor where it is on its device, and copies it to another."""
    device = kwargs.get("device", args[0] if args else None)
    if isinstance(device, torch.Tensor):
        device, args = device_of(device), (device_of(device), device.dtype, *args[1:])
    if isinstance(device, str | torch.device):
        moves = torch.device(device).type != device_of(x).type
        if "device" in kwargs:
            kwargs["device"] = HOST
        else:
            args = (HOST, *args[1:])
        if moves and not is_marked(x):
            return mark(_to(x, *args, **{**kwargs, "copy": True}))
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
        graphs.end()
        recording.restore()


def synchronize(device: Any = None) -> None:
    graphs.refuse_in_capture("cudaDeviceSynchronize")


def install() -> None:
    """In place of `torch.cuda`, and for all tensors of this process."""
    given = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
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
        "get_device": lambda x: 0 if is_marked(x) else -1,
        "to": to,
        "cpu": cpu,
        "cuda": lambda x, device=None, **options: to(x, DEVICE, **options),
        "numpy": numpy,
        "pin_memory": lambda x: x,
    }
    for name, member in members.items():
        setattr(torch.Tensor, name, member)
    OnDevice().__enter__()
    Factories().__enter__()
