"""A rounding as plain values, which `torch.compile` can trace, and as one operator, which it keeps
whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qemu_swalp import Format, RandomBits, Rounding, quantize
from qemu_swalp.formats.base import forget_on_redefinition
from qemu_swalp.interop.torch import rounded
from qemu_swalp.training import Quantizer

from .._compat import constant
from .observers import Label, observe, watched
from .scripting import REMEDY

SIGN = 1 << 63

SIGNS = "signs"
"""The role of random signs, which observers are not told of: they are no number of the model."""

BACKWARD = ("backward.", "dgrad.sum", "wgrad.sum")
"""How roles of elementwise operations and sums begin, if they belong to a backward."""

HIGHER = "/"
"""In roles, before the products through which the gradient came that stands in another's place."""


def is_capturing() -> bool:
    """Whether a CUDA graph is being captured."""
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return initialized and torch.cuda.is_current_stream_capturing()


def refuse_capture(what: str, remedy: str) -> None:
    """RuntimeError while a CUDA graph is captured."""
    if is_capturing():
        raise RuntimeError(
            f"{what} cannot be captured in a CUDA graph, whose replays run no Python and would"
            f" repeat what was counted; {remedy}"
        )


class Rule(NamedTuple):
    """A quantizer by its string, with random bits if it is stochastic.

    Observers are told the site and the role of what is rounded.
    """

    quantizer: str
    seed: int = 0
    stream: int = 0
    step: int | Tensor = 0
    offset: int = 0
    site: str = ""
    role: str = ""


def rule_of(quantizer: str, random: RandomBits | None) -> Rule:
    """The rule of a quantizer's string and its random bits."""
    if random is None:
        return Rule(quantizer)
    return Rule(quantizer, random.seed, random.stream, random.step, random.offset)


def apply_given(x: Tensor, rule: Rule, scales: Any, zero_points: Any) -> Tensor:
    """A new tensor, x rounded under scales and zero points that are given; without gradient."""
    if is_traced():
        numbers = (signed(rule.seed), signed(rule.stream), step_tensor(rule), rule.offset)
        given = (_as_tensor(scales, torch.float32), _as_tensor(zero_points, torch.int32))
        result: Tensor = _round_given(x, rule.quantizer, *given, *numbers)
        return result
    quantizer = parsed(rule.quantizer)
    random = None
    if quantizer.rounding.stochastic:
        random = RandomBits(rule.seed, rule.stream, rule.step, rule.offset)
    if watched():
        observe(Label(rule.site, rule.role), x.detach(), quantizer, random, scales)
    given_result: Tensor = quantize(
        x.detach(),
        quantizer.format,
        quantizer.rounding,
        random=random,
        scales=scales,
        zero_points=zero_points,
    )
    return given_result


def _as_tensor(values: Any, dtype: torch.dtype) -> Tensor | None:
    """Numbers as operators take them."""
    if values is None or isinstance(values, Tensor):
        return values
    return torch.as_tensor(values, dtype=dtype, device="cpu")


def apply_rule(x: Tensor, rule: Rule) -> Tensor:
    """A new tensor, x rounded; without gradient."""
    if is_traced():
        result: Tensor = _round(
            x,
            rule.quantizer,
            signed(rule.seed),
            signed(rule.stream),
            step_tensor(rule),
            rule.offset,
            rule.site,
            rule.role,
        )
        return result
    quantizer = parsed(rule.quantizer)
    random = (
        RandomBits(rule.seed, rule.stream, rule.step, rule.offset)
        if quantizer.rounding.stochastic
        else None
    )
    if watched() and rule.role != SIGNS:
        observe(Label(rule.site, rule.role), x.detach(), quantizer, random)
    return as_loss_scaling_needs(rounded(x, quantizer, random), rule.role, lambda: x)


def as_loss_scaling_needs(result: Tensor, role: str, exact: Callable[[], Tensor]) -> Tensor:
    """What was rounded, with infinities and NaN where a number of a backward in float16 has them,
    which `exact` computes without rounding.

    A loss scale that is too great shows by them in the gradients, and a format that saturates would
    hide them from `torch.amp.GradScaler`.
    """
    if result.dtype != torch.float16 or not _is_of_backward(role):
        return result
    x = exact()
    return torch.where(x.isfinite(), result, x)


