"""Quantized optimizers of every kind, their training by hand, and ways of running a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import optimizers as o
from qemu_swalp_keras import QuantizedOptimizer

from qemu_swalp.training import Quantizer, Recipe, TensorRandomBits, apply
from tests.adapters.keras import conftest
from tests.helpers.keras_native import BACKEND

BLOCK = "bfp<8,axis=0>/stochastic"
ADAM = Recipe(
    weight=BLOCK,
    gradient="e5m2/stochastic",
    momentum=BLOCK,
    state={"velocity": "bf16/nearest_even"},
)
SGD = Recipe(weight=BLOCK, gradient=BLOCK, momentum=BLOCK)
MASTER = Recipe(
    weight="e4m3fn/stochastic",
    gradient="e5m2/stochastic",
    momentum="bf16/stochastic",
    accumulator="bf16/stochastic",
)

KINDS: dict[str, tuple[Callable[[], Any], Recipe]] = {
    "SGD": (lambda: o.SGD(0.1), SGD),
    "SGD-momentum": (lambda: o.SGD(0.1, momentum=0.9), SGD),
    "SGD-nesterov": (lambda: o.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01), SGD),
    "SGD-clipnorm": (lambda: o.SGD(0.1, momentum=0.9, clipnorm=0.5), SGD),
    "SGD-global_clipnorm": (lambda: o.SGD(0.1, momentum=0.9, global_clipnorm=0.5), SGD),
    "SGD-clipvalue": (lambda: o.SGD(0.1, momentum=0.9, clipvalue=0.2), SGD),
    "SGD-accumulator": (lambda: o.SGD(0.1, momentum=0.9, weight_decay=0.1), MASTER),
    "SGD-scaled": (lambda: o.SGD(0.1, loss_scale_factor=128.0), SGD),
    "Adam": (lambda: o.Adam(0.05), ADAM),
    "Adam-amsgrad": (
        lambda: o.Adam(0.05, amsgrad=True),
        Recipe(weight=BLOCK, state={"velocity_hat": "bf16/stochastic"}),
    ),
    "Adam-accumulator": (lambda: o.Adam(0.05, weight_decay=0.1), MASTER),
    "AdamW": (lambda: o.AdamW(0.05, clipvalue=0.2), ADAM),
    "Nadam": (lambda: o.Nadam(0.05), ADAM),
    "Adamax": (
        lambda: o.Adamax(0.05),
        Recipe(
            weight=BLOCK,
            gradient="e5m2/stochastic",
            momentum=BLOCK,
            state={"norm": "bf16/stochastic"},
        ),
    ),
    "RMSprop": (
        lambda: o.RMSprop(0.05),
        Recipe(weight=BLOCK, gradient="e5m2/stochastic", state={"velocity": "bf16/stochastic"}),
    ),
    "RMSprop-centered": (
        lambda: o.RMSprop(0.05, momentum=0.9, centered=True),
        Recipe(
            weight=BLOCK,
            momentum=BLOCK,
            state={"velocity": "bf16/stochastic", "average_gradient": "e5m2/stochastic"},
        ),
    ),
    "Adagrad": (
        lambda: o.Adagrad(0.1),
        Recipe(weight=BLOCK, gradient=BLOCK, state={"accumulator": "bf16/stochastic"}),
    ),
    "Adadelta": (
        lambda: o.Adadelta(1.0),
        Recipe(
            weight=BLOCK,
            gradient=BLOCK,
            state={
                "accumulated_grad": "bf16/stochastic",
                "accumulated_delta_var": "bf16/stochastic",
            },
        ),
    ),
    "Lion": (lambda: o.Lion(0.05, weight_decay=0.01), SGD),
    "Ftrl": (
        lambda: o.Ftrl(0.1),
        Recipe(weight=BLOCK, gradient=BLOCK, state={"linear": "bf16/stochastic"}),
    ),
    "Adafactor": (lambda: o.Adafactor(0.1), Recipe(weight=BLOCK, gradient=BLOCK)),
    "Lamb": (lambda: o.Lamb(0.05), ADAM),
    "Muon": (lambda: o.Muon(0.05), Recipe(weight=BLOCK, gradient=BLOCK, momentum=BLOCK)),
    "ScheduleFreeAdamW": (lambda: o.ScheduleFreeAdamW(0.05), ADAM),
}
SHAPES = {"a": (7, 5), "b": (5,)}
STEPS, SEED = 4, 11


def numbers(scale: float, seed: int) -> list[np.ndarray]:
    """An array for each variable."""
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=shape) * scale).astype("float32") for shape in SHAPES.values()]


GRADIENTS = [numbers(1.0, step + 1) for step in range(STEPS)]


def variables() -> list[keras.Variable]:
    return [
        keras.Variable(value, name=name)
        for name, value in zip(SHAPES, numbers(0.5, 0), strict=True)
    ]


def slots(optimizer: Any, variable: Any) -> dict[str, Any]:
    """The optimizer's variables that are like this one, by their names."""
    prefix = f"/{variable.path.replace('/', '_')}_"
    return {v.path.split(prefix)[1]: v for v in optimizer.variables if prefix in v.path}


