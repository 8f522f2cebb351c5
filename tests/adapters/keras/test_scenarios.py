"""Ways of training and what Keras does between gradient and update: bit for bit what NumPy gets,
compiled or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import SGD, QuantizedOptimizer

from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import on_grid, same
from tests.helpers import keras_exact as exact
from tests.helpers.keras_native import BACKEND, MODES
from tests.helpers.keras_optimizers import stepper

FIT: dict[str, dict[str, Any]] = {
    "default": {},
    "interpreted": {"jit_compile": False},
    "eager": {"run_eagerly": True},
    "compiled": {"jit_compile": True},
    "4-steps-at-once": {"steps_per_execution": 4},
}
if BACKEND == "torch":
    del FIT["4-steps-at-once"]  # Keras refuses it on PyTorch


def in_epochs(first: float, *others: float) -> Callable[[int], float]:
    """The rate of each epoch."""
    return lambda step: (first, *others)[step // exact.STEPS]


@pytest.mark.parametrize("way", FIT)
def test_fit(way: str) -> None:
    model = exact.compiled(**FIT[way])
    model.optimizer.build(
        model.trainable_variables
    )  # TensorFlow would, eagerly, take the first gradient before it
    exact.fit(model)
    exact.assert_as_expected(model, exact.trained(16))


def test_train_on_batch_leaves_every_update_on_the_grid() -> None:
    model = exact.compiled()
    for step, expected in enumerate(exact.training(10, exact.RECIPE)):
        if step:
            rows = slice((step - 1) * exact.BATCH, step * exact.BATCH)
            model.train_on_batch(exact.X[rows], exact.Y[rows])
            exact.assert_as_expected(model, expected)
            assert all(on_grid(w, exact.RECIPE.weight) for w in model.weights)


@pytest.mark.parametrize("compiled", [False, True])
def test_custom_training_loop(compiled: bool) -> None:
    if compiled and BACKEND == "torch":
        pytest.skip("PyTorch's loop is eager")
    model, optimizer = exact.network(), exact.optimizer()
    optimizer.build(model.trainable_variables)
    step = custom_step(model, optimizer, compiled)
    for k in range(16):
        rows = slice(k * exact.BATCH, (k + 1) * exact.BATCH)
        step(keras.ops.convert_to_tensor(exact.X[rows]), keras.ops.convert_to_tensor(exact.Y[rows]))
    exact.assert_as_expected(model, exact.trained(16), optimizer)


def custom_step(model: keras.Model, optimizer: Any, compiled: bool) -> Callable[[Any, Any], None]:
    """One step as the guides of Keras write it for the backend."""
    weights = model.trainable_variables
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def tf_step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

        return tf.function(tf_step) if compiled else tf_step
    if BACKEND == "torch":
        import torch

        def torch_step(x: Any, y: Any) -> None:
            model.zero_grad()
            ((model(x, training=True) - y) ** 2).mean().backward()
            with torch.no_grad():
                optimizer.apply([v.value.grad for v in weights], weights)

        return torch_step
    import jax

    def loss(values: Any, x: Any, y: Any) -> Any:
        return ((model.stateless_call(values, [], x, training=True)[0] - y) ** 2).mean()

    def update(values: Any, state: Any, x: Any, y: Any) -> Any:
        return optimizer.stateless_apply(state, jax.grad(loss)(values, x, y), values)

    run = jax.jit(update) if compiled else update

    def jax_step(x: Any, y: Any) -> None:
        values, state = run(
            [v.value for v in weights], [v.value for v in optimizer.variables], x, y
        )
        for v, value in zip([*weights, *optimizer.variables], [*values, *state], strict=True):
            v.assign(value)

    return jax_step


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "accumulation": ({"gradient_accumulation_steps": 4}, {"micro": 4}),
    "clipvalue": ({"clipvalue": 0.25}, {"clipvalue": 0.25}),
    "accumulation and clipvalue": (
        {"gradient_accumulation_steps": 2, "clipvalue": 0.25},
        {"micro": 2, "clipvalue": 0.25},
    ),
    "loss scale": ({"loss_scale_factor": 1024.0}, {}),
    "weight decay": ({"weight_decay": 0.25}, {"decay": 0.25}),
    "accumulator": ({"recipe": exact.MASTER}, {"recipe": exact.MASTER}),
    "accumulator and weight decay": (
        {"recipe": exact.MASTER, "weight_decay": 0.25},
        {"recipe": exact.MASTER, "decay": 0.25},
    ),
    "accumulator and accumulation": (
        {"recipe": exact.MASTER, "weight_decay": 0.25, "gradient_accumulation_steps": 2},
        {"recipe": exact.MASTER, "decay": 0.25, "micro": 2},
    ),
    "schedule": (
        {
            "learning_rate": keras.optimizers.schedules.PiecewiseConstantDecay(
                [9, 20], [0.125, 0.25, 0.0625]
            )
        },
        {"rates": lambda step: 0.125 if step <= 9 else 0.25 if step <= 20 else 0.0625},
    ),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_the_inner_optimizer(option: str) -> None:
    ours, theirs = OPTIONS[option]
    model = exact.compiled(opt=exact.optimizer(**ours))
    exact.fit(model, epochs=2)
    updates = 32 // theirs.get("micro", 1)
    exact.assert_as_expected(model, exact.trained(updates, **theirs))
    assert int(model.optimizer.iterations) == updates


@pytest.mark.parametrize("native", [False, True])
def test_an_accumulator_without_a_weight_format_is_the_weight(native: bool) -> None:
    """Its buffer is its own: JAX's training loop donates buffers, each once."""
    recipe = Recipe(accumulator="fixed<12,8>/stochastic")
    model = exact.compiled(opt=SGD(0.1, recipe=recipe) if native else exact.optimizer(recipe))
    exact.fit(model)
    assert all(on_grid(w, recipe.accumulator) for w in model.weights)
    assert same(model.get_weights(), exact.held(model.optimizer, "qemu_accumulator"))


