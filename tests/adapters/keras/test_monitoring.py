"""The figures of `Monitor`, and that the training that it watches does not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import optimizers as o
from qemu_swalp_keras import SGD, Monitor, QuantizedOptimizer, SwapAverage, emulate

import qemu_swalp as q
from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import data, network, same

RECIPE = Recipe(
    weight="fixed<8,6>/stochastic",
    gradient="e5m2/stochastic",
    momentum="bf16",
    activation="e4m3fn/stochastic",
    error="e5m2/stochastic",
    operands={"forward.input": "fixed<4,2>", "error": "e5m2/stochastic"},
)
X, Y = data()


def emulated(recipe: Recipe = RECIPE, inner: Any = None) -> keras.Model:
    optimizer = inner or o.SGD(0.1, momentum=0.9)
    model, optimizer = emulate(network(), optimizer, recipe, seed=1, average=True)
    model.compile(optimizer, "mse")
    return model


def test_every_place_and_role_has_a_row() -> None:
    model = emulated()
    monitor = Monitor(X, Y, batch_size=16)
    monitor.watch(model)
    rows = {(row["place"].split("/")[-1], row["role"]): row for row in monitor.rows()}
    roles = {role for _, role in rows}
    assert {"weight", "gradient", "momentum", "activation", "error"} <= roles
    assert {"forward.input", "dgrad.error", "wgrad.error"} <= roles
    assert str(monitor).count("fixed<8,6>/stochastic") == 4  # kernels and biases
    weights = [row for (_, role), row in rows.items() if role == "weight"]
    assert all(0 <= row["lost_updates"] <= 1 and row["gradient_to_noise"] > 0 for row in weights)


def test_figures_of_what_the_first_layer_multiplies() -> None:
    model = emulated(Recipe(operands={"forward.input": "fixed<4,2>"}))
    monitor = Monitor(X, Y, batch_size=len(X))
    monitor.watch(model)
    row = next(r for r in monitor.rows() if r["place"].endswith("hidden"))
    expected = q.analyze(X, "fixed<4,2>")
    assert row["sqnr_db"] == expected.sqnr_db
    assert row["saturated"] == expected.share_saturated
    assert row["role"] == "forward.input"


def test_lost_updates_and_noise() -> None:
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.float32([[1.0]])])
    for optimizer in (
        QuantizedOptimizer(o.SGD(2.0**-10), Recipe(weight="fixed<8,4>")),
        SGD(2.0**-10, recipe=Recipe(weight="fixed<8,4>")),
    ):
        model.compile(optimizer, "mse")
        x = np.ones((3, 1), "float32")
        y = np.float32([[0.0], [2.0], [-2.0]])  # gradients 2, -2, 6
        monitor = Monitor(x, y, batch_size=1)
        monitor.watch(model)
        (row,) = monitor.rows()
        assert row["lost_updates"] == 1.0
        assert row["gradient_to_noise"] == pytest.approx(4 / 16)


def test_without_rounding_the_noise_of_gradients() -> None:
    model = network()
    model.compile("adam", "mse")
    monitor = Monitor(X, Y, batch_size=16)
    monitor.watch(model)
    assert [(r["role"], r["quantizer"]) for r in monitor.rows()] == [("weight", None)] * 4


@pytest.mark.parametrize("callbacks", [list, lambda: [SwapAverage(on_epoch_end=True)]])
def test_the_training_is_the_same_to_the_bit(callbacks: Any) -> None:
    runs = []
    for monitors in ([], [Monitor(X[:32], Y[:32], batch_size=16)]):
        keras.utils.set_random_seed(1)
        model = emulated()
        model.fit(X, Y, 16, 3, 0, [*monitors, *callbacks()], shuffle=False)
        runs.append([*model.get_weights(), *(np.array(v) for v in state(model))])
    assert same(*runs)


def state(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]


def test_tensorboard_has_the_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = emulated()
    monitor = Monitor(X, Y, every=2, log_dir=tmp_path)
    model.fit(X, Y, 16, 3, 0, [monitor], shuffle=False)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()
    tag = next(t for t in [*tags["scalars"], *tags["tensors"]] if t.endswith("weight/sqnr_db"))
    assert [e.step for e in events.Tensors(tag)] == [0, 8]


def test_loss_scaling() -> None:
    """Keras steps in a branch, which JAX would trace."""
    model = emulated(inner=None)
    model.compile(o.LossScaleOptimizer(model.optimizer, initial_scale=4.0), "mse")
    monitor = Monitor(X, Y, batch_size=32)
    monitor.watch(model)
    assert "weight" in {row["role"] for row in monitor.rows()}
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": Y[:3]}, "the same number of elements"),
        ({"x": X[:0], "y": Y[:0]}, "one or more"),
        ({"every": 0}, "every must be"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Monitor(**{"x": X, "y": Y, **arguments})


def test_models_that_cannot_be_watched() -> None:
    with pytest.raises(ValueError, match="must be compiled with an optimizer, and built"):
        Monitor(X, Y).watch(network())
