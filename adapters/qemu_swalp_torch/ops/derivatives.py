"""Derivatives of products, which are products again, of any order.

The derivative of one of the three products of a layer is made of the other two. Whatever tensor
stands in the place of the input, the weight or the error is rounded as that operand of that
product. A tensor that meets several products of one kind is rounded alike in each. One that is the
gradient of a backward product, and so belongs to a higher derivative, has random bits and delayed
scales of its own, by the path of products that it came by (clause RNG-7).
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._compat import constant
from ..tensors.custom_ops import Rule
from ..tensors.transforms import Transformable, applied, needs_function, transformable
from .masked import shared
from .operands import Operand, ProductRules
from .three import Three

PLACES = {
    "forward": ("input", "weight", "error"),
    "dgrad": ("error", "weight", "input"),
    "wgrad": ("error", "input", "weight"),
}
"""Product → the places of its operands and of its result."""

FIRST, SECOND, UPSTREAM = range(3)

DERIVATIVES = {
    "forward": (("dgrad", UPSTREAM, SECOND), ("wgrad", UPSTREAM, FIRST)),
    "dgrad": (("forward", UPSTREAM, SECOND), ("wgrad", FIRST, UPSTREAM)),
    "wgrad": (("forward", SECOND, UPSTREAM), ("dgrad", FIRST, UPSTREAM)),
}
"""Product → the products that are its derivatives by its first and its second operand: of which of
these, and of the gradient of its result.
"""


class Product(NamedTuple):
    """One of the products of a layer, or of a derivative of one."""

    three: Three
    kind: str = "forward"
    path: str = ""
    """Through which products it came from the forward one, itself included."""
    origins: tuple[str, str] = ("", "")
    """Of each operand the path of the product whose gradient it is; "" of input, weight, error."""

    def computed(self, first: Tensor, second: Tensor, third: Any) -> Tensor:
        """The product by its rules, without gradient; `third` is the bias of a forward product or
        None, of others a tensor of the result's shape.
        """
        if self.kind == "forward":
            return self.three.forward(first, second, self.rules(), third)
        product = self.three.dgrad if self.kind == "dgrad" else self.three.wgrad
        return product(first, second, self.rules(), third)

    def rules(self) -> ProductRules:
        """Of the operands and the sum."""
        operands = self.three.operands
        how: ProductRules = getattr(operands, self.kind)
        if operands.from_rounded and self.kind == "forward":
            how = ProductRules(sum=how.sum)  # `once` has rounded its operands
        before = self.path.rpartition("/")[0]
        if not before:
            return how
        return ProductRules(
            _of_origin(how.first, self.origins[0]),
            _of_origin(how.second, self.origins[1]),
            _of_path(how.sum, before),
        )

    def derivative(self, operand: int) -> Product:
        """The product that is the derivative by an operand."""
        kind, first, second = DERIVATIVES[self.kind][operand]
        origins = (*self.origins, self.path)
        return Product(self.three, kind, f"{self.path}/{kind}", (origins[first], origins[second]))

    def once(self, place: str, x: Tensor) -> Tensor:
        """What backward="rounded" hands on: input or weight, rounded for all products at once.

        Gradients of backward products in their places are transformed already.
        """
        forward = self.three.operands.forward
        operand = forward.first if place == "input" else forward.second
        if self.path:
            operand = _of_origin(operand, self.path)._replace(turn=None)
        return self.three.once(place, x, partial(shared, operand=operand))


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None, three: Three) -> Tensor:
    """The forward product, with derivatives of all orders."""
    product = Product(three)
    if three.operands.from_rounded:
        x, weight = product.once("input", x), product.once("weight", weight)
    y: Tensor = applied(_Product, x, weight, bias, product)
    return y


@transformable
class _Product(Transformable):
    @staticmethod
    def forward(first: Tensor, second: Tensor, third: Any, product: Product) -> Tensor:
        return product.computed(first, second, third)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.product = inputs[3]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (upstream,) = gradients
        product: Product = ctx.product
        of_bias = None
        if ctx.needs_input_grad[2]:
            of_bias = upstream.sum([d for d in range(upstream.ndim) if d != 1])
        place = PLACES[product.kind][2]
        if product.three.operands.from_rounded and place != "error":
            upstream = product.once(place, upstream)
        tensors = (*ctx.saved_tensors, upstream)
        found = [None, None]
        for operand in (FIRST, SECOND):
            if ctx.needs_input_grad[operand]:
                found[operand] = _derivative(product, operand, tensors)
        return *found, of_bias, None


def _derivative(product: Product, operand: int, tensors: tuple[Tensor, ...]) -> Any:
    kind, first, second = DERIVATIVES[product.kind][operand]
    a, b = tensors[first], tensors[second]
    like: Any = None
    if kind != "forward":
        like = tensors[operand].detach()
    if needs_function(a, b) and not torch.compiler.is_dynamo_compiling():  # create_graph=True
        return applied(_Product, a, b, like, product.derivative(operand))
    if product.path:
        return product.derivative(operand).computed(a, b, like)
    of_layer = product.three.dgrad if kind == "dgrad" else product.three.wgrad
    return of_layer(a, b, getattr(product.three.operands, kind), like)


def _of_origin(operand: Operand, origin: str) -> Operand:
    if not origin:
        return operand
    scaling = operand.scaling
    if scaling is not None:
        scaling = scaling._replace(name=scaling.name + origin)
    return operand._replace(rule=_of_path(operand.rule, origin), scaling=scaling)


def _of_path(rule: Rule | None, path: str) -> Rule | None:
    """The rule with the random bits of the role whose name the path is added to."""
    if rule is None or not path:
        return rule
    return rule._replace(stream=_continued(rule.stream, path), role=rule.role + path)


@constant
def _continued(stream: int, path: str) -> int:
    """`stream_id(role + path, index)`, `stream` being `stream_id(role, index)`."""
    return zlib.crc32(path.encode(), stream >> 32) << 32 | stream & 0xFFFFFFFF
