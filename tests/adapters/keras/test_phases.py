"""Recipes by the number of the step, which `emulate` changes by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import qemu_swalp_torch
import torch
from keras import optimizers as o
from qemu_swalp_keras import SGD, Monitor, QuantizedOptimizer, emulate, quantize_gemms

from qemu_swalp.training import Phases, Recipe
from tests.adapters.keras.conftest import BACKEND, data, network, same

TRAINING = Phases(
    {
        0: Recipe("bf16/stochastic", operands={"input": "bf16", "error": "e5m2/stochastic"}),
        3: Recipe("e5m2/stochastic", momentum="bfp8/stochastic", accumulator="bf16"),
        5: None,
        6: Recipe(activation="e4m3fn/stochastic", error="e5m2", elementwise="bf16"),
    }
)
X, Y = data(64)

MODES: list[dict[str, Any]] = [{"run_eagerly": True}, {"jit_compile": False}]
if BACKEND != "torch":
    MODES += [{"jit_compile": True}, {"jit_compile": False, "steps_per_execution": 2}]


def one() -> keras.Model:
    dense = keras.layers.Dense(1, kernel_initializer="ones", name="fc")
    return keras.Sequential([keras.layers.Input((1,)), dense])


def trained() -> tuple[keras.Model, Any]:
    """A model in phases, compiled."""
    average = {"start": 0, "finalize": False}
    inner = o.SGD(0.1, momentum=0.9)
    model, optimizer = emulate(network(), inner, TRAINING, seed=1, average=average)
    model.compile(optimizer, "mse", run_eagerly=True)
    return model, optimizer


def fit(model: keras.Model, first: int, last: int, **options: Any) -> None:
    """Steps of the training, in one call."""
    rows = slice(8 * first, 8 * last)
    model.fit(X[rows], Y[rows], 8, verbose=0, shuffle=False, **options)


def numbers(model: keras.Model) -> list[np.ndarray]:
    state = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v) for v in state]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(map(str, mode.items())))
def test_each_step_of_fit_runs_the_program_of_its_phase(mode: dict[str, Any]) -> None:
    low, high = Recipe(operands={"input": "fixed<8,1>"}), Recipe(operands={"input": "fixed<8,2>"})
    model, optimizer = emulation = emulate(one(), o.SGD(0.0), Phases({0: low, 2: None, 4: high}))
    model.compile(optimizer, "mae", **mode)
    x, seen = np.full((6, 1), 0.3, "f4"), []
    note = lambda batch, logs: seen.append((optimizer.phase.since, float(logs["loss"])))  # noqa: E731
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    model.fit(x, 0 * x, 1, verbose=0, callbacks=[callback])
    since, means = zip(*seen, strict=True)  # Keras logs the mean of the epoch so far
    steps = mode.get("steps_per_execution", 1)
    losses = np.diff(np.multiply(means, range(steps, 7, steps)), prepend=0.0) / steps
    np.testing.assert_allclose(losses, [0.5, 0.5, 0.3, 0.3, 0.25, 0.25][::steps], rtol=1e-5)
    assert list(since) == [0, 2, 2, 4, 4, 4][steps - 1 :: steps]
    assert "now from step 4 on" in str(emulation)
    assert emulation.recipe == high
    assert model.evaluate(x, 0 * x, verbose=0) == model.predict(x[:1], verbose=0).item() == 0.25


def test_fit_is_train_on_batch_and_a_loop_of_ones_own() -> None:
    runs = [trained() for _ in range(2)]
    fit(runs[0][0], 0, 8)
    for i in range(8):
        runs[1][0].train_on_batch(X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8])
    assert same(*(numbers(model) for model, _ in runs))
    optimizer = QuantizedOptimizer(o.SGD(1.0), Phases({0: Recipe("fixed<8,4>"), 2: None}))
    w = keras.Variable([1.0])
    values = []
    for _ in range(4):
        optimizer.apply([keras.ops.convert_to_tensor([0.01])], [w])
        values.append(float(w[0]))
    assert values == pytest.approx([1.0, 1.0, 0.99, 0.98])


GRID = "fixed<8,3>"
EXACT = Phases(
    {
        0: Recipe("fixed<8,6>/stochastic", operands={"input": GRID, "error": GRID}),
        2: Recipe("fixed<6,3>/stochastic", accumulator="fixed<16,12>/stochastic"),
        4: Recipe(gradient="fixed<8,4>/stochastic", operands={"weight": "fixed<8,4>"}),
        6: Recipe("fixed<8,6>/stochastic", activation=GRID),
    }
)
"""On values of 24 bits all products and sums are exact, however they are compiled."""


@pytest.mark.parametrize("mode", MODES[:3], ids=lambda mode: "-".join(map(str, mode.items())))
def test_the_bits_of_the_pytorch_adapter(mode: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    first = (rng.integers(-64, 64, (1, 8)) / 64).astype("f4")
    batches = (rng.integers(-16, 16, (8, 4, 1)) / 8).astype("f4")

    theirs = torch.nn.Linear(1, 8, bias=False)
    theirs.weight.data.copy_(torch.from_numpy(first.T))
    sgd = torch.optim.SGD(theirs.parameters(), 2.0**-4)
    handle = qemu_swalp_torch.emulate(theirs, sgd, EXACT, seed=7)

    layers = [keras.layers.Input((1,)), keras.layers.Dense(8, use_bias=False)]
    model, optimizer = emulate(keras.Sequential(layers), o.SGD(2.0**-4), EXACT, seed=7)
    model.compile(optimizer, lambda y, p: keras.ops.sum(keras.ops.square(p)), **mode)
    kernel = model.trainable_variables[0]
    kernel.assign(first)
    for x in batches:
        sgd.zero_grad()
        theirs(torch.from_numpy(x)).square().sum().backward()
        sgd.step()
        model.train_on_batch(x, x)
        assert handle.recipe == EXACT.at(int(optimizer.iterations))
        ours = keras.ops.convert_to_numpy(kernel)
        np.testing.assert_array_equal(ours, theirs.weight.detach().numpy().T)
    assert not np.array_equal(ours, first)


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_a_saved_training_goes_on_in_its_phase(stop: int, tmp_path: Path) -> None:
    model, _ = trained()
    fit(model, 0, stop)
    model.save(tmp_path / "model.keras")
    fit(model, stop, 8)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.phase.since == TRAINING.since(stop)
    loaded.run_eagerly = True
    fit(loaded, stop, 8)
    assert same(numbers(model), numbers(loaded))


def test_weights_loaded_into_a_new_emulation_say_the_phase(tmp_path: Path) -> None:
    model, _ = trained()
    fit(model, 0, 5)
    model.save_weights(tmp_path / "model.weights.h5")
    other, optimizer = trained()
    fit(other, 0, 1)
    other.load_weights(tmp_path / "model.weights.h5")
    assert optimizer.phase.since == 5
    fit(model, 5, 8)
    fit(other, 5, 8)
    assert same(numbers(model), numbers(other))


def test_a_clone_begins_with_its_own_optimizer() -> None:
    recipes = {0: Recipe(operands={"input": "fixed<8,1>"}), 1: None}
    model, optimizer = emulate(one(), o.SGD(0.0), Phases(recipes))
    model.compile(optimizer, "mae", run_eagerly=True)
    x = np.full((1, 1), 0.3, "f4")
    assert model.train_on_batch(x, 0 * x) == pytest.approx(0.5)
    clone = keras.models.clone_model(model)
    clone.compile(type(optimizer).from_config(optimizer.get_config()), "mae", run_eagerly=True)
    assert clone.train_on_batch(x, 0 * x) == pytest.approx(0.5)
    assert clone.train_on_batch(x, 0 * x) == pytest.approx(0.3)


def test_accumulators_hand_over_to_the_next_phase() -> None:
    first = Recipe("fixed<8,4>/toward_zero", accumulator="float<8,23>")
    phases = Phases({0: first, 3: Recipe("fixed<16,8>/toward_zero"), 5: first})
    optimizer, w = QuantizedOptimizer(o.SGD(1.0), phases), keras.Variable([1.0])
    values = []
    for _ in range(6):
        optimizer.apply([keras.ops.convert_to_tensor([-0.03125])], [w])
        values.append(float(w[0]))
    # Every other step shows on a grid of 1/16. The fine grid goes on from the accumulator's 1 3/32;
    # the accumulator of the last phase begins with the weight as that rounds it.
    assert values == [1.0, 1.0625, 1.09375, 1.125, 1.125, 1.125]


def test_monitor_sees_the_phase_and_does_not_end_it() -> None:
    model, optimizer = trained()
    fit(model, 0, 2)
    before = numbers(model)
    monitor = Monitor(X, Y, batch_size=8)
    monitor.watch(model)
    assert "forward.input" in {row["role"] for row in monitor.rows()}
    assert optimizer.phase.since == 0
    assert same(before, numbers(model))
    fit(model, 2, 3)
    assert optimizer.phase.since == 3


def test_a_step_that_is_compiled_in_a_loop_of_ones_own() -> None:
    if BACKEND == "torch":
        pytest.skip("steps run eagerly")
    phases = Phases({0: Recipe("fixed<8,4>"), 1: None})
    optimizer, w = QuantizedOptimizer(o.SGD(1.0), phases), keras.Variable([1.0])
    optimizer.build([w])
    gradient = keras.ops.convert_to_tensor([0.01])

    def step() -> float:
        if BACKEND == "tensorflow":
            import tensorflow as tf

            tf.function(lambda: optimizer.apply([gradient], [w]), autograph=False)()
        else:
            import jax

            state = [v.value for v in optimizer.variables]
            (w_, *_), state = jax.jit(optimizer.stateless_apply)(state, [gradient], [w.value])
            w.assign(w_)
            for variable, value in zip(optimizer.variables, state, strict=True):
                variable.assign(value)
        return float(w[0])

    with pytest.raises(ValueError, match=r"Call optimizer.change_phase\(\) before it is traced"):
        step()
    assert not optimizer.change_phase()
    assert step() == 1.0
    assert optimizer.change_phase()
    assert step() == pytest.approx(0.99)


def test_what_is_refused() -> None:
    phases = Phases({0: "mxfp8", 3: "swalp8"})
    model = network()
    delayed = Phases({0: "mxfp8", 3: "fp8_delayed"})
    for arguments, words in (
        ((model, None, Phases({0: "mxfp8", 3: None})), "phases count the optimizer's steps"),
        ((model, "sgd", delayed), "from step 3 on has delayed scaling"),
        ((model, "sgd", Phases({0: Recipe("bf16", overrides={"no/*": None})})), "no/"),
    ):
        with pytest.raises(ValueError, match=words):
            emulate(*arguments)
    for call in (lambda: quantize_gemms(model, phases), lambda: SGD(0.1, recipe=phases)):
        with pytest.raises(TypeError, match="phases are taken by emulate and QuantizedOptimizer"):
            call()
    with pytest.raises(ValueError, match="rounds anything in an optimizer"):
        QuantizedOptimizer("sgd", Phases({0: "mxfp8", 1: "mxfp4"}))
    if BACKEND != "torch":
        model, optimizer = emulate(one(), o.SGD(0.1), Phases({0: Recipe("bf16"), 3: None}))
        model.compile(optimizer, "mse", steps_per_execution=2)
        with pytest.raises(ValueError, match="ends with step 3, within the next steps_per_exec"):
            model.fit(np.ones((6, 1)), np.ones((6, 1)), 1, verbose=0)
        assert int(optimizer.iterations) == 2
