"""PyTorch, on any device. It lacks arithmetic on uint32, so Philox words are int64."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from .namespace import Array, Namespace, Table

INTEGER = {16: torch.int16, 32: torch.int32, 64: torch.int64}
UNSIGNED = {8: torch.uint8, 16: torch.uint16, 32: torch.uint32}
FLOAT = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
MASK = 0xFFFFFFFF


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


@lru_cache(maxsize=1024)
def _table(data: bytes, kind: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A table on a device. A copy from the host for each call would wait for the device, and CUDA
    graphs take none.
    """
    return torch.as_tensor(np.frombuffer(data, kind).copy(), dtype=dtype, device=device)


def together(results: Sequence[torch.Tensor]) -> torch.Tensor:
    """Results of one element each in one tensor; partial ones, of DTensors, from all ranks."""
    whole = [x.full_tensor() if hasattr(x, "full_tensor") else x for x in results]
    return torch.stack([x.to(whole[0].device) for x in whole])


class TorchNamespace(Namespace):
    name = "torch"

    def owns(self, x: object) -> bool:
        return isinstance(x, torch.Tensor)

    def dtype(self, x: Array) -> str:
        return str(x.dtype).removeprefix("torch.")

    def shape(self, x: Array) -> tuple[int, ...]:
        return tuple(x.shape)

    def remedy(self, x: Array) -> str | None:
        if x.is_nested:
            return "round the tensors in it one by one, as in x.unbind()"
        if x.layout != torch.strided:
            return "convert it, as in x.to_dense(), or round its values, as in x.values()"
        return "convert it, as in x.dequantize()" if x.is_quantized else None

    def concrete(self, x: Array) -> bool:
        return not x.is_meta

    def records(self, x: Array) -> bool:
        return bool(x.requires_grad and torch.is_grad_enabled())

    def bits(self, x: Array) -> Array:
        return x.detach().resolve_neg().view(INTEGER[x.element_size() * 8])

    def floats(self, bits: Array, dtype: str) -> Array:
        return bits.view(FLOAT[dtype])

    def converted(self, x: Array, dtype: str) -> Array | None:
        return x.detach().to(FLOAT[dtype])

    def cast(self, x: Array, width: int) -> Array:
        return x.to(INTEGER[width])

    def unsigned(self, x: Array, width: int) -> Array:
        return x.to(UNSIGNED[width])

    def signed(self, x: Array, width: int) -> Array:
        return x.to(torch.int8 if width == 8 else torch.int16)

    def float_bits(self, n: Array) -> Array:
        return n.to(FLOAT[f"float{self.width(n)}"]).view(n.dtype)

    def shift_left(self, x: Array, count: Array | int) -> Array:
        return x << count

    def shift_right(self, x: Array, count: Array | int) -> Array:
        return x >> count

    def select(self, mask: Array, a: Array | int, b: Array | int) -> Array:
        return torch.where(mask, a, b)

    def maximum(self, a: Any, b: Any) -> Array:
        array, bound = (b, a) if isinstance(a, int) else (a, b)
        return torch.clamp(array, min=bound)

    def minimum(self, a: Any, b: Any) -> Array:
        array, bound = (b, a) if isinstance(a, int) else (a, b)
        return torch.clamp(array, max=bound)

    def abs(self, x: Array) -> Array:
        return torch.abs(x)

    def sqrt(self, x: Array) -> Array:
        return torch.sqrt(x)

    def log(self, x: Array) -> Array:
        return torch.log(x)

    def exp(self, x: Array) -> Array:
        return torch.exp(x)

    def table(self, values: Table, width: int, like: Array) -> Array:
        device = None if like is None else like.device
        if type(like) is torch.Tensor and not like.is_cpu and not _is_traced():
            array = np.asarray(values)
            return _table(array.tobytes(), str(array.dtype), INTEGER[width], device)
        return torch.as_tensor(values, dtype=INTEGER[width], device=device)

    def gather(self, table: Array, index: Array) -> Array:
        return table[index.to(torch.int64)]

    def searchsorted(self, values: Table, x: Array) -> Array:
        table = self.table(values, self.width(x), x)
        return torch.searchsorted(table, x.contiguous(), right=True).to(x.dtype)

    def width(self, x: Array) -> int:
        return int(x.element_size()) * 8

    def zeros(self, shape: Sequence[int], like: Array) -> Array:
        return torch.zeros(tuple(shape), dtype=like.dtype, device=like.device)

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return x.reshape(tuple(shape))

    def permuted(self, x: Array, order: Sequence[int]) -> Array:
        return x.permute(tuple(order))

    def concatenate(self, parts: Sequence[Array], axis: int) -> Array:
        return torch.cat(list(parts), axis)

    def broadcast(self, x: Array | int, shape: Sequence[int]) -> Array:
        return torch.broadcast_to(torch.as_tensor(x), tuple(shape))

    def max_over(self, x: Array, axes: Sequence[int]) -> Array:
        return torch.amax(x, dim=tuple(axes), keepdim=True)

    def sum_over(self, x: Array, axes: Sequence[int]) -> Array:
        return torch.sum(x, dim=tuple(axes), keepdim=True, dtype=x.dtype)

    def pad_end(self, x: Array, axis: int, count: int) -> Array:
        return torch.nn.functional.pad(x, (0, 0) * (x.ndim - 1 - axis) + (0, count))

    def repeat(self, x: Array, count: int, axis: int) -> Array:
        return x.repeat_interleave(count, dim=axis)

    def any(self, mask: Array) -> bool:
        return bool(mask.any())

    def all_finite(self, arrays: Sequence[Array]) -> bool:
        # A sum is finite only of finite numbers, and needs no mask; it may overflow, too.
        if together([x.sum() for x in arrays]).isfinite().all():
            return True
        return bool(together([torch.isfinite(x).all() for x in arrays]).all())

    def as_words(self, word: Any) -> Any:
        return word.to(torch.int64) if isinstance(word, torch.Tensor) else word

    def block_numbers(self, first: Any, skipped: Any, count: int | Array, like: Array) -> Array:
        return torch.arange(
            first, first + -(-(count + skipped) // 4), dtype=torch.int64, device=like.device
        )

    def multiply_wide(self, words: Array, factor: int) -> tuple[Array, Array]:
        # Only the low 32 bits of a word count; the product may wrap to a negative int64: its bits
        # are right.
        product = words.bitwise_and_(MASK).mul_(factor)
        return product >> 32, product

    def words(self, outputs: Sequence[Array], skipped: Any, count: int | Array) -> Array:
        return (
            torch.stack(list(outputs), dim=-1)
            .reshape(-1)[skipped : skipped + count]
            .to(torch.int32)
        )

    def host(self, x: Array) -> np.ndarray:
        here: np.ndarray = (
            x.detach()
            .resolve_neg()
            .to("cpu", torch.float32 if x.dtype == torch.bfloat16 else x.dtype)
            .numpy()
        )
        return here

    def write(self, out: Array, result: Array) -> Array:
        with torch.no_grad():
            return out.copy_(result)


NAMESPACE = TorchNamespace()
