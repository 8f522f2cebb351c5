"""What is known while a module is being called: whose products and operations are computed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qemu_swalp.training.roles import OPERANDS, PRODUCTS

from .._compat import parameters_of, safe_softmax
from ..ops.elementwise import ElementwiseRules
from ..ops.functional import ElementwiseFunctions
from ..ops.operands import Operand, Operands, ProductRules, Turn
from ..tensors.custom_ops import Rule

AS_INPUT = {"forward.weight": "forward.input", "dgrad.weight": "wgrad.input"}
"""Whose quantizer the second of two activations has."""


OF_PRODUCTS = tuple(
    (product, *(name for name in OPERANDS if name.startswith(f"{product}.")))
    for product in PRODUCTS
)
"""Each product with its two operands, in the order of `OPERANDS`."""


class Products:
    """The rules of the products at one call of a module, from its `ProductSite`."""

    def __init__(self, site: Any) -> None:
        self.site, self.count, self.attentions = site, 0, 0
        self._step: int | Tensor | None = None

    def of(self, part: str = "") -> Operands:
        """For the product of inputs and weights, or of that part of them, which has random streams
        of its own.
        """
        return self._rules(part, {})

    def of_activations(self, part: str = "") -> Operands:
        """For a product of two activations, both rounded as inputs; none, where attention is left
        out.
        """
        return self._rules(part, AS_INPUT) if self.site.attention else Operands()

    def _rules(self, part: str, roles: dict[str, str]) -> Operands:
        site = self.site
        if site.stochastic or torch.compiler.is_compiling():
            return self._made(part, roles)
        key = (part, roles is AS_INPUT)
        if key not in site.made:
            site.made[key] = self._made(part, roles)
        made: Operands = site.made[key]
        return made

    def _made(self, part: str, roles: dict[str, str]) -> Operands:
        if self._step is None:
            self._step = self.site.turn()
            if self.site.scaling and not torch.compiler.is_compiling():
                self.site.scales.share(frame.module for frame in FRAMES.stack)
        site, step = self.site, self._step

        def rule(name: str) -> Rule | None:
            quantizer = site.quantizers[roles.get(name, name)]
            return None if quantizer is None else site.rule(name + part, quantizer, step)

        def operand(name: str, turn: Turn | None) -> Operand:
            role = roles.get(name, name)
            scaling = site.scaling_of(name, role, part, step) if site.scaling else None
            return Operand(site.factors.get(role, 1.0), turn, rule(name), scaling)

        made = []
        for product, first, second in OF_PRODUCTS:
            turn = site.turn_of(product, part, step) if site.transforms else None
            operands = operand(first, turn), operand(second, turn)
            made.append(ProductRules(*operands, rule(f"{product}.sum")))
        forward, dgrad, wgrad = made
        return Operands(forward, dgrad, wgrad, site.from_rounded)

    def next_part(self) -> str:
        """The name of the next product that has none."""
        self.count += 1
        return f".{self.count - 1}" if self.count > 1 else ""

    def note(self, flops: int, rounded: bool = True) -> None:
        """Count a forward product. Not in a graph, where a number that changes would be a guard."""
        if torch.compiler.is_compiling():
            return
        if rounded:
            self.site.runs += 1
            self.site.flops += flops
        else:
            self.site.left += flops


class Unrounded:
    """The methods of `ElementwiseFunctions` that products of several parts use, as PyTorch's."""

    add, sub, mul = torch.add, torch.sub, torch.mul
    sum, mean, dropout = torch.sum, torch.mean, F.dropout
    sigmoid, tanh, softmax = torch.sigmoid, torch.tanh, torch.softmax
    safe_softmax = staticmethod(safe_softmax)
    hardswish, hardsigmoid = F.hardswish, F.hardsigmoid


class Frame:
    """One call of a module; `products` and `functions` are None where nothing is rounded."""

    def __init__(
        self,
        module: nn.Module,
        name: str,
        products: Products | None,
        functions: ElementwiseFunctions | None,
    ) -> None:
        self.module, self.name = module, name
        self.products, self.functions = products, functions
        self.opened_for: Any = None
        """The scope whose forward runs in this frame, as hooks before and after it do."""
        self.derived: list[Tensor] = []
        """Tensors that were computed from parameters alone."""

    @property
    def ops(self) -> Any:
        """The elementwise operations of the call, rounded where it asks for that."""
        return Unrounded if self.functions is None else self.functions


class Frames(threading.local):
    """The calls that this thread is in, innermost last."""

    def __init__(self) -> None:
        self.stack: list[Frame] = []


FRAMES = Frames()


class FunctionsOfCall(ElementwiseFunctions):
    """The rounded functions of one call of a module, which draws its step with the first of them:
    hooks before the forward say what the model is doing.
    """

    def __init__(self, site: Any) -> None:
        self.site, self.calls = site, 0
        self._rules: ElementwiseRules | None = None

    @property
    def rules(self) -> ElementwiseRules:  # type: ignore[override]
        """As its site has them."""
        if self._rules is None:
            site = self.site
            self._rules = ElementwiseRules(
                site.quantizers, site.seed, site.index, site.turn(), site=site.name
            )
        return self._rules


def functions_of(site: Any) -> ElementwiseFunctions:
    """The rounded functions of one call of a module, by its `ElementwiseSite`."""
    if not torch.compiler.is_compiling():
        site.runs += 1
    return FunctionsOfCall(site)


def is_weight(x: Any) -> bool:
    """Whether a tensor is a parameter, or was computed from parameters alone."""
    if not isinstance(x, Tensor):
        return False
    if type(x) is not Tensor and isinstance(x, nn.Parameter):  # which costs much to ask
        return True
    stack = FRAMES.stack
    for frame in stack:
        for weight in frame.derived:
            if x is weight:
                return True
    if stack:
        for parameter in parameters_of(stack[-1].module):
            if x is parameter:
                return True
    return False


def note_weights(inputs: Sequence[Any], result: Any) -> None:
    """Remember what was computed from parameters alone, so that it counts as a weight."""
    if not inputs or not isinstance(result, (Tensor, tuple, list)):
        return
    first = inputs[0]
    if isinstance(first, Tensor) and first.is_floating_point() and not is_weight(first):
        return
    if isinstance(result, torch.Size) or not _are_weights(inputs):
        return
    results = result if isinstance(result, (tuple, list)) else (result,)
    FRAMES.stack[-1].derived += [x for x in results if isinstance(x, Tensor)]


def pass_on(result: Any, frame: Frame) -> None:
    """What a module returns of weights (a parametrization) is a weight to its caller too."""
    if frame.derived and FRAMES.stack:
        results: Iterable[Any] = result if isinstance(result, (tuple, list)) else (result,)
        FRAMES.stack[-1].derived += [
            x for x in results if any(x is weight for weight in frame.derived)
        ]


def _are_weights(values: Sequence[Any]) -> bool:
    """Whether the floating tensors among the values are weights, and there is one."""
    found = False
    for value in values:
        if isinstance(value, (tuple, list)):
            if any(isinstance(x, Tensor) for x in value):
                if not _are_weights(value):
                    return False
                found = True
        elif isinstance(value, Tensor) and value.is_floating_point():
            if not is_weight(value):
                return False
            found = True
    return found
