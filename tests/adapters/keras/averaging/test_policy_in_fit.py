"""`PolicyAverage` in other people's loops: what counts as a step, what is averaged, what is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import PolicyAverage, SwapAverage

from qemu_swalp.training import EMA, SWAG, Averaging
from tests.adapters.keras.conftest import BACKEND, network, same
from tests.helpers.keras_averages import (
    FIT,
    STEPS,
    X,
    Y,
    accumulating,
    compiled,
    ema,
    kept,
    multiple,
    quantized,
)


class Recorder(keras.callbacks.Callback):
    """The weights after each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.weights.append([np.array(v.numpy()) for v in self.model.trainable_variables])


@pytest.mark.parametrize("optimizer", [accumulating, quantized, multiple])
def test_updates_are_counted_and_not_batches(optimizer: Callable[[], Any]) -> None:
    model, mean, recorder = compiled(optimizer()), PolicyAverage(Averaging(start=1)), Recorder()
    for epochs in (1, 2):  # the first ends amid an accumulation
        model.fit(X, Y, epochs=epochs, callbacks=[mean, recorder], **FIT)
    every = 1 if optimizer is multiple else 2
    expected, state = Averaging(start=1), Averaging().init()
    updates = recorder.weights[every - 1 :: every]
    for step, weights in enumerate(updates, 1):
        state = expected.update({f"{i}": w for i, w in enumerate(weights)}, state, step)
    assert mean.step == len(updates) == 9 // every
    assert mean.n_averaged == state.n_averaged > 0
    assert same(list(mean.average().values()), list(expected.average(state).values()))


def test_steps_that_a_loss_scale_skips_do_not_count() -> None:
    inner = keras.optimizers.SGD(0.125)
    model = compiled(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**126))
    mean = PolicyAverage(Averaging())
    model.fit(X, 64 * Y, epochs=4, callbacks=[mean], **FIT)
    assert mean.step == mean.n_averaged == int(inner.iterations) < 4 * STEPS
    assert mean.n_averaged > 0


@pytest.mark.skipif(BACKEND == "jax", reason="Keras on JAX trains by an optimizer")
def test_without_an_optimizer_batches_count() -> None:
    class Own(keras.Model):
        def train_step(self, *_: Any) -> Any:
            return {"loss": keras.ops.zeros(())}

    inner = network()
    model = Own(inner.inputs, inner.outputs)
    model.compile(loss="mse")
    model.optimizer = None
    mean = PolicyAverage(Averaging(cycle=2))
    model.fit(X, Y, epochs=2, callbacks=[mean], **FIT)
    assert (mean.step, mean.n_averaged) == (2 * STEPS, STEPS)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("cycle", [1, 2, 3])
