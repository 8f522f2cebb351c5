"""Iterates with infinities or NaN, in the average of an optimizer and of a callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import SGD, PolicyAverage, QuantizedOptimizer, SwapAverage

from qemu_swalp.training import EMA, Averaging, Recipe
from tests.adapters.keras.conftest import apply
from tests.helpers.keras_native import MODES
from tests.helpers.keras_optimizers import stepper

EMPTY = Recipe(allow_empty=True)
NARROW = Recipe(average="fixed<8,4>/nearest_even", allow_empty=True)
"""A format that would make a number of infinity."""

KINDS: dict[str, Callable[..., Any]] = {
    "SGD": lambda **options: SGD(1.0, **options),
    "wrapped": lambda recipe, **options: QuantizedOptimizer(
        keras.optimizers.SGD(1.0), recipe, **options
    ),
}
BAD = [np.nan, np.inf, -np.inf]


def trained(
    kind: str, bad: float, nonfinite: str, recipe: Recipe = EMPTY, mode: str = "eager"
) -> Any:
    """After four updates, of which the second leaves a weight that is not finite."""
    held = [keras.Variable(np.zeros(2, "f4"), name="w"), keras.Variable(np.zeros(1, "f4"))]
    optimizer = KINDS[kind](recipe=recipe, swa_start=0, swa_nonfinite=nonfinite)
    optimizer.build(held)
    step = stepper(optimizer, held, mode)
    for i in range(4):
        if i == 2:
            held[0].assign(np.full(2, -1.0, "f4"))
        step([np.float32([1.0, bad if i == 1 else 1.0]), np.float32([-1.0])])
    return optimizer


@pytest.mark.parametrize("recipe", [EMPTY, NARROW], ids=["sum", "mean"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", BAD)
def test_skip_leaves_the_iterate_out_whole(mode: str, bad: float, recipe: Recipe) -> None:
    optimizer = trained("wrapped", bad, "skip", recipe, mode)
    assert optimizer.n_averaged == 3
    averages = list(optimizer.average().values())
    assert averages[0].tolist() == [-2.0, -2.0]  # of -1, -2, -3
    if recipe is EMPTY:
        assert averages[1].tolist() == [np.float32(8) / np.float32(3)]  # of 1, 3, 4


@pytest.mark.parametrize("recipe", [EMPTY, NARROW], ids=["sum", "mean"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", KINDS)
def test_raise_tells_when_the_average_is_asked_for(kind: str, bad: float, recipe: Recipe) -> None:
    optimizer = trained(kind, bad, "raise", recipe)
    assert optimizer.n_averaged == 4
    for use in (optimizer.average, lambda: optimizer.swap().__enter__()):
        with pytest.raises(ValueError, match=r"NaN in w: .* swa_nonfinite='skip'"):
            use()


def test_include_averages_it() -> None:
    average = trained("SGD", np.inf, "include").average()["w"]
    assert average[0] == -2.0
    assert not np.isfinite(average[1])


def test_the_choice_is_saved_and_checked() -> None:
    optimizer = trained("wrapped", np.nan, "skip")
    assert type(optimizer).from_config(optimizer.get_config())._settings == optimizer._settings
    old = {k: v for k, v in optimizer.get_config().items() if k != "swa_nonfinite"}
    assert type(optimizer).from_config(old).get_config()["swa_nonfinite"] == "raise"
    with pytest.raises(ValueError, match="swa_nonfinite must be one of raise, skip, include"):
        SGD(swa_start=0, swa_nonfinite="drop")


def diverging(optimizer: Any) -> tuple[keras.Model, np.ndarray]:
    """A model, and data whose second batch of four makes its weights infinite."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse", jit_compile=False)
    return model, np.float32([[1], [np.inf], [1], [1]])


def test_fit_raises_at_its_end_or_when_the_average_is_evaluated() -> None:
    for callbacks in ([], [SwapAverage()]):
        model, x = diverging(SGD(0.1, swa_start=0))
        with pytest.raises(ValueError, match="swa_nonfinite='skip'"):
            model.fit(x, x, 1, 1, 0, callbacks, validation_data=(x[:1], x[:1]), shuffle=False)


@pytest.mark.parametrize("policy", [EMA, Averaging])
def test_a_callback_skips_or_raises(policy: Any) -> None:
    class Mend(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                self.model.set_weights([np.ones((1, 1), "f4")])

    model, x = diverging(keras.optimizers.SGD(0.1))
    average = PolicyAverage(policy(nonfinite="skip"))
    model.fit(x, x, 1, 1, 0, [Mend(), average], shuffle=False)
    assert (average.step, average.state.n_averaged) == (4, 3)
    assert all(np.isfinite(value).all() for value in average.average().values())
    model, x = diverging(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match=rf"after step 2 .* {policy.__name__} with nonfinite="):
        model.fit(x, x, 1, 1, 0, [PolicyAverage(policy())], shuffle=False)


def test_eager_steps_of_a_hand_written_loop() -> None:
    held = [keras.Variable(np.float32([np.nan]), name="w")]
    optimizer = SGD(1.0, swa_start=0, swa_include_start=True, swa_nonfinite="skip")
    optimizer.build(held)
    assert optimizer.n_averaged == 0
    held[0].assign(np.float32([1.0]))
    apply(optimizer, [np.float32([0.5])], held)
    assert (optimizer.n_averaged, optimizer.average()["w"].tolist()) == (1, [0.5])
