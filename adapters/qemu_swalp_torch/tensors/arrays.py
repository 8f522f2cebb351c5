"""What the core is handed for a tensor, and rounding in place.

A CPU tensor of few elements goes to the core as its NumPy view: the array program makes some
hundred small calls, which cost a third as much there. The bits are the same in both libraries
(clauses RND and RNG of `spec/semantics.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qemu_swalp import RandomBits
from qemu_swalp.arrays import Array
from qemu_swalp.training import ROLES, Quantizer, Recipe, TensorRandomBits
from qemu_swalp.training.multi_tensor import round_in_place

from .observers import Label, observe, watched

HOST_ELEMENTS = 1 << 16
"""Above so many elements PyTorch's threads make up for its calls."""

HOST_DTYPES = frozenset((torch.float16, torch.float32, torch.float64))


def array_of(x: Tensor) -> Array:
    """The NumPy view of a small CPU tensor, or the tensor itself; without gradient, sharing its
    memory.
    """
    x = x.detach()
    if type(x) is Tensor and x.is_cpu and x.dtype in HOST_DTYPES and x.numel() <= HOST_ELEMENTS:
        return x.numpy()
    return x


def viewed(x: Tensor) -> Array:
    """`array_of`, but the NumPy view of CPU tensors of any size, as the fused kernels take them."""
    x = x.detach()
    return x.numpy() if type(x) is Tensor and x.is_cpu and x.dtype in HOST_DTYPES else array_of(x)


def settle(x: Tensor, given: Array, found: Array) -> None:
    """x becomes `found`, unless that is `given`, the view of x that was written."""
    if found is given:
        torch.autograd.graph.increment_version(x)
    else:
        x.copy_(tensor_of(found))


def unviewed(x: Tensor) -> Tensor:
    """x, or a copy where `array_of` would have NumPy view it.

    FSDP frees the storage of the weights that it has gathered, which PyTorch forbids once NumPy has
    viewed it.
    """
    return x.clone() if x.is_cpu and x.numel() <= HOST_ELEMENTS else x


def tensor_of(array: Array) -> Tensor:
    """Inverse of `array_of`; NumPy's scalars, which 0-d arithmetic gives, are taken too."""
    return array if isinstance(array, Tensor) else torch.as_tensor(array)


class TensorQuantizer(Quantizer):
    """A quantizer of what the core's step functions are handed here: the arrays of `array_of`,
    DTensors among them.
    """

    label: Label

    @staticmethod
    def of(quantizer: Quantizer, place: str, role: str) -> TensorQuantizer:
        """The same quantizer, of a role of the parameter of that name."""
        made = TensorQuantizer(quantizer.format, quantizer.rounding)
        object.__setattr__(made, "label", Label(place, role))
        return made

    @property
    def plain(self) -> bool:
        return not watched()

    def __call__(self, x: Array, random: RandomBits | None = None, out: Array | None = None) -> Any:
        if isinstance(x, Tensor) and has_gradient(x):
            return rounded(x, self, random)
        if not isinstance(x, Tensor) or not is_dtensor(x):
            observe(self.label, x, self, random)
            return super().__call__(x, random, out)
        from .dtensor import round_shard

        return round_shard(x, self, random)


def on_tensors(recipe: Recipe, place: str) -> Recipe:
    """A recipe without overrides whose quantizers are `TensorQuantizer`s of the parameter of that
    name.
    """

    def made(role: str, quantizer: Quantizer | None) -> Quantizer | None:
        return None if quantizer is None else TensorQuantizer.of(quantizer, place, role)

    roles: dict[str, Any] = {role: made(role, recipe.quantizer(role)) for role in ROLES}
    return replace(
        recipe,
        **roles,
        state=tuple((name, made(name, quantizer)) for name, quantizer in recipe.state),
    )


def rounded(x: Tensor, quantizer: Quantizer, random: RandomBits | None = None) -> Tensor:
    """A new tensor, x rounded. In grad mode its gradient is x's, straight through."""
    if has_gradient(x):
        result: Tensor = _Rounded.apply(x, quantizer, random)  # type: ignore[no-untyped-call]
        return result
    return tensor_of(quantizer(array_of(x), random))


def rounded_for(x: Tensor, quantizer: Quantizer, draw: TensorRandomBits, role: str) -> Tensor:
    """x `rounded`, with the random bits of a role."""
    return rounded(x, quantizer, random_for(quantizer, draw, role))


def random_for(quantizer: Quantizer, draw: TensorRandomBits, role: str) -> RandomBits | None:
    """The random bits that a quantizer takes for a role."""
    return draw(role) if quantizer.rounding.stochastic else None


def round_all(tensors: Sequence[tuple[Tensor, Quantizer, RandomBits | None]]) -> None:
    """Round tensors in place, in one call of the kernels as many as they take."""
    if not tensors:
        return
    xs, quantizers, random = zip(*tensors, strict=True)
    with torch.no_grad():
        for x, quantizer, bits, done in zip(
            xs,
            quantizers,
            random,
            round_in_place([viewed(x) for x in xs], quantizers, random),
            strict=True,
        ):
            if done:
                torch.autograd.graph.increment_version(x)
            else:
                x.copy_(rounded(x, quantizer, bits))


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
    """TypeError unless x is a tensor whose memory we may read: a dense plain one, or a DTensor."""
    if x.layout is not torch.strided:
        raise TypeError(
            f"{label} has the layout {x.layout}; quantization takes dense tensors: call to_dense()"
            " first"
        )
    if type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__ and not is_dtensor(x):
        raise TypeError(
            f"{label} is a {type(x).__module__}.{type(x).__qualname__}, a tensor subclass whose"
            " storage is its own; quantization takes torch.Tensor, torch.nn.Parameter and DTensor:"
            " convert it, or leave it out by an override of the recipe"
        )
