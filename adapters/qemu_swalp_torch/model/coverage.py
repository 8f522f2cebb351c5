"""What a forward computes in float though the recipe asks for rounding: found, and told.

The first forward of a model is watched below the functions that are intercepted, where PyTorch
dispatches its operators: a product that reaches them from anywhere else than `multiply` and
`convolutions` is one of a custom kernel, a scripted module, or another way around.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

import qemu_swalp.interop.torch

from .._compat import (
    DispatchMode,
    backward_id,
    is_higher_order,
    never_traced_first,
    operator_name,
    overload_name,
    running_node,
    without_interception,
)
from .exact_operators import COMPOSED, FURTHER_PRODUCTS, WEIGHTED_SUMS, is_exact
from .frames import FRAMES
from .origins import Origins

POLICIES = ("raise", "warn", "ignore")
OURS = __name__.partition(".")[0]
PACKAGE = Path(__file__).parents[1]
OWN_FILES = tuple(
    map(
        str,
        (
            *(PACKAGE / "ops", PACKAGE / "tensors", PACKAGE / "model" / "multiply.py"),
            *(PACKAGE / "model" / "convolutions.py", qemu_swalp.interop.torch.__file__),
        ),
    )
)
"""Where the emulator's own products and operations stand."""
COMPUTING = ("aten", "prim", "prims")
LIBRARIES = (
    *(*COMPUTING, "qemu_swalp", "profiler"),
    *("c10d", "c10d_functional", "_c10d_functional", "_c10d_functional_autograd", "fsdp"),
    *("symm_mem", "_dtensor"),
)
"""Libraries of operators that are known: those that compute, and those that move and communicate.
What those of others compute is not known.
"""


KINDS = ("product", "operation")
"""What an operator may compute; an "operation" is elementwise."""


class UncoveredError(RuntimeError):
    """A forward computed something in float that the recipe asks to round."""