def quantizer_of(slot: str, recipe: Recipe) -> tuple[str, Quantizer | None]:
    """(role, quantizer) of a slot."""
    return (
        ("momentum", recipe.momentum)
        if slot == "momentum"
        else (slot, dict(recipe.state).get(slot))
    )


def state(optimizer: Any, variables: Sequence[Any]) -> dict[str, np.ndarray]:
    """Weights and optimizer state by name, but for the wrapper's own and accumulators."""
    parts = {v.name: v for v in variables} | {
        f"{v.name} {name}": slot
        for v in variables
        for name, slot in slots(optimizer, v).items()
        if name != "qemu_accumulator"
    }
    return {name: keras.ops.convert_to_numpy(part).copy() for name, part in parts.items()}


def quantized(kind: str) -> tuple[QuantizedOptimizer, list[keras.Variable]]:
    """A built optimizer and its variables."""
    make, recipe = KINDS[kind]
    optimizer, held = QuantizedOptimizer(make(), recipe, seed=SEED), variables()
    optimizer.build(held)
    return optimizer, held


def by_hand(kind: str) -> list[dict[str, np.ndarray]]:
    """States after each eager step of an optimizer that nothing is wrapped around: gradients are
    unscaled and clipped before it, NumPy rounds them, and after it state and weights.
    """
    make, recipe = KINDS[kind]
    clipper, held = make(), variables()
    plain = type(clipper).from_config(
        {
            **clipper.get_config(),
            "clipnorm": None,
            "clipvalue": None,
            "global_clipnorm": None,
            "loss_scale_factor": None,
        }
    )
    plain.build(held)
    scale = np.float32(clipper.loss_scale_factor or 1)

    def rewrite(
        variable: Any, quantizer: Quantizer | None, draw: TensorRandomBits, role: str
    ) -> np.ndarray:
        value = apply(quantizer, keras.ops.convert_to_numpy(variable), draw, role)
        variable.assign(value)
        return np.array(value)

    masters = [
        rewrite(v, recipe.weight, TensorRandomBits(SEED, i, 0), "initial")
        for i, v in enumerate(held)
    ]
    states = []
    for step, gradients in enumerate(GRADIENTS):
        clipped = clipper._clip_gradients(
            [keras.ops.convert_to_tensor(g / scale) for g in gradients]
        )
        rounded = [
            apply(
                recipe.gradient,
                keras.ops.convert_to_numpy(g),
                TensorRandomBits(SEED, i, step),
                "gradient",
            )
            for i, g in enumerate(clipped)
        ]
        if recipe.accumulator is not None:
            for v, master in zip(held, masters, strict=True):
                v.assign(master)
        conftest.apply(plain, rounded, held)
        for i, v in enumerate(held):
            draw = TensorRandomBits(SEED, i, step)
            for name, slot in slots(plain, v).items():
                role, quantizer = quantizer_of(name, recipe)
                rewrite(slot, quantizer, draw, role)
            masters[i] = rewrite(v, recipe.accumulator, draw, "accumulator")
            rewrite(v, recipe.weight, draw, "weight")
        states.append(state(plain, held))
    return states


def stepper(
    optimizer: Any, held: Sequence[Any], mode: str
) -> Callable[[Sequence[np.ndarray]], None]:
    """A function of gradients that makes a step, eagerly or compiled."""
    if mode == "eager":
        return lambda gradients: conftest.apply(optimizer, gradients, held)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(
            lambda gradients: optimizer.apply(gradients, held),
            jit_compile=mode == "xla",
            autograph=False,
        )
    import jax

    step = jax.jit(optimizer.stateless_apply)

    def run(gradients: Sequence[np.ndarray]) -> None:
        weights, rest = step(
            [v.value for v in optimizer.variables], list(gradients), [v.value for v in held]
        )
        for v, value in zip([*held, *optimizer.variables], [*weights, *rest], strict=True):
            v.assign(value)

    return run
