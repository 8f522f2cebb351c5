"""The average in the optimizer, its way into the model, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import SGD, QuantizedOptimizer, SwapAverage, swap_average

from qemu_swalp.training import Averaging, Recipe, swalp
from tests.adapters.keras.conftest import BACKEND, apply, data, network, same

BATCH = 8
EPOCH = 8  # steps of an epoch on 64 samples
MODES: list[dict[str, Any]] = [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}]


class Recorder(keras.callbacks.Callback):
    """The weights after each step, and what evaluations and the ends of epochs saw."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[np.ndarray]] = []
        self.evaluated: list[list[np.ndarray]] = []
        self.epochs: list[list[np.ndarray]] = []

    def weights(self) -> list[np.ndarray]:
        if BACKEND == "jax":
            self.model.jax_state_sync()
        return self.model.get_weights()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps.append(self.weights())

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.evaluated.append(self.weights())

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self.evaluated.append(self.weights())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(self.weights())


def mean_of(steps: list[list[np.ndarray]], rule: Averaging) -> list[np.ndarray]:
    """The core's average of recorded weights."""
    state = rule.init()
    for step, weights in enumerate(steps, 1):
        state = rule.update({str(i): w for i, w in enumerate(weights)}, state, step)
    return list(rule.average(state).values())


def compiled(optimizer: keras.optimizers.Optimizer, **mode: Any) -> keras.Model:
    model = network()
    model.compile(optimizer, loss="mse", **mode)
    return model


@pytest.mark.parametrize("native", [False, True], ids=["wrapper", "native"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_average_is_the_mean_of_the_rounded_iterates_in_every_mode(
    mode: dict[str, Any], native: bool
) -> None:
    swa = {"seed": 3, "swa_start": 10, "swa_cycle": 3}
    optimizer = (
        SGD(0.125, 0.5, recipe=swalp(8), **swa)
        if native
        else QuantizedOptimizer(keras.optimizers.SGD(0.125, momentum=0.5), swalp(8), **swa)
    )
    model, recorder = compiled(optimizer, **mode), Recorder()
    model.fit(*data(), batch_size=BATCH, epochs=3, shuffle=False, callbacks=[recorder], verbose=0)
    expected = mean_of(recorder.steps, Averaging(10, 3))
    assert optimizer.n_averaged == 4
    assert same(list(optimizer.average().values()), expected)
    assert list(optimizer.average()) == [v.path for v in model.trainable_variables]
    assert same(model.get_weights(), expected)  # swa_finalize


def test_quantized_average_is_the_cores_eagerly() -> None:
    recipe = swalp(8, average="bfp<6>/stochastic")
    optimizer = QuantizedOptimizer("sgd", recipe, seed=3, swa_start=4)
    model, recorder = compiled(optimizer, run_eagerly=True), Recorder()
    model.fit(*data(), batch_size=BATCH, epochs=2, callbacks=[recorder], verbose=0)
    expected = mean_of(recorder.steps, Averaging(4, quantizer=recipe.average, seed=3))
    assert same(list(optimizer.average().values()), expected)


def test_include_start_at_zero_takes_the_weights_as_rounded_at_first() -> None:
    model = network()
    optimizer = QuantizedOptimizer("sgd", swalp(4), swa_start=0, swa_include_start=True)
    optimizer.build(model.trainable_variables)
    assert optimizer.n_averaged == 1
    assert same(list(optimizer.average().values()), model.get_weights())
    assert not same(model.get_weights(), network().get_weights())


def test_without_finalize_training_goes_on_as_if_it_had_not_stopped() -> None:
    def train(*epochs: int) -> list[np.ndarray]:
        keras.utils.clear_session()
        optimizer = QuantizedOptimizer(
            keras.optimizers.SGD(0.1, momentum=0.9),
            swalp(8),
            seed=0,
            swa_start=6,
            swa_finalize=False,
        )
        model = compiled(optimizer)
        for n in epochs:
            model.fit(*data(), batch_size=BATCH, epochs=n, shuffle=False, verbose=0)
        return [*model.get_weights(), *optimizer.average().values()]

    assert same(train(4), train(1, 3))


def test_callback_shows_the_average_to_evaluations_alone() -> None:
    optimizer = QuantizedOptimizer("sgd", swalp(8), swa_start=10, swa_finalize=False)
    model, recorder, swap = compiled(optimizer), Recorder(), SwapAverage()
    x, y = data()
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=3,
        shuffle=False,
        validation_data=(x, y),
        validation_batch_size=64,
        callbacks=[swap, recorder],
        verbose=0,
    )
    assert len(recorder.evaluated) == 3
    assert same(
        recorder.evaluated[0], recorder.steps[EPOCH - 1]
    )  # nothing averaged yet: the iterate
    assert same(recorder.evaluated[1], mean_of(recorder.steps[: 2 * EPOCH], Averaging(10)))
    assert same(recorder.evaluated[2], mean_of(recorder.steps, Averaging(10)))
    assert same(recorder.epochs[2], recorder.steps[-1])
    assert same(model.get_weights(), recorder.steps[-1])
    model.evaluate(x, y, verbose=0, callbacks=[swap, recorder])
    model.predict(x, verbose=0, callbacks=[swap, recorder])
    for seen in recorder.evaluated[3:]:
        assert same(seen, mean_of(recorder.steps, Averaging(10)))
    assert same(model.get_weights(), recorder.steps[-1])


@pytest.mark.parametrize("finalize", [False, True])
def test_callbacks_listed_later_see_the_average_at_the_end_of_an_epoch(
    tmp_path: Path, finalize: bool
) -> None:
    optimizer = QuantizedOptimizer("sgd", swalp(8), swa_start=4, swa_finalize=finalize)
    model, recorder = compiled(optimizer), Recorder()
    x, y = data()
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True
    )
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=2,
        shuffle=False,
        validation_data=(x, y),
        verbose=0,
        callbacks=[SwapAverage(on_epoch_end=True), checkpoint, recorder],
    )
    for epoch in (1, 2):
        average = mean_of(recorder.steps[: epoch * EPOCH], Averaging(4))
        assert same(recorder.epochs[epoch - 1], average)
        saved = network()
        saved.load_weights(tmp_path / f"{epoch}.weights.h5")
        assert same(saved.get_weights(), average)
    assert same(model.get_weights(), average if finalize else recorder.steps[-1])


