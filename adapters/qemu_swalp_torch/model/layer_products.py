"""The products of each kind of module, with operands and sums rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from qemu_swalp.training import OPERANDS, SUMS, Recipe

from .._compat import ConvNd, ConvTransposeNd, output_padding_of, padding_of, safe_softmax
from ..ops.accumulate import Geometry
from ..ops.matmul import Operands, convolution, linear, matmul
from ..tensors.call_counters import Position
from ..tensors.custom_ops import is_stochastic
from .attention import attend
from .forward_override import ForwardSite
from .sdpa import attention_within
from .selection import Matmul


class Gemm(ForwardSite):
    """What a module has in place of its `forward`: the same, with the operands of its products
    rounded.
    """

    def __init__(
        self, position: Position, recipe: Recipe, module: nn.Module, attention: bool
    ) -> None:
        super().__init__(position, module)
        self.attention = attention
        self.quantizers = {
            operand: None if (q := recipe.quantizer(operand)) is None else str(q)
            for operand in OPERANDS
        }
        self.quantizers |= {
            name: None if (a := recipe.accumulation(name)) is None else str(a) for name in SUMS
        }
        self.stochastic = any(is_stochastic(q) for q in self.quantizers.values() if q is not None)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.run(safe_softmax, *inputs, **options)

    def run(self, softmax: Callable[[Tensor], Tensor], *inputs: Any, **options: Any) -> Any:
        """The module's forward; `softmax` is that of its attention."""
        kind = type(self.module).forward
        if not self.enabled:
            return kind(self.module, *inputs, **options)
        forward: Callable[..., Any] = FORWARDS.get(kind, attention_within)
        return forward(self.module, Rules(self, self.turn(), softmax), *inputs, **options)


class Rules:
    """The operands' rules at one call of a module."""

    def __init__(self, site: Gemm, step: int | Tensor, softmax: Callable[[Tensor], Tensor]) -> None:
        self.site, self.step, self.softmax = site, step, softmax

    def of(self, part: str = "") -> Operands:
        """For the product of inputs and weights, or of that part of them, which has random streams
        of its own.
        """
        return Operands(
            *(
                self.site.rule(operand + part, self.site.quantizers[operand], self.step)
                for operand in (*OPERANDS, *SUMS)
            )
        )

    def of_activations(self, part: str = "") -> Operands:
        """For a product of two activations, both rounded as inputs; none, where attention is left
        out.
        """
        if not self.site.attention:
            return Operands()
        return Operands(
            *(
                self.site.rule(
                    operand + part, self.site.quantizers[AS_INPUT.get(operand, operand)], self.step
                )
                for operand in (*OPERANDS, *SUMS)
            )
        )


AS_INPUT = {"forward.weight": "forward.input", "dgrad.weight": "wgrad.input"}


def _linear(module: nn.Linear, rules: Rules, input: Tensor) -> Tensor:
    return linear(input, module.weight, module.bias, rules.of())


def multiply(module: Matmul, rules: Rules, a: Tensor, b: Tensor) -> Tensor:
    """The product of two activations."""
    return matmul(a, b, rules.of_activations())


def _convolution(module: ConvNd, rules: Rules, input: Tensor) -> Tensor:
    padding: Any = module.padding
    if module.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        input = nn.functional.pad(input, padding_of(module), mode=mode)
        padding = (0,) * len(module.kernel_size)
    return _convolved(module, rules, input, padding, module.output_padding)


def _transposed(
    module: ConvTransposeNd,
    rules: Rules,
    input: Tensor,
    output_size: list[int] | None = None,
) -> Tensor:
    return _convolved(
        module,
        rules,
        input,
        module.padding,
        tuple(output_padding_of(module, input, output_size)),
    )


def _convolved(module: ConvNd, rules: Rules, x: Tensor, padding: Any, added: Any) -> Tensor:
    geometry = Geometry(
        module.stride, padding, module.dilation, module.transposed, added, module.groups
    )
    batched = x.ndim == module.weight.ndim
    y = convolution(x if batched else x[None], module.weight, module.bias, geometry, rules.of())
    return y if batched else y[0]


FORWARDS: dict[Any, Callable[..., Any]] = {
    nn.Linear.forward: _linear,
    Matmul.forward: multiply,
    nn.MultiheadAttention.forward: attend,
    **dict.fromkeys((nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward), _convolution),
    **dict.fromkeys(
        (nn.ConvTranspose1d.forward, nn.ConvTranspose2d.forward, nn.ConvTranspose3d.forward),
        _transposed,
    ),
}
"""By the forward of a kind of module, ours, called as (module, rules, *inputs)."""
