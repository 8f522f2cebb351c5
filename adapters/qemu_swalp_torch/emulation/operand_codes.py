"""The weights of a model as codes: each as the forward products round it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from qemu_swalp.storage.operand_axes import format_for_operand
from qemu_swalp.storage.state_dict import QuantizedTensor

from ..model.interception import scope_of
from ..model.kinds import multiplies
from ..model.sites import ProductSite
from ..optim.layouts import operand_axes
from ..tensors.custom_ops import parsed

OPERAND = "forward.weight"


def quantized_weights(model: nn.Module) -> dict[str, Any]:
    """The model's state dict, with `QuantizedTensor` for weights; `Emulation.quantize_state_dict`
    tells the errors.
    """
    state: dict[str, Any] = dict(model.state_dict())
    for name, p, site, axes in _weights(model):
        text = site.quantizers[OPERAND]
        if text is None:
            continue
        quantizer = parsed(text)
        reason = _reason(site, axes, quantizer.rounding.stochastic)
        if reason is not None:
            raise ValueError(
                f"{name} has no codes of its own: {reason}; exclude its module from the emulation,"
                " or encode it with qemu_swalp.quantize_state_dict"
            )
        format = format_for_operand(name, quantizer.format, tuple(p.shape), {name: axes or {}})
        state[name] = QuantizedTensor.of(p.detach(), format, quantizer.rounding)
    return state


def _weights(
    model: nn.Module,
) -> Iterator[tuple[str, Tensor, ProductSite, dict[str, int] | None]]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        scope = scope_of(module)
        site = scope.sites.get("products") if scope is not None else None
        kind: Any = type(module)
        if not site or not multiplies(kind, True):
            continue
        if is_parametrized(module) and site.quantizers[OPERAND] is not None:
            raise ValueError(
                f"the weights of {site.name or 'the model'!r} are computed by parametrizations, and"
                " the state dict has what they are computed from; remove them first by"
                " torch.nn.utils.parametrize.remove_parametrizations"
            )
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            if p.ndim > 1 and p.is_floating_point():
                axes = operand_axes(module, name, tuple(p.shape))
                yield (f"{prefix}.{name}" if prefix else name), p, site, axes


def _reason(site: ProductSite, axes: dict[str, int] | None, stochastic: bool) -> str | None:
    """Why the codes of a weight do not follow from it alone."""
    if axes is None:
        return "no one of its axes is what its products sum over"
    if stochastic:
        return "it is rounded at random, by other bits in each call"
    if "weight" in site.scaling:
        return "its scale follows from calls before"
    if "forward" in site.transforms or site.factors.get(OPERAND, 1) != 1:
        return "it is transformed or multiplied by a factor before it is rounded"
    return None
