"""PyTorch tensors as the core rounds them, for the adapters that compute on PyTorch.

A CPU tensor of few elements goes to the core as its NumPy view: the reference implementation makes
some hundred small calls, which cost a third as much there. The bits are the same in both libraries
(clauses RND and RNG of `spec/semantics.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from ..arrays import Array
from ..ops.quantizer import Quantizer
from ..random_bits import RandomBits

HOST_ELEMENTS = 1 << 16
"""Above so many elements PyTorch's threads make up for its calls."""

HOST_DTYPES = frozenset((torch.float16, torch.float32, torch.float64))

Function = TypeVar("Function", bound=Callable[..., object])


def untraced(function: Function) -> Function:
    """`torch.compile` runs the function as it is, between graphs.

    `torch.compiler.disable` does the same, and imports the compiler at once.
    """
    return _disable_dynamo(function)  # type: ignore[return-value]


def array_of(x: Tensor) -> Array:
    """The NumPy view of a small CPU tensor, or the tensor itself; without gradient, sharing its
    memory, but for a copy of one that is negated when it is read.
    """
    x = x.detach().resolve_neg()
    if type(x) is Tensor and x.is_cpu and x.dtype in HOST_DTYPES and x.numel() <= HOST_ELEMENTS:
        return x.numpy()
    return x


def viewed(x: Tensor) -> Array:
    """`array_of`, but the NumPy view of CPU tensors of any size, for the fused kernels."""
    x = x.detach().resolve_neg()
    return x.numpy() if type(x) is Tensor and x.is_cpu and x.dtype in HOST_DTYPES else array_of(x)


def unviewed(x: Tensor) -> Tensor:
    """x, or a copy where `array_of` would have NumPy view it.

    FSDP frees the storage of the weights that it has gathered, which PyTorch forbids once NumPy has
    viewed it.
    """
    return x.clone() if x.is_cpu and x.numel() <= HOST_ELEMENTS else x


def tensor_of(array: Array) -> Tensor:
    """Inverse of `array_of`, for NumPy's scalars too, which 0-d arithmetic gives."""
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array)  # a third of the time of the other
    return array if isinstance(array, Tensor) else torch.as_tensor(array, device="cpu")


def settle(x: Tensor, view: Array, result: Array) -> None:
    """Write the result into x, unless it is the view of x and so is written already."""
    if result is view and not x.is_neg():
        torch.autograd.graph.increment_version(x)
    else:
        x.copy_(tensor_of(result))


def rounded(x: Tensor, quantizer: Quantizer, random: RandomBits | None = None) -> Tensor:
    """A new tensor, x rounded. In grad mode its gradient is x's, straight through."""
    if has_gradient(x):
        result: Tensor = _Rounded.apply(x, quantizer, random)  # type: ignore[no-untyped-call]
        return result
    return tensor_of(quantizer(array_of(x), random))


def has_gradient(x: Tensor) -> bool:
    """Whether what is computed from x now is to have a gradient."""
    return x.requires_grad and torch.is_grad_enabled()


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantizer: Quantizer, random: RandomBits | None) -> Tensor:
        return rounded(x, quantizer, random)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None, None


def is_dtensor(x: Tensor) -> bool:
    """Whether x is a `torch.distributed.tensor.DTensor`; does not import it for plain tensors."""
    if type(x).__torch_dispatch__ is Tensor.__torch_dispatch__:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(x, DTensor)


def local_part(x: Tensor) -> Tensor:
    """The shard that this rank has of a DTensor; any other tensor itself."""
    return x.to_local() if is_dtensor(x) else x  # type: ignore[attr-defined]


def check_plain(x: Tensor, label: str) -> None:
    """Check that the memory of x is ours to read.

    Raises
    ------
    TypeError: if x is sparse, or of a tensor subclass other than Parameter and DTensor.
    """
    if x.layout is not torch.strided:
        raise TypeError(
            f"{label} has the layout {x.layout}; quantization needs dense tensors: call to_dense()"
            " first"
        )
    if type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__ and not is_dtensor(x):
        raise TypeError(
            f"{label} is a {type(x).__module__}.{type(x).__qualname__}, a tensor subclass whose"
            " storage is its own; quantization needs a torch.Tensor, torch.nn.Parameter or"
            " DTensor: convert it, or exclude it by an override of the recipe"
        )
