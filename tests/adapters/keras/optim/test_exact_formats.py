"""Rounding to a format that holds every float32 changes nothing: a wrapped optimizer is the inner
one, whatever its options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import optimizers as o
from qemu_swalp_keras import QuantizedOptimizer

from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import BACKEND, apply, data, network, same

EXACT = "float<8,23>/stochastic"
STEPS = 3
OPTIMIZERS = {
    name: cls
    for name, cls in vars(o).items()
    if inspect.isclass(cls)
    and issubclass(cls, o.Optimizer)
    and cls not in (o.Optimizer, o.LossScaleOptimizer, o.MultiOptimizer)
}
"""All that Keras has, so that a new one is tried as well."""
STATE: dict[str, tuple[str, ...]] = {
    "Adadelta": ("accumulated_grad", "accumulated_delta_var"),
    "Adagrad": ("accumulator",),
    "Adam": ("velocity",),
    "AdamW": ("velocity",),
    "Adamax": ("norm",),
    "Ftrl": ("accumulator", "linear"),
    "Lamb": ("velocity",),
    "Nadam": ("velocity",),
    "RMSprop": ("velocity",),
    "ScheduleFreeAdamW": ("velocity",),
}
SCHEDULE = o.schedules.ExponentialDecay(0.05, 2, 0.5)
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "clipnorm": {"clipnorm": 0.3},
    "clipvalue": {"clipvalue": 0.2},
    "global_clipnorm": {"global_clipnorm": 0.3},
    "use_ema": {"use_ema": True, "ema_momentum": 0.75},
    "ema_overwrite": {"use_ema": True, "ema_momentum": 0.75, "ema_overwrite_frequency": 2},
    "weight_decay": {"weight_decay": 0.05},
    "accumulation": {"gradient_accumulation_steps": 2},
    "loss_scale": {"loss_scale_factor": 64.0},
    "schedule": {"learning_rate": SCHEDULE},
    "accumulation and ema": {"gradient_accumulation_steps": 2, "use_ema": True, "clipnorm": 0.3},
}


def recipe_for(name: str, accumulator: bool = False) -> Recipe:
    return Recipe(
        weight=EXACT,
        gradient=EXACT,
        momentum=EXACT,
        accumulator=EXACT if accumulator else None,
        state=dict.fromkeys(STATE.get(name, ()), EXACT),
    )


def wrapped(inner: Any, recipe: Recipe | None = None) -> QuantizedOptimizer:
    return QuantizedOptimizer(inner, recipe or recipe_for(type(inner).__name__), seed=3)


def by_hand(make: Callable[[], Any]) -> list[np.ndarray]:
    """Weights and optimizer state after some eager steps, the last without one of the gradients."""
    rng = np.random.default_rng(0)
    held = [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=name)
        for name, shape in {"a": (4, 3), "b": (3,)}.items()
    ]
    optimizer = make()
    optimizer.build(held)
    for _ in range(STEPS):
        apply(optimizer, [rng.normal(size=v.shape).astype("float32") for v in held], held)
    optimizer.finalize_variable_values(held)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    named = [v for v in [*held, *inner.variables] if "qemu" not in v.path]
    return [keras.ops.convert_to_numpy(v) for v in named]


MANY = {**OPTIONS["accumulation and ema"], "weight_decay": 0.05, "loss_scale_factor": 64.0}
CASES = [("SGD", option) for option in OPTIONS.values()] + [(name, MANY) for name in OPTIMIZERS]


def short_name(value: Any) -> str:
    """Of a case, the same in every process."""
    return value if isinstance(value, str) else ",".join(value) or "none"


@pytest.mark.parametrize(("name", "options"), CASES, ids=short_name)
def test_each_option_and_each_optimizer(name: str, options: dict[str, Any]) -> None:
    def make() -> Any:
        return OPTIMIZERS[name](**{"learning_rate": 0.05, **options})

    expected = by_hand(make)
    assert same(by_hand(lambda: wrapped(make())), expected)
    if "ema_overwrite_frequency" not in options:  # which an accumulator would not obey
        assert same(by_hand(lambda: wrapped(make(), recipe_for(name, accumulator=True))), expected)


FIT: dict[str, dict[str, Any]] = {
    "auto": {},
    "interpreted": {"jit_compile": False},
    "compiled": {"jit_compile": True},
    "eager": {"run_eagerly": True},
}
if BACKEND == "torch":
    del FIT["compiled"]  # by torch.compile: `test_compiled_by_torch`


@pytest.mark.parametrize("way", FIT)
@pytest.mark.parametrize("option", ["none", "accumulation and ema", "schedule"])
def test_fit(way: str, option: str) -> None:
    """To the bit where it is interpreted; XLA fuses what it compiles, and may round elsewhere."""
    weights = []
    for wrap in (lambda inner: inner, wrapped):
        model = network()
        model.compile(wrap(o.Adam(**{"learning_rate": 0.05, **OPTIONS[option]})), "mse", **FIT[way])
        model.fit(*data(), batch_size=8, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    if way == "compiled" or (way == "auto" and BACKEND == "jax"):
        for a, b in zip(*weights, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    else:
        assert same(*weights)


ATTRIBUTES = {
    "weight_decay": 0.125,
    "clipnorm": 0.5,
    "clipvalue": 0.25,
    "global_clipnorm": 2.0,
    "use_ema": True,
    "ema_momentum": 0.75,
    "ema_overwrite_frequency": 3,
    "loss_scale_factor": 8.0,
    "gradient_accumulation_steps": 4,
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_options_of_the_wrapper_are_the_inner_ones(name: str) -> None:
    value = ATTRIBUTES[name]
    inner = o.SGD(0.1, **({"use_ema": True} if name.startswith("ema") else {}), **{name: value})
    optimizer = wrapped(inner)
    assert getattr(optimizer, name) == value
    plain = getattr(wrapped(o.SGD(0.1)), name)
    assert plain == getattr(o.SGD(0.1), name)
    setattr(optimizer, name, plain)
    assert getattr(inner, name) == plain


def test_an_option_that_is_set_later_counts() -> None:
    held = keras.Variable(np.float32([0.0, 0.0]))
    optimizer = wrapped(o.SGD(1.0))
    optimizer.build([held])
    optimizer.clipvalue = 0.5
    apply(optimizer, [np.float32([3.0, -0.25])], [held])
    assert keras.ops.convert_to_numpy(held).tolist() == [-0.5, 0.25]