@dataclass
class Report:
    """Floating-point operations of the products of one watched forward."""

    rounded: Counter[str] = field(default_factory=Counter)
    """By the name of the module."""
    excluded: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (module, operator): what nothing was asked of."""
    uncovered: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (module, operator): what could not be rounded."""
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Calls, by (module, operator), of elementwise operations that could not be rounded."""

    def __add__(self, other: Report) -> Report:
        return Report(
            self.rounded + other.rounded,
            self.excluded + other.excluded,
            self.uncovered + other.uncovered,
            self.operations + other.operations,
        )

    @property
    def total(self) -> int:
        """All of them."""
        return sum(sum(part.values()) for part in (self.rounded, self.excluded, self.uncovered))


@contextmanager
def watched(scope: Any) -> Iterator[Origins]:
    """Watch what is computed within, and tell what was not rounded."""
    sites, report = scope.sites_within(), Report()
    products = [site for site in sites if hasattr(site, "flops")]
    before = [(site.flops, site.left) for site in products]
    with Watch(report) as watch:
        yield watch.origins
    for site, (flops, left) in zip(products, before, strict=True):
        if site.flops > flops:
            report.rounded[site.name] += site.flops - flops
        if site.left > left:
            report.excluded[site.name, "product of two activations"] += site.left - left
    tell(report, scope.policy)
    if torch.compiler.is_compiling():
        return
    if not scope.name and products and not report.rounded and not any(s.expected for s in products):
        raise ValueError(
            "nothing to round: the forward of the model made no product of those that the recipe"
            " rounds"
        )
    scope.report = report


@never_traced_first
def is_watchable() -> bool:
    """Whether this is a forward of its own: no graph, and no recomputation in a backward.

    `torch.export` runs the model's code to trace it, so that it can be watched as well.
    """
    return not torch.compiler.is_dynamo_compiling() and backward_id() == -1


class Watch(DispatchMode):  # type: ignore[no-untyped-call]
    """Notes the products and elementwise operations that are dispatched."""

    supports_higher_order_operators = True

    def __init__(self, report: Report) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.report, self.origins = report, Origins()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with without_interception():  # operators called here are none of the model's calls
            result = func(*args, **(kwargs or {}))
            self.origins.add(FRAMES.stack[-1] if FRAMES.stack else None, running_node())
            if is_floating(result):
                self._note(func, args, kwargs or {}, result)
        return result

    def _note(self, func: Any, args: Any, options: Any, result: Any) -> None:
        frame = FRAMES.stack[-1] if FRAMES.stack else None
        if frame is None:
            return
        kinds = kinds_of(func, args, options)
        if "product" in kinds:
            what = kinds["product"]
            measured = not torch.compiler.is_compiling()  # else sizes may be open
            flops = flops_of(func, args, options, result) if measured else 0
            ours, custom = _origin(in_hooks=True)
            what = f"autograd.Function {custom}" if custom else what
            if frame.products is None:
                self.report.excluded[frame.name, what] += flops
            elif custom or not ours:
                self.report.uncovered[frame.name, what] += flops
                if ours:  # rounded forward, but its gradient is the Function's own
                    self.report.rounded[frame.products.site.name] -= flops
        if frame.functions is not None and "operation" in kinds:
            ours, custom = _origin()
            if not ours:
                self.report.operations[frame.name, kinds["operation"]] += 1


def kinds_of(func: Any, args: Any, options: Any) -> dict[str, str]:
    """What an operator is, a "product", an elementwise "operation", both or neither → its name.

    Operators of unknown libraries may be both, if they take floating tensors.
    """
    if is_higher_order(func):
        return dict.fromkeys(KINDS, str(func))
    library, name = operator_name(func) or ("", "")
    known = func.overloadpacket in flop_registry or name in FURTHER_PRODUCTS
    known |= name in WEIGHTED_SUMS and sum(map(_has_floating, args)) > 1
    unknown = library not in LIBRARIES
    if (known or unknown) and any(_has_floating(x) for x in (*args, *options.values())):
        both = unknown or any(word in name for word in COMPOSED)
        return dict.fromkeys(KINDS if both else KINDS[:1], f"{library}.{name}")
    exact = library not in COMPUTING or is_exact(name, overload_name(func), args, options)
    return {} if exact else {"operation": name}


def _has_floating(value: Any) -> bool:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(x, Tensor) and _is_number(x) for x in values)


def is_floating(result: Any) -> bool:
    """Whether an operator gives floating numbers."""
    values = result if isinstance(result, (tuple, list)) else (result,)
    return any(isinstance(x, Tensor) and _is_number(x) for x in values)


def _is_number(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def flops_of(func: Any, args: Any, options: Any, result: Any) -> int:
    """Of a product; at least 1."""
    packet = getattr(func, "overloadpacket", None)
    if any(isinstance(x, Tensor) and x.is_nested for x in args):  # of many sizes
        return 1
    if packet in flop_registry:
        return max(1, int(flop_registry[packet](*args, **options, out_val=result)))
    if (operator_name(func) or ("", ""))[1] not in FURTHER_PRODUCTS:
        return 1
    values = result if isinstance(result, (tuple, list)) else (result,)
    first = next(x for x in values if isinstance(x, Tensor))
    terms = next((x.shape[-1] for x in args if isinstance(x, Tensor) and x.ndim), 1)
    return max(1, 2 * first.numel() * terms)


def _origin(in_hooks: bool = False) -> tuple[bool, str | None]:
    """Whether the code that computes here is that of the emulator, and the name of the custom
    autograd Function in which it stands, if it stands in one.

    Within the emulator's own code that of others runs where hooks pack tensors that are saved, or
    where it rounds; the first is told apart `in_hooks`.
    """
    ours, others, custom = False, False, None
    frame: Any = inspect.currentframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == f"{OURS}.model.interception" and frame.f_code.co_name == "__call__":
            break
        if frame.f_code.co_filename.startswith(OWN_FILES):
            ours = not others
        elif in_hooks and not ours and not module.startswith(("torch.", "qemu_swalp")):
            others = True
        if module == "torch.autograd.function" and frame.f_code.co_name == "apply":
            kind = frame.f_locals.get("cls")
            if kind is not None and not kind.__module__.startswith((OURS, "torch.")):
                custom = kind.__qualname__
        frame = frame.f_back
    return ours, custom


def tell(report: Report, policy: dict[str, str], when: str = "") -> None:
    """Raise or warn about what was not covered; `when` it was computed, if not in a forward."""
    for section, found in (("products", report.uncovered), ("elementwise", report.operations)):
        if not found or policy.get(section, "ignore") == "ignore":
            continue
        is_measured = section == "products" and report.total > 0
        lines = [
            f"{name or 'the model itself'!s}: {operation}"
            + (f", {share(amount, report.total)} of the FLOPs" if is_measured else "")
            for (name, operation), amount in found.most_common()
        ]
        register = "register_gemms" if section == "products" else "register_elementwise"
        message = (
            f"the recipe's section {section!r} could not be applied to what these modules compute"
            f"{when and ' '}{when}: {'; '.join(lines[:8])}"
            + (f"; and {len(lines) - 8} more" if lines[8:] else "")
            + ". "
            f"Exclude them by name (exclude=), tell by {register} how they compute, or leave them"
            ' in float knowingly by uncovered="warn" or "ignore"'
        )
        if policy[section] == "raise":
            raise UncoveredError(message)
        warnings.warn(message, stacklevel=4)


def share(part: int, total: int) -> str:
    """A part of the floating-point operations in percent."""
    return f"{100 * part / total:.3g} %" if total else "0 %"