def test_learning_rates_by_callbacks_and_by_hand() -> None:
    scheduler = keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: 0.125 if epoch == 0 else 0.0625
    )
    model = exact.compiled()
    exact.fit(model, epochs=2, callbacks=[scheduler])
    model.optimizer.learning_rate = 0.25
    exact.fit(model)
    exact.assert_as_expected(model, exact.trained(48, rates=in_epochs(0.125, 0.0625, 0.25)))

    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
    model = exact.compiled()
    history = exact.fit(model, epochs=3, callbacks=[plateau])
    exact.assert_as_expected(model, exact.trained(48, rates=in_epochs(0.125, 0.125, 0.0625)))
    assert history.history["learning_rate"] == [0.125, 0.125, 0.0625]


def test_variables_excluded_from_weight_decay() -> None:
    model = exact.network()
    optimizer = exact.optimizer(weight_decay=0.25)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    exact.fit(exact.compiled(model, optimizer))
    assert not same(model.get_weights(), exact.trained(16, decay=0.25).weights)
    exact.assert_as_expected(model, exact.trained(16, decay=(0.25, 0.0)))


def test_multi_optimizer() -> None:
    model = exact.network()
    parts = [exact.optimizer(seed=8), exact.optimizer(seed=9)]
    optimizer = keras.optimizers.MultiOptimizer(lambda v: parts[v.name == "bias"])
    exact.fit(exact.compiled(model, optimizer))
    expected = exact.trained(16, streams=((8, 0), (9, 0)))
    assert same(model.get_weights(), expected.weights)
    assert same([a for part in parts for a in part.average().values()], expected.average)


def test_the_moving_average_sees_rounded_weights_and_leaves_rounded_ones() -> None:
    model = exact.compiled(opt=exact.optimizer(use_ema=True, ema_momentum=0.5))
    exact.fit(model)
    moving = [np.zeros_like(w) for w in exact.INITIAL]
    for step, expected in enumerate(exact.training(16, exact.RECIPE)):
        if step:
            keep = np.float32(0.5 if step > 1 else 0)
            moving = [
                keep * m + (1 - keep) * w for m, w in zip(moving, expected.weights, strict=True)
            ]
    held = exact.held(model.optimizer, "average")
    assert all(np.allclose(v, m, rtol=1e-6) for v, m in zip(held, moving, strict=True))

    seen = Grids()
    model = exact.compiled(
        opt=exact.optimizer(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=4)
    )
    exact.fit(model, callbacks=[seen])
    assert seen.all_on_grid == [True] * 16


