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
from .fused_sgd import fused_steps
from .layouts import resolved_for
from .presets import as_recipe
from .recipe import FULL_PRECISION, Recipe
from .tensor_rounding import TensorRandomBits, apply

Parameters = Mapping[str, Array]
"""Arrays by name. Their order gives the index of each tensor's random stream."""


class Slots(NamedTuple):
    """Optimizer state of one parameter: arrays of the parameter's shape and dtype, or None."""

    velocity: Array | None = None
    """Momentum buffer, rounded; None before the first update and without momentum."""
    accumulator: Array | None = None
    """The weight in the accumulator's format; None before the first update and without one."""


class SGDState(NamedTuple):
    """State of the whole optimizer.

    step : number of updates so far. slots : the state of each parameter, by name.
    """

    step: int
    slots: dict[str, Slots]


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of one update, with the meaning that they have in `torch.optim.SGD`."""

    learning_rate: float | Array
    """A number, or a 0-d array of the weights' library."""
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False


class StepInputs(NamedTuple):
    """The arguments of one `sgd_step`: one tensor, its gradient and state, and how to update it."""

    weight: Array
    gradient: Array
    slots: Slots
    hyper: Hyperparameters
    recipe: Recipe
    draw: TensorRandomBits
    widen: Callable[[Array], Array] | None = None
    """What makes float32 arrays of the given ones, if the step is computed with those: results are
    of either dtype. The kernels of GPUs compute with 16-bit arrays as with their copies in float32.
    """

    def widened(self) -> StepInputs:
        """With the arrays that it is computed with."""
        if self.widen is None:
            return self
        slots = Slots(*(None if x is None else self.widen(x) for x in self.slots))
        weight, gradient = self.widen(self.weight), self.widen(self.gradient)
        return self._replace(weight=weight, gradient=gradient, slots=slots, widen=None)


def sgd_step(
    weight: Array,
    gradient: Array,
    slots: Slots,
    hyper: Hyperparameters,
    recipe: Recipe,
    draw: TensorRandomBits,
    in_place: bool = False,
) -> tuple[Array, Slots]:
    """One update of one tensor.

        g = Q_G(gradient) + λ·w
        v = ρ·v + (1 - τ)·g, stored as Q_M(v); v = g at the first update
        u = g + ρ·v with Nesterov's momentum, else v; g without momentum
        w = Q_W(w - α·u), or with an accumulator a = Q_acc(a - α·u), w = Q_W(a)

    The weight is updated by the unrounded v (Yang et al. 2019, algorithm 2, step 3:
    v_t = ρ·Q_M(v_{t-1}) + g_t). Weight decay is added after Q_G, as in the authors' code. Float32
    and float64 arrays are updated in one pass over memory, to the same bits, where a kernel can
    split their blocks into runs of rows.

    Parameters
    ----------
    weight, gradient : arrays of any library, of equal shape and floating dtype.
    slots : the parameter's state, `Slots()` before the first update.
    hyper : learning rate α, momentum ρ, dampening τ, weight decay λ, …
    recipe : its roles gradient (Q_G), momentum (Q_M), weight (Q_W) and accumulator (Q_acc) count.
    draw : the tensor's random bits at this step.
    in_place : whether the arrays of `weight` and `slots` may be overwritten.

    Returns
    -------
    The next weight, and the next state.

    >>> import numpy as np
    >>> recipe, draw = Recipe(weight="fixed<8,4>/nearest_even"), TensorRandomBits(0, 0, 0)
    >>> w, g = np.float32([1.0]), np.float32([2.0])
    >>> sgd_step(w, g, Slots(), Hyperparameters(0.1), recipe, draw)[0].tolist()
    [0.8125]
    """
    return next(sgd_steps([StepInputs(weight, gradient, slots, hyper, recipe, draw)], in_place))


def sgd_steps(steps: Sequence[StepInputs], in_place: bool = False) -> Iterator[tuple[Array, Slots]]:
    """`sgd_step` of many tensors: their next (weight, slots), in the order of `steps`.

    One call of the kernels updates all tensors that they support, before the first result. The
    others are updated one by one as their results are asked for, so that no more than one of them
    is in memory.
    """
    for step, updated in zip(steps, fused_steps(steps, in_place), strict=True):
        if updated is None:
            yield _pure_step(*step.widened()[:-1])
        else:
            yield updated[0], Slots(*updated[1:])


def _pure_step(
    weight: Array,
    gradient: Array,
    slots: Slots,
    hyper: Hyperparameters,
    recipe: Recipe,
    draw: TensorRandomBits,
) -> tuple[Array, Slots]:
    """`sgd_step` by operations on whole arrays."""
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
    learning_rate : float, or a function of the index of the update (from 0).
    momentum, dampening, weight_decay, nesterov, maximize : as in `torch.optim.SGD`.
    recipe : a recipe or the name of a preset; its section "optimizer" counts here.
    seed : of the random bits, which depend on (seed, role, index of the tensor among the
        parameters, step) alone.

    Raises
    ------
    TypeError: if a number or the recipe is of another type.
    ValueError: if a number is negative, if Nesterov's momentum has none or is dampened, or if the
        recipe rounds something but nothing in its section "optimizer".

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
        object.__setattr__(self, "recipe", as_recipe(self.recipe))
        if self.recipe != FULL_PRECISION:
            self.recipe.check_section("optimizer", "SGD", {"optimizer": "SGD"})
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
        """The state before the first update.

        ValueError if a pattern of the recipe's overrides matches no parameter, unless the recipe
        has sections that round something else than parameters.
        """
        if set(self.recipe.sections) <= {"optimizer", "average"}:
            self.recipe.check_patterns(params)
        return SGDState(0, {name: Slots() for name in params})

    def update(
        self, params: Parameters, gradients: Parameters, state: SGDState
    ) -> tuple[dict[str, Array], SGDState]:
        """The parameters and the state after one update.

        ValueError if the parameters, the gradients and the state differ in their names; if the
        recipe names axes by words (see `Recipe.resolve`) and a parameter has several axes.
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
                resolved_for(self.recipe.of(name), name, tuple(weight.shape), None),
                TensorRandomBits(self.seed, tensor, state.step),
            )
            for tensor, (name, weight) in enumerate(params.items())
        ]
        stepped = dict(zip(params, sgd_steps(steps), strict=True))
        return (
            {name: weight for name, (weight, _) in stepped.items()},
            SGDState(state.step + 1, {name: slots for name, (_, slots) in stepped.items()}),
        )
