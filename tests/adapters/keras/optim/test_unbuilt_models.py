"""Models that build themselves in their first step train as those that are built before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest
from qemu_swalp_keras import SGD, QuantizedOptimizer, emulate

from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import BACKEND, same
from tests.helpers import keras_exact as exact

WAYS = {
    "fit": lambda model: exact.fit(model),
    "train_on_batch": lambda model: [
        model.train_on_batch(exact.X[rows], exact.Y[rows])
        for rows in (slice(i, i + exact.BATCH) for i in range(0, len(exact.X), exact.BATCH))
    ],
}
COMPILED = [False] if BACKEND == "torch" else [False, True]


def unbuilt() -> keras.Model:
    """`keras_exact.network()` without its input."""
    kernel, bias = (keras.initializers.Constant(value) for value in exact.INITIAL)
    layer = keras.layers.Dense(
        exact.OUTPUTS, name="layer", kernel_initializer=kernel, bias_initializer=bias
    )
    return keras.Sequential([layer], name="net")


@pytest.mark.parametrize("train", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("jit_compile", COMPILED, ids=str)
@pytest.mark.parametrize("recipe", [exact.RECIPE, exact.MASTER], ids=["plain", "accumulator"])
def test_any_optimizer(recipe: Recipe, jit_compile: bool, train: Callable[[Any], Any]) -> None:
    """Weights are rounded before the first gradient, and accumulators start from them."""
    model = exact.compiled(unbuilt(), exact.optimizer(recipe), jit_compile=jit_compile)
    train(model)
    exact.assert_as_expected(model, exact.trained(exact.STEPS, recipe))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras on PyTorch executes one step at once")
def test_several_steps_at_once() -> None:
    opt = exact.optimizer(exact.MASTER)
    model = exact.compiled(unbuilt(), opt, steps_per_execution=4)
    exact.fit(model)
    exact.assert_as_expected(model, exact.trained(exact.STEPS, exact.MASTER))


def test_without_a_recipe_the_inner_optimizer_trains_as_by_itself() -> None:
    models = [unbuilt(), unbuilt()]
    exact.compiled(models[0], keras.optimizers.SGD(0.125, 0.5))
    exact.compiled(models[1], QuantizedOptimizer(keras.optimizers.SGD(0.125, 0.5), None))
    for model in models:
        exact.fit(model)
    assert same(models[0].get_weights(), models[1].get_weights())


@pytest.mark.parametrize(
    "options",
    [{"run_eagerly": True}, *({"jit_compile": jit} for jit in COMPILED)],
    ids=str,
)
def test_our_sgd_with_an_accumulator_that_averages_from_the_start(options: dict[str, bool]) -> None:
    def optimizer() -> SGD:
        return SGD(
            0.125,
            0.5,
            recipe=exact.MASTER,
            seed=0,
            swa_start=0,
            swa_include_start=True,
            swa_finalize=False,
        )

    models = [
        exact.compiled(model, optimizer(), **options) for model in (exact.network(), unbuilt())
    ]
    for model in models:
        exact.fit(model)
    assert same(models[0].get_weights(), models[1].get_weights())
    averages = [list(model.optimizer.average().values()) for model in models]
    assert same(*averages)
    assert models[1].optimizer.n_averaged == exact.STEPS + 1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="AutoGraph is TensorFlow's")
@pytest.mark.parametrize("built", [True, False])
def test_a_step_of_ones_own_that_autograph_rewrites(built: bool) -> None:
    import tensorflow as tf

    def trained(autograph: bool) -> list[Any]:
        model, optimizer = emulate(unbuilt(), keras.optimizers.Adam(0.125), "swalp8", seed=3)
        if built:
            model.build(exact.X.shape)

        @tf.function(autograph=autograph)
        def step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

        for i in range(0, len(exact.X), exact.BATCH):
            step(exact.X[i : i + exact.BATCH], exact.Y[i : i + exact.BATCH])
        return list(model.get_weights())

    assert same(trained(True), trained(False))
