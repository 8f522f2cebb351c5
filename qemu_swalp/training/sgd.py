"""Quantized SGD: algorithm 1 (weights alone) and algorithm 2 (every number) of SWALP, Yang et al.
2019.

Pure functions. Products, sums and differences are separate operations, so nothing is contracted and
the same gradients give the same bits on NumPy, CuPy and eager PyTorch, TensorFlow and JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..arrays import Array
from .multi_tensor import fused_steps
from .recipe import FULL_PRECISION, Recipe
from .tensor_rounding import TensorRandomBits, apply

Parameters = Mapping[str, Array]
"""Arrays by name. Their order numbers the random streams."""


class Slots(NamedTuple):
    """What the optimizer keeps for one parameter, each of the parameter's shape and dtype, or
    None.
    """

    velocity: Array | None = None
    """Momentum buffer, rounded; None before the first step and without momentum."""
    accumulator: Array | None = None
    """The weight in the accumulator's format; None without one, and before the first step."""


class SGDState(NamedTuple):
    """`step`: number of updates made. `slots`: by parameter name."""

    step: int
    slots: dict[str, Slots]


@dataclass(frozen=True)
class Hyperparameters:
    """Hyper-parameters of one step, with the meaning that they have in `torch.optim.SGD`."""

    learning_rate: float | Array
    """A number, or a 0-d array of the weights' library."""
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False


class StepInputs(NamedTuple):
    """The arguments of one `sgd_step`."""

    weight: Array
    gradient: Array
    slots: Slots
    hyper: Hyperparameters
    recipe: Recipe
    draw: TensorRandomBits


def sgd_step(
    weight: Array,
    gradient: Array,
    slots: Slots,
    hyper: Hyperparameters,
    recipe: Recipe,
    draw: TensorRandomBits,
    in_place: bool = False,
) -> tuple[Array, Slots]:
    """One update of one tensor: the next (weight, slots). Arrays of any library, of equal shape and
    floating dtype.

    Arrays of float32 and float64 that kernels take go by one pass over memory, with the same bits,
    where their blocks let them be parted into runs of rows. in_place : whether the given weight and
    slots may be written.

    g = Q_G(gradient) + λ·w;   v = ρ·v + (1 - τ)·g (v = g at first);   u = g + ρ·v if Nesterov else
    v (g if ρ = 0); w = Q_W(w - α·u), or with an accumulator a = Q_acc(a - α·u), w = Q_W(a);   v is
    kept as Q_M(v).

    The step takes the unrounded v (algorithm 2, step 3: v_t = ρ·Q_M(v_{t-1}) + g_t), and weight
    decay is added after Q_G, as in the authors' code.
    """
    return next(sgd_steps([StepInputs(weight, gradient, slots, hyper, recipe, draw)], in_place))


def sgd_steps(steps: Sequence[StepInputs], in_place: bool = False) -> Iterator[tuple[Array, Slots]]:
    """`sgd_step` of many tensors: their next (weight, slots), in the order of `steps`.

    What the fused kernels take they make in one call, with the first result; each other step is
    made when its result is asked for, so that no more than one is held.
    """
    for step, found in zip(steps, fused_steps(steps, in_place), strict=True):
        yield _pure_step(*step) if found is None else (found[0], Slots(*found[1:]))


def _pure_step(
    weight: Array,
    gradient: Array,
    slots: Slots,
    hyper: Hyperparameters,
    recipe: Recipe,
    draw: TensorRandomBits,
) -> tuple[Array, Slots]:
    """`sgd_step` by array operations."""
    g = apply(recipe.gradient, gradient, draw, "gradient")
    if hyper.maximize:
        g = -g
    if hyper.weight_decay:
        g = g + hyper.weight_decay * weight
    velocity = slots.velocity
    update = g
    if hyper.momentum:
        v = g if velocity is None else hyper.momentum * velocity + (1 - hyper.dampening) * g
        update = g + hyper.momentum * v if hyper.nesterov else v
        velocity = apply(recipe.momentum, v, draw, "momentum")
    start = weight if slots.accumulator is None else slots.accumulator
    moved = start - hyper.learning_rate * update
    accumulator = None
    if recipe.accumulator is not None:
        moved = accumulator = apply(recipe.accumulator, moved, draw, "accumulator")
    return apply(recipe.weight, moved, draw, "weight"), Slots(velocity, accumulator)


@dataclass(frozen=True)
class SGD:
    """Quantized SGD as a pair of pure functions, `init` and `update`.

    Parameters
    ----------
    learning_rate : float, or a function of the step's index (from 0).
    momentum, dampening, weight_decay, nesterov, maximize : as in `torch.optim.SGD`.
    recipe : the roles weight, gradient, momentum and accumulator count here.
    seed : of the random bits; the draw of a tensor depends on (seed, role, its place among the
        parameters, step) alone.

    >>> import numpy as np
    >>> from qemu_swalp.training import SGD, fixed_point
    >>> optimizer = SGD(0.1, recipe=fixed_point(8, 4))
    >>> params = {"w": np.float32([1.0])}
    >>> state = optimizer.init(params)
    >>> params, state = optimizer.update(params, {"w": 2 * params["w"]}, state)
    >>> params["w"].tolist(), state.step
    ([0.8125], 1)
    """

    learning_rate: float | Callable[[int], float]
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    recipe: Recipe = FULL_PRECISION
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("momentum", "weight_decay") + (
            () if callable(self.learning_rate) else ("learning_rate",)
        ):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                "nesterov=True needs momentum > 0 and dampening = 0, "
                f"got momentum={self.momentum}, dampening={self.dampening}"
            )

    def init(self, params: Parameters) -> SGDState:
        """The state before the first step."""
        return SGDState(0, {name: Slots() for name in params})

    def update(
        self, params: Parameters, gradients: Parameters, state: SGDState
    ) -> tuple[dict[str, Array], SGDState]:
        """The parameters and the state after one step. ValueError unless all three have the same
        names.
        """
        if set(params) != set(gradients) or set(params) != set(state.slots):
            raise ValueError(
                f"params, gradients and state must have the same names, got {sorted(params)}, "
                f"{sorted(gradients)} and {sorted(state.slots)}"
            )
        rate = (
            self.learning_rate(state.step) if callable(self.learning_rate) else self.learning_rate
        )
        hyper = Hyperparameters(
            rate, self.momentum, self.dampening, self.weight_decay, self.nesterov, self.maximize
        )
        steps = [
            StepInputs(
                weight,
                gradients[name],
                state.slots[name],
                hyper,
                self.recipe.of(name),
                TensorRandomBits(self.seed, tensor, state.step),
            )
            for tensor, (name, weight) in enumerate(params.items())
        ]
        stepped = dict(zip(params, sgd_steps(steps), strict=True))
        return (
            {name: weight for name, (weight, _) in stepped.items()},
            SGDState(state.step + 1, {name: slots for name, (_, slots) in stepped.items()}),
        )
