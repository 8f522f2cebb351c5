"""PyTorch tensors in the host's memory, without a copy. Their gradient is not ours to give: see `qemu_swalp_torch`."""

from __future__ import annotations

from typing import Any

import torch

from ..formats import Format
from ..randombits import RandomBits
from . import cpu
from .plan import Plan


def takes(x: Any, out: Any) -> bool:
    """Whether the kernels take such tensors: plain ones with memory, outside any tracing."""
    return _plain(x) and (out is None or _plain(out)) and cpu.library() is not None


def _plain(x: Any) -> bool:
    return (type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu" and x.layout == torch.strided
            and not torch._C._functorch.is_functorch_wrapped_tensor(x) and not torch.compiler.is_compiling())


def quantize(x: torch.Tensor, plan: Plan, format: Format, random: RandomBits | torch.Tensor | None,
             out: torch.Tensor | None) -> torch.Tensor:
    """As `kernels.quantize`."""
    x = x.detach()
    source = x if _in_rows(x) else x.contiguous()
    target = torch.empty(x.shape, dtype=x.dtype)
    if out is not None and _in_rows(out) and (_same(out, source) or not _overlap(out, source)):
        target = out.detach()
    words = random.contiguous() if isinstance(random, torch.Tensor) else None
    bits: Any = random if words is None else words.data_ptr()
    shape = tuple(x.shape)
    if not cpu.quantize(plan, format, shape, _memory(source), _memory(target), bits):
        source, target = source.contiguous(), torch.empty(x.shape, dtype=x.dtype)
        cpu.quantize(plan, format, shape, _memory(source), _memory(target), bits)
    if out is None:
        return target
    with torch.no_grad():
        if target.data_ptr() != out.data_ptr() or target.stride() != out.stride():
            return out.copy_(target)
        torch.autograd.graph.increment_version(out)
    return out


def _in_rows(x: torch.Tensor) -> bool:
    return x.is_contiguous() or x.shape[-1] == 1 or x.stride(-1) == 1


def _memory(x: torch.Tensor) -> cpu.Memory:
    return cpu.Memory(x.data_ptr(), tuple(x.stride()))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.stride() == b.stride()


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