def _is_of_backward(role: str) -> bool:
    return "error" in role or HIGHER in role or role.startswith(BACKWARD)


@forget_on_redefinition
@lru_cache(maxsize=1024)
def parsed(quantizer: str) -> Quantizer:
    """The quantizer of a string."""
    return Quantizer.parse(quantizer)


@constant
def quantizer_string(quantizer: Quantizer | str) -> str:
    """The string of a quantizer, validated."""
    return _quantizer_string(quantizer)


@forget_on_redefinition
@lru_cache(maxsize=1024)
def _quantizer_string(quantizer: Quantizer | str) -> str:
    return str(Quantizer.parse(quantizer))


@constant
def pair_string(format: Format | str, rounding: Rounding | str) -> str:
    """The string of `Quantizer(format, rounding)`, validated."""
    return _pair_string(format, rounding)


@forget_on_redefinition
@lru_cache(maxsize=1024)
def _pair_string(format: Format | str, rounding: Rounding | str) -> str:
    return str(Quantizer(format, rounding))


def is_stochastic(quantizer: str) -> bool:
    """Whether the quantizer of a string needs random bits."""
    return "/stochastic" in quantizer


@torch.library.custom_op("qemu_swalp::round", mutates_args=())
def _round(
    x: Tensor,
    quantizer: str,
    seed: int,
    stream: int,
    step: Tensor,
    offset: int,
    site: str,
    role: str,
) -> Tensor:
    rule = Rule(quantizer, unsigned(seed), unsigned(stream), known_step(step), offset, site, role)
    return apply_rule(x, rule).clone(memory_format=torch.contiguous_format)


@_round.register_fake
def _like(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("qemu_swalp::round_given", mutates_args=())
def _round_given(
    x: Tensor,
    quantizer: str,
    scales: Tensor | None,
    zero_points: Tensor | None,
    seed: int,
    stream: int,
    step: Tensor,
    offset: int,
) -> Tensor:
    rule = Rule(quantizer, unsigned(seed), unsigned(stream), known_step(step), offset)
    return apply_given(x, rule, scales, zero_points).clone(memory_format=torch.contiguous_format)


_round_given.register_fake(_like)


@torch.library.custom_op("qemu_swalp::tick", mutates_args=("count",))
def tick(count: Tensor) -> Tensor:
    """A counter's value, before it moves on. An operator, since Inductor's backward would read the
    counter anew.
    """
    value = count.clone()
    count.add_(1)
    return value


@tick.register_fake
def _(count: Tensor) -> Tensor:
    return torch.empty_like(count)


def is_traced() -> bool:
    """Whether operations are being recorded, so that one of ours must be an operator.

    RuntimeError in an export to ONNX, which has none for it, and in `torch.jit.trace`, which would
    take random bits and counters for constants.
    """
    if torch.compiler.is_dynamo_compiling():
        _refuse_onnx()
        return True
    scripted: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    traced = scripted or torch.compiler.is_compiling()
    if traced:
        _refuse_onnx()
    if scripted:
        raise RuntimeError(
            "torch.jit.trace cannot record a rounded model, whose random bits and counters it would"
            f" take for constants; {REMEDY}, or trace within: with disabled(model)"
        )
    return traced


@constant
def _refuse_onnx() -> None:
    if "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export():
        raise RuntimeError(
            "ONNX has no operator for the roundings within this model; export it without them, as"
            " in: with disabled(model): torch.onnx.export(model, ...)"
        )


def signed(n: int) -> int:
    """A seed or stream as operators take it: they have signed integers of 64 bits."""
    return n - 2 * SIGN if n >= SIGN else n


def unsigned(n: int) -> int:
    """Inverse of `signed`."""
    return n % (2 * SIGN)


def step_tensor(rule: Rule) -> Tensor:
    """The step as operators take it."""
    if isinstance(rule.step, Tensor):
        return rule.step
    return torch.full((), rule.step, dtype=torch.int64, device="cpu")


def known_step(step: Tensor) -> int | Tensor:
    """Inverse of `step_tensor`; the host does not wait for one on a device."""
    return int(step) if step.is_cpu else step