class Grids(keras.callbacks.Callback):
    """Whether the weights are on the grid after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.all_on_grid: list[bool] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.all_on_grid.append(
            all(on_grid(w, exact.RECIPE.weight) for w in self.model.trainable_weights)
        )


@pytest.mark.parametrize("constraint", [keras.constraints.NonNeg(), keras.constraints.MaxNorm(1.0)])
def test_constrained_weights_stay_on_the_grid(constraint: Any) -> None:
    seen = Grids()
    model = exact.compiled(exact.network(kernel_constraint=constraint))
    exact.fit(model, callbacks=[seen])
    assert seen.all_on_grid == [True] * 16
    kernel = model.get_weights()[0]
    if isinstance(constraint, keras.constraints.NonNeg):
        assert (kernel >= 0).all()
    else:  # by its rounding a weight moves by less than a quantum
        assert (np.sqrt((kernel**2).sum(axis=0)) <= 1 + 2**-4 * np.sqrt(exact.INPUTS)).all()


def test_frozen_layers_are_left_alone() -> None:
    hidden = keras.layers.Dense(5)
    model = keras.Sequential(
        [keras.layers.Input((exact.INPUTS,)), hidden, keras.layers.Dense(exact.OUTPUTS)]
    )
    hidden.trainable = False
    before = hidden.get_weights()
    exact.fit(exact.compiled(model))
    assert same(hidden.get_weights(), before)
    assert all(on_grid(w, exact.RECIPE.weight) for w in model.trainable_weights)


def test_variables_without_gradient_are_left_alone() -> None:
    used, unused = (
        keras.Variable(np.float32([0.3, 1.2]), name=name) for name in ("used", "unused")
    )
    optimizer = QuantizedOptimizer(keras.optimizers.SGD(0.125, weight_decay=0.5), exact.RECIPE)
    optimizer.build([used, unused])
    before = unused.numpy().copy()
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        optimizer.apply([keras.ops.convert_to_tensor(np.float32([1, 2])), None], [used, unused])
    assert same([unused], [before])
    assert on_grid(used, exact.RECIPE.weight)


@pytest.mark.parametrize(
    "mode", [mode for mode in MODES if (BACKEND, mode) != ("jax", "eager")]
)  # Keras cannot
def test_skipped_steps_of_a_loss_scale_optimizer_change_nothing(mode: str) -> None:
    """Nor do they draw random bits, or enter the average."""
    runs = []
    for bad in (False, True):
        held = [keras.Variable(w, name=f"w{i}") for i, w in enumerate(exact.INITIAL)]
        optimizer = exact.optimizer()
        scaled = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0)
        scaled.build(held)
        step = stepper(scaled, held, mode)
        scale = 1024.0
        for k in range(8):
            if bad and k in (2, 7):
                before = [*held, *optimizer.variables]
                before = [keras.ops.convert_to_numpy(v).copy() for v in before]
                step([np.full_like(g, np.nan if k == 7 else np.inf) for g in exact.INITIAL])
                assert same([*held, *optimizer.variables], before)
                scale /= 2
            step([g * np.float32(scale) for g in exact.gradients(exact.INITIAL, k)])
        assert int(optimizer.iterations) == 8
        runs.append([keras.ops.convert_to_numpy(v).copy() for v in [*held, *optimizer.variables]])
    assert same(*runs)
    assert all(on_grid(w, exact.RECIPE.weight) for w in held)


def test_mixed_precision() -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = exact.compiled()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    seen = Grids()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    exact.fit(model, callbacks=[seen])
    assert seen.all_on_grid == [True] * 16
    updates = int(model.optimizer.iterations)
    assert updates < 16  # the first scale is too great
    assert model.optimizer.inner_optimizer.n_averaged == (updates - exact.START) // exact.CYCLE


def test_embeddings() -> None:
    """TensorFlow makes sparse gradients for them, with an index as often as it occurs."""
    words = np.array([[0, 1], [1, 1], [4, 0], [2, 2]])
    table = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    runs = []
    for layer, x in (
        (keras.layers.Embedding(6, 4), words),
        (keras.layers.Dense(4, use_bias=False), np.eye(6, dtype="float32")[words]),
    ):
        model = keras.Sequential([layer, keras.layers.GlobalAveragePooling1D()])
        model.build(x.shape)
        layer.set_weights([table])
        exact.compiled(model)
        model.fit(x, np.ones((4, 4), "float32"), batch_size=4, epochs=5, verbose=0)
        assert on_grid(layer.weights[0], exact.RECIPE.weight)
        runs.append(model.get_weights())
    assert same(*runs)
