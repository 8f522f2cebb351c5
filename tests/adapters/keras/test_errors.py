"""Bad input: the error's type and its words, and nothing changed."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import (
    SGD,
    QuantizedOptimizer,
    SWALPSchedule,
    quantize_activations,
)

from qemu_swalp.training import Recipe, swalp
from tests.adapters.keras.conftest import network

RECIPE = swalp(8)


def built() -> keras.optimizers.Optimizer:
    inner = keras.optimizers.SGD(0.1)
    inner.build([keras.Variable(np.ones(2, "f4"))])
    return inner


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: QuantizedOptimizer("sdg", RECIPE), ValueError, "sdg"),
        (
            lambda: QuantizedOptimizer(SGD(0.1), RECIPE),
            ValueError,
            "`inner_optimizer` is quantized already. Received: ",
        ),
        (
            lambda: QuantizedOptimizer(
                keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), RECIPE
            ),
            ValueError,
            "Wrap the other way round: LossScaleOptimizer(QuantizedOptimizer(optimizer, recipe))",
        ),
        (
            lambda: QuantizedOptimizer(
                keras.optimizers.MultiOptimizer(lambda v: keras.optimizers.SGD()), RECIPE
            ),
            ValueError,
            "`inner_optimizer` must not be a MultiOptimizer. Wrap each of its optimizers instead",
        ),
        (
            lambda: QuantizedOptimizer(built(), RECIPE),
            ValueError,
            "`inner_optimizer` is built already. Pass a new one",
        ),
        (
            lambda: QuantizedOptimizer("sgd", "bfp8"),
            ValueError,
            "recipe must be a qemu_swalp.training.Recipe, such as swalp(8)",
        ),
        (
            lambda: QuantizedOptimizer("sgd", 8),
            TypeError,
            "or the name of a preset, one of ",
        ),
        (
            lambda: QuantizedOptimizer("sgd", "mxfp8"),
            ValueError,
            "nothing to round: QuantizedOptimizer applies the section 'optimizer' of a recipe",
        ),
        (
            lambda: QuantizedOptimizer("sgd", "mxfp8"),
            ValueError,
            "this recipe is applied by quantize_gemms (products). Received: recipe='mxfp8'",
        ),
        (
            lambda: SGD(recipe=Recipe(activation="bfp8"), swa_start=3),
            ValueError,
            "SGD applies the section 'optimizer' of a recipe (weight, gradient, momentum,"
            " accumulator, state), where this one has nothing; this recipe is applied by"
            " quantize_activations (activations). Received: recipe={'activation': 'bfp8/",
        ),
        (
            lambda: SGD(recipe=Recipe(average="bfp8")),
            ValueError,
            "this recipe is applied by QuantizedOptimizer or SGD with swa_start= (average)",
        ),
        (
            lambda: quantize_activations(network(), "mxfp8"),
            ValueError,
            "quantize_activations applies the section 'activations' of a recipe",
        ),
        (
            lambda: QuantizedOptimizer("sgd", {"wieght": "bfp8"}),
            ValueError,
            "a recipe has the keys",
        ),
        (lambda: QuantizedOptimizer("sgd", RECIPE, seed=-1), ValueError, "seed must be from 0 to"),
        (
            lambda: QuantizedOptimizer("sgd", RECIPE, seed=1.0),
            TypeError,
            "seed must be an integer from 0 to",
        ),
        (
            lambda: QuantizedOptimizer("sgd", RECIPE, swa_start=-1),
            ValueError,
            "swa_start must be from 0 to",
        ),
        (
            lambda: QuantizedOptimizer("sgd", RECIPE, swa_cycle=0),
            ValueError,
            "swa_cycle must be from 1 to",
        ),
        (
            lambda: QuantizedOptimizer("sgd", RECIPE, swa_finalize=1),
            TypeError,
            "swa_finalize must be True or False, got 1",
        ),
        (
            lambda: QuantizedOptimizer("sgd", RECIPE, swa_start=1, swa_include_start="no"),
            TypeError,
            "swa_include_start must be True or False",
        ),
        (lambda: SGD(1), ValueError, "learning_rate"),
        (lambda: SGD(0.1, momentum=-1.0), ValueError, "momentum must be at least 0, got -1.0"),
        (lambda: SGD(0.1, momentum="0.9"), TypeError, "momentum must be a number, got '0.9'"),
        (lambda: SGD(0.1, momentum=2.0), ValueError, "momentum must be at most 1, got 2.0"),
        (
            lambda: SGD(0.1, weight_decay=-0.1),
            ValueError,
            "weight_decay must be at least 0, got -0.1",
        ),
        (
            lambda: SGD(0.1, recipe="swalp"),
            ValueError,
            "or the name of a preset, one of ",
        ),
        (lambda: SWALPSchedule(-1.0, 10), ValueError, "learning rates must be positive"),
        (
            lambda: SWALPSchedule(0.1, 10, decay_start=0.9),
            ValueError,
            "decay_start and decay_end must satisfy",
        ),
    ],
)
def test_arguments(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        make()


@pytest.mark.parametrize(
    ("recipe", "error", "words"),
    [
        (
            Recipe(weight="bfp<8,axis=1>/stochastic"),
            ValueError,
            "hidden/bias, role weight: bfp<8,axis=1> names axis 1, which an array "
            "of 1 dimensions does not have; or give it another recipe by an override",
        ),
        (Recipe(momentum="float<9,3>/stochastic"), TypeError, "hidden/kernel, role momentum: "),
        (
            Recipe(weight="bfp8/stochastic", state={"velocity": "bf16/stochastic"}),
            ValueError,
            "The recipe rounds the optimizer state velocity, "
            "which this optimizer does not keep. It keeps: momentum",
        ),
    ],
)
@pytest.mark.parametrize("native", [False, True], ids=["wrapper", "native"])
def test_variables_that_do_not_go_with_the_recipe(
    recipe: Recipe, error: type[Exception], words: str, native: bool
) -> None:
    model = network()
    before = model.get_weights()
    optimizer = (
        SGD(0.1, 0.9, recipe=recipe)
        if native
        else QuantizedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), recipe)
    )
    with pytest.raises(error, match=re.escape(words)):
        optimizer.build(model.trainable_variables)
    assert not optimizer.built
    with pytest.raises(error):  # nor does a step pass over it
        optimizer.apply(
            [keras.ops.ones(v.shape) for v in model.trainable_variables], model.trainable_variables
        )
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


def test_accumulator_and_constraint_exclude_each_other() -> None:
    recipe = Recipe(weight="bfp8/stochastic", accumulator="bf16/stochastic")
    v = keras.Variable(np.ones(2, "f4"), name="v")
    v.constraint = keras.constraints.NonNeg()
    with pytest.raises(
        ValueError, match="Variable v has a constraint, which its accumulator would not obey"
    ):
        QuantizedOptimizer("sgd", recipe).build([v])


def test_unknown_variables_are_refused_as_keras_refuses_them() -> None:
    optimizer = QuantizedOptimizer("sgd", RECIPE)
    optimizer.build([keras.Variable(np.ones(2, "f4"))])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([keras.ops.ones(2)], [keras.Variable(np.ones(2, "f4"))])