def test_an_update_before_an_exception_counts(first: bool, cycle: int) -> None:
    class Dies(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                raise KeyboardInterrupt

    model, mean = compiled(keras.optimizers.SGD(0.125)), PolicyAverage(Averaging(cycle=cycle))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, Y, callbacks=[Dies(), mean] if first else [mean, Dies()], **FIT)
    model.fit(X, Y, callbacks=[mean], **FIT)
    assert (mean.step, mean.n_averaged) == (2 * 2 + STEPS, (2 * 2 + STEPS) // cycle)


def test_updates_of_a_training_without_the_callback_do_not_count() -> None:
    """Also where the training before was left by an exception, amid an epoch."""

    class Dies(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                raise KeyboardInterrupt

    model, mean = compiled(keras.optimizers.SGD(0.125)), PolicyAverage(Averaging(cycle=2))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, callbacks=[Dies(), mean], **FIT)
    assert (mean.step, mean.n_averaged) == (2, 1)
    model.fit(X, Y, **FIT)
    model.fit(X, Y, callbacks=[mean], **FIT)
    assert (mean.step, mean.n_averaged) == (2 + STEPS, 2)


def test_the_error_of_a_training_is_seen() -> None:
    """And not what an average meets where JAX has taken the optimizer's count away."""
    model, mean = compiled(), ema()
    model.fit(X, Y, callbacks=[mean], **FIT)
    with pytest.raises(Exception, match="incompatible"):  # TensorFlow's has a kind of its own
        model.fit(X[:, :1], Y, callbacks=[mean], **FIT)
    assert mean.count.counting is False


def by_fit(model: keras.Model) -> None:
    model.fit(X, Y, epochs=2, **FIT)


def by_batch(model: keras.Model) -> None:
    for _ in range(2):
        model.train_on_batch(X, Y)


@pytest.mark.parametrize("train", [by_fit, by_batch])
def test_a_file_tells_how_much_of_the_training_its_average_saw(tmp_path: Path, train: Any) -> None:
    model, mean = compiled(), ema()
    model.fit(X, Y, epochs=2, callbacks=[mean], **FIT)
    train(model)
    path = tmp_path / "net.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    count = int(loaded.optimizer.iterations)
    assert count > mean.step == 3
    for _ in range(2):  # nor is it lost
        with pytest.raises(ValueError, match=rf"after 3 updates .* there are {count} by now"):
            loaded.fit(X, Y, callbacks=[ema()], **FIT)
    model.fit(X, Y, epochs=2, callbacks=[mean], **FIT)  # it goes on, over the gap
    model.save(path)
    loaded, resumed = keras.models.load_model(path), ema()
    resumed.set_model(loaded)
    assert same(kept([resumed], loaded), kept([mean], model))


@pytest.mark.parametrize("saved_first", [True, False])
def test_an_optimizer_made_anew_has_made_no_updates(tmp_path: Path, saved_first: bool) -> None:
    path, model, mean = tmp_path / "net.keras", compiled(), ema()
    model.fit(X, Y, epochs=2, callbacks=[mean], **FIT)
    if saved_first:
        model.save(path)
        model = keras.models.load_model(path)
    model.compile(accumulating(), loss="mse", jit_compile=False)
    model.save(path)
    loaded, resumed = keras.models.load_model(path), ema()
    loaded.fit(X, Y, epochs=2, callbacks=[resumed], **FIT)
    assert resumed.step == mean.step + 3 == 6
    again = keras.models.load_model(path)
    again.compile(accumulating(), loss="mse", jit_compile=False)
    again.fit(X, Y, epochs=2, **FIT)
    with pytest.raises(ValueError, match=r"after 0 updates .* there are 3 by now"):
        again.fit(X, Y, callbacks=[ema()], **FIT)


def test_the_best_weights_stay_where_they_are_the_averages() -> None:
    model, ema = compiled(), PolicyAverage(EMA(decay=0.5), buffers=True)
    stopping = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
    swap = SwapAverage(on_epoch_end=True, average=ema)
    model.fit(X, Y, epochs=2, callbacks=[stopping, swap, ema], **FIT)
    assert stopping.best_epoch == 1
    by_path = {v.path: v for v in model.weights}
    assert same([by_path[path].numpy() for path in ema.average()], list(ema.average().values()))


def test_buffers_are_averaged_if_asked() -> None:
    model, plain, whole = (
        compiled(),
        PolicyAverage(Averaging()),
        PolicyAverage(Averaging(), buffers=True, name="whole"),
    )
    model.layers[0].trainable = False
    model.compile("sgd", loss="mse", jit_compile=False)
    statistics: list[np.ndarray] = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            statistics.append(np.array(self.model.layers[1].moving_mean.numpy()))

    model.fit(X, Y, callbacks=[plain, whole, Look()], **FIT)
    assert list(plain.average()) == [v.path for v in model.trainable_variables]
    extra = {k: v for k, v in whole.average().items() if k not in plain.average()}
    assert [path.rsplit("/")[-1] for path in extra] == ["moving_mean", "moving_variance"]
    state = Averaging().init()
    for step, mean in enumerate(statistics, 1):
        state = Averaging().update({"m": mean}, state, step)
    assert same([next(iter(extra.values()))], list(Averaging().average(state).values()))
    last = model.get_weights()
    with whole.swap():
        assert same([model.layers[1].moving_mean.numpy()], [next(iter(extra.values()))])
    assert same(model.get_weights(), last)


def test_swag_draws_weights_for_the_model() -> None:
    model, swag = compiled(keras.optimizers.SGD(0.125)), PolicyAverage(SWAG(rank=2, seed=3))
    model.fit(X, Y, callbacks=[swag], **FIT)
    drawn = swag.sample(1)
    assert same(list(drawn.values()), list(swag.policy.sample(swag.state, 1).values()))  # type: ignore[attr-defined]
    with swag.holding(drawn):
        assert same([v.numpy() for v in model.trainable_variables], list(drawn.values()))
    with pytest.raises(TypeError, match=r"needs the policy qemu_swalp\.training\.SWAG, got EMA"):
        PolicyAverage(EMA()).sample()


def test_a_backup_within_epochs_is_refused(tmp_path: Path) -> None:
    ema, backup = PolicyAverage(EMA()), keras.callbacks.BackupAndRestore(str(tmp_path), save_freq=2)
    for callbacks in ([ema, backup], [backup, SwapAverage(average=ema), ema]):
        model = compiled()
        with pytest.raises(ValueError, match=r"save_freq=2\) saves within an epoch.*'epoch'"):
            model.fit(X, Y, callbacks=callbacks, **FIT)


def test_errors() -> None:
    model = compiled()
    with pytest.raises(ValueError, match=r"Two averages have the name .*Give each a `name`"):
        model.fit(X, Y, callbacks=[PolicyAverage(EMA()), PolicyAverage(EMA())], **FIT)
    with pytest.raises(ValueError, match="is not among the callbacks"):
        model.fit(X, Y, callbacks=[SwapAverage(average=PolicyAverage(EMA()))], **FIT)
    with pytest.raises(TypeError, match="average must be a PolicyAverage or None, got 3"):
        SwapAverage(average=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="buffers must be True or False"):
        PolicyAverage(EMA(), buffers=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be a string or None, got 3"):
        PolicyAverage(EMA(), name=3)  # type: ignore[arg-type]


def test_weights_of_one_path_are_refused() -> None:
    class Twice(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (keras.layers.Dense(3, name="fc") for _ in range(2))

        def call(self, x: Any) -> Any:
            return self.b(self.a(x))

    model = Twice()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"path .*fc/kernel.*different names"):
        model.fit(X, Y, callbacks=[PolicyAverage(EMA(decay=0.5))], **FIT)


def test_the_average_of_another_model_is_not_shown() -> None:
    first, second, mean = compiled(), compiled(), PolicyAverage(EMA(decay=0.5))
    first.fit(X, Y, callbacks=[mean], **FIT)
    with pytest.raises(ValueError, match="the average of another model than"):
        second.evaluate(X, Y, callbacks=[SwapAverage(average=mean)], verbose=0)
    assert mean.is_of(first)