def test_swap_gives_back_every_bit_also_after_an_exception() -> None:
    optimizer = QuantizedOptimizer("sgd", swalp(8), swa_start=2, swa_finalize=False)
    model = compiled(optimizer)
    x, y = data()
    model.fit(x, y, batch_size=BATCH, verbose=0)
    before = model.get_weights()
    with swap_average(model) as swapped:
        assert swapped is model
        assert same(model.get_weights(), list(optimizer.average().values()))
        model.evaluate(x, y, verbose=0)
    assert same(model.get_weights(), before)
    with pytest.raises(KeyError), swap_average(model):
        raise KeyError
    assert same(model.get_weights(), before)


def test_statistics_of_batch_normalization_are_the_averages_while_it_is_in_the_model() -> None:
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    )
    optimizer = QuantizedOptimizer("sgd", swalp(8), swa_start=2, swa_finalize=False)
    model.compile(optimizer, loss="mse")
    x, y = data()
    recorder = Recorder()
    model.fit(
        x,
        y,
        batch_size=BATCH,
        shuffle=False,
        validation_data=(x, y),
        verbose=0,
        callbacks=[SwapAverage(batchnorm_data=x), recorder],
    )
    assert same(model.get_weights(), recorder.steps[-1])
    kernel, bias, *_, mean, variance = recorder.evaluated[-1]
    assert same([kernel], [optimizer.average()[model.trainable_variables[0].path]])
    outputs = x @ kernel + bias
    np.testing.assert_allclose(mean, outputs.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, outputs.var(0), rtol=1e-5)


def test_model_saved_within_a_swap_is_the_average(tmp_path: Path) -> None:
    model = compiled(SGD(0.1, recipe=swalp(8), swa_start=2, swa_finalize=False))
    model.fit(*data(), batch_size=BATCH, verbose=0)
    with swap_average(model):
        model.save(tmp_path / "average.keras")
    assert same(
        keras.models.load_model(tmp_path / "average.keras").get_weights(),
        list(model.optimizer.average().values()),
    )


def test_average_of_half_precision_weights_is_kept_in_float32() -> None:
    variables = [keras.Variable(np.full(3, 0.75), dtype="bfloat16")]
    optimizer = SGD(0.0078125, recipe=Recipe(weight="bf16/nearest_even"), swa_start=0)
    for _ in range(3):
        apply(optimizer, [np.ones(3, np.float32)], variables)
    (average,) = optimizer.average().values()
    assert average.dtype == np.float32
    np.testing.assert_allclose(average, 0.75 - 0.0078125 * 2)


def test_optimizers_within_others_are_found() -> None:
    inner = SGD(0.1, recipe=swalp(8), swa_start=2)
    model = compiled(keras.optimizers.LossScaleOptimizer(inner))
    model.fit(*data(), batch_size=BATCH, verbose=0)
    before = model.get_weights()
    with swap_average(model):
        assert same(model.get_weights(), list(inner.average().values()))
    assert same(model.get_weights(), before)


def test_without_an_average_there_is_nothing_to_swap() -> None:
    model = compiled(SGD(0.1, recipe=swalp(8)))
    with (
        pytest.raises(
            ValueError,
            match=r"optimizer does not average\. Compile it with a `qemu_swalp_keras` optimizer "
            "made with `swa_start`",
        ),
        swap_average(model),
    ):
        pass
    with pytest.raises(ValueError, match="does not average"):
        model.fit(*data(), callbacks=[SwapAverage()], verbose=0)
    with pytest.raises(
        ValueError, match="This optimizer does not average: make it with `swa_start`"
    ):
        model.optimizer.average()
    model = compiled(SGD(0.1, recipe=swalp(8), swa_start=1000))
    model.fit(*data(), verbose=0)
    with (
        pytest.raises(ValueError, match="nothing averaged yet: averaging starts after step 1000"),
        swap_average(model),
    ):
        pass
