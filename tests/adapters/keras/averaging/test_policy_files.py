"""`PolicyAverage` in other people's loops: what counts as a step, what files hold, and what goes on
from them, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import PolicyAverage, QuantizedOptimizer, SwapAverage, restore_iterate

from qemu_swalp.training import EMA, LAWA, SWAG, Averaging, Recipe
from tests.adapters.keras.conftest import BACKEND, data, network, same

X, Y = data(24)
FIT: dict[str, Any] = {"batch_size": 8, "shuffle": False, "verbose": 0}
STEPS = 3
"""Batches of an epoch."""


def accumulating() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.125, momentum=0.5, gradient_accumulation_steps=2)


def quantized() -> keras.optimizers.Optimizer:
    return QuantizedOptimizer(accumulating(), Recipe(weight="bfp<8,axis=-1>"), seed=1)


def multiple() -> keras.optimizers.Optimizer:
    parts = [accumulating(), keras.optimizers.SGD(0.125)]
    return keras.optimizers.MultiOptimizer(lambda v: parts["head" in v.path])


def compiled(optimizer: keras.optimizers.Optimizer | None = None) -> keras.Model:
    keras.utils.clear_session(free_memory=False)
    model = network()
    layers = [keras.layers.Input((4,)), model.layers[0], keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, model.layers[1]], name="net")
    model.compile(optimizer or accumulating(), loss="mse", jit_compile=False)
    return model


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


def kept(averages: list[PolicyAverage], model: keras.Model) -> list[np.ndarray]:
    """All bits that a resumed run shall have."""
    numbers = [np.array([a.step, a.n_averaged]) for a in averages]
    return [
        *model.get_weights(),
        *(w for a in averages if a.n_averaged for w in a.average().values()),
        *numbers,
    ]


def averages() -> list[PolicyAverage]:
    return [
        PolicyAverage(EMA(decay=0.5, warmup=True, include_start=True), buffers=True),
        PolicyAverage(LAWA(cycle=2, size=2, quantizer="bfp8/stochastic")),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_backups_hold_them_in_either_order(tmp_path: Path, first: bool) -> None:
    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    def run(*more: keras.callbacks.Callback) -> list[np.ndarray]:
        model, ours = compiled(), averages()
        backup = keras.callbacks.BackupAndRestore(str(tmp_path))
        callbacks = [backup, *ours] if first else [*ours, backup]
        model.fit(X, Y, epochs=4, callbacks=[*callbacks, *more], **FIT)
        return kept(ours, model)

    uninterrupted = run()
    with pytest.raises(KeyboardInterrupt):
        run(Dies())
    assert same(run(), uninterrupted)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("save_freq", ["epoch", 2])
def test_a_loaded_model_goes_on(tmp_path: Path, first: bool, save_freq: Any) -> None:
    def fit(model: keras.Model, epochs: int, *more: keras.callbacks.Callback) -> list[np.ndarray]:
        ours = averages()
        callbacks = [*more, *ours] if first else [*ours, *more]
        model.fit(X, Y, epochs=epochs, callbacks=callbacks, **FIT)
        return kept(ours, model)

    path = str(tmp_path / "net.keras")
    saver = keras.callbacks.ModelCheckpoint(path, save_freq=save_freq)
    whole = compiled()
    fit(whole, 1, saver)
    loaded = keras.models.load_model(path)
    if save_freq == "epoch":
        assert same(fit(loaded, 1), fit_both(whole))
    else:  # saved after two of three batches
        rest = averages()
        loaded.fit(X[16:], Y[16:], callbacks=rest, **FIT)
        again, unbroken = compiled(), averages()
        again.fit(X, Y, callbacks=unbroken, **FIT)
        assert same(kept(rest, loaded), kept(unbroken, again))


def fit_both(model: keras.Model) -> list[np.ndarray]:
    """An epoch more of a model, with averages from its beginning."""
    again, ours = compiled(), averages()
    again.fit(X, Y, epochs=2, callbacks=ours, **FIT)
    return kept(ours, again)


def test_weights_alone_hold_them_too(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    model, (ema, lawa) = compiled(), averages()
    model.fit(X, Y, callbacks=[ema, lawa], **FIT)
    model.save_weights(path)
    before = kept([ema, lawa], model)
    model.fit(X, Y, callbacks=[ema, lawa], **FIT)
    assert not same(kept([ema, lawa], model), before)
    model.load_weights(path)
    assert same(kept([ema, lawa], model), before)


def test_weights_are_loaded_before_the_optimizer_has_variables(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    model, ours = compiled(), averages()
    model.fit(X, Y, callbacks=ours, **FIT)
    model.save_weights(path)
    fresh, theirs = compiled(), averages()
    with pytest.warns(UserWarning, match="optimizer has not been called/built|has 2 variables"):
        fresh.load_weights(path)
    with pytest.raises(ValueError, match=r"after 1 updates .* knows of 0: .* Build it first"):
        fresh.fit(X, Y, callbacks=theirs, **FIT)
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.load_weights(path)
    for each, parts in ((model, ours), (fresh, theirs)):
        each.fit(X, Y, callbacks=parts, **FIT)
    assert same(kept(theirs, fresh), kept(ours, model))


class Gain(keras.layers.Layer):
    """By one trained number."""

    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(shape=(), initializer="ones")

    def call(self, x: Any) -> Any:
        return self.gain * x


def test_a_weight_without_axes_is_held(tmp_path: Path) -> None:
    models = []
    for _ in range(2):
        model = keras.Sequential([keras.layers.Input((4,)), Gain()])
        model.compile("sgd", loss="mse", jit_compile=False)
        models.append((model, PolicyAverage(EMA(decay=0.5))))
    (model, average), (fresh, resumed) = models
    model.fit(X, 2 * X, callbacks=[average], **FIT)
    model.save_weights(tmp_path / "net.weights.h5")
    fresh.load_weights(tmp_path / "net.weights.h5")
    resumed.set_model(fresh)
    assert resumed.n_averaged == average.n_averaged > 0
    assert same(list(resumed.average().values()), list(average.average().values()))


def test_what_a_file_has_not_is_told(tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    model = compiled()
    model.fit(X, Y, callbacks=[PolicyAverage(EMA(decay=0.5))], **FIT)
    model.save(path)
    loaded = keras.models.load_model(path)
    loaded.fit(X, Y, **FIT)
    with pytest.raises(ValueError, match=r"after 1 updates .*, and there are 3 by now"):
        loaded.fit(X, Y, callbacks=[PolicyAverage(EMA(decay=0.5))], **FIT)
    other = compiled()
    other.fit(X, Y, callbacks=[PolicyAverage(EMA(decay=0.25))], **FIT)
    with pytest.raises(ValueError, match=r"The file has the averages .*0\.5.*and not .*0\.25"):
        other.load_weights(path)
    plain = compiled()
    plain.save(path)  # without an average, which leaves that of the model
    n = PolicyAverage(Averaging(), name="mean")
    plain.fit(X, Y, callbacks=[n], **FIT)
    plain.load_weights(path)
    assert n.n_averaged == 1


def test_an_average_that_was_saved_as_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    model, (ema, _) = compiled(), averages()
    model.fit(X, Y, callbacks=[ema], **FIT)
    iterate = model.get_weights()
    with ema.swap():
        model.save(path)
        average = model.get_weights()
    loaded = keras.models.load_model(path)
    assert same(loaded.get_weights(), average)
    assert not same(average, iterate)
    assert restore_iterate(loaded)
    assert same(loaded.get_weights(), iterate)
    loaded = keras.models.load_model(path)
    (resumed, _), _ = averages(), model.fit(X, Y, callbacks=[ema], **FIT)
    loaded.fit(X, Y, callbacks=[resumed], **FIT)
    assert same(kept([resumed], loaded), kept([ema], model))


def test_a_model_without_weights_cannot_take_an_iterate(tmp_path: Path) -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.dense = keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    def made() -> keras.Model:
        model = Own()
        model.compile("sgd", loss="mse", jit_compile=False)
        return model

    path, (model, ema) = tmp_path / "own.weights.h5", (made(), PolicyAverage(EMA(decay=0.5)))
    model.fit(X, Y, callbacks=[ema], **FIT)
    with ema.swap():
        model.save_weights(path)
    fresh = made()
    with pytest.warns(UserWarning, match="does not have a `build"):
        fresh.build((None, 4))  # marked as built, with layers that are not
    with pytest.raises(ValueError, match=r"'own' has no weights for them yet\. Call it on a batch"):
        fresh.load_weights(path)
    fresh(X)
    fresh.load_weights(path)
    assert restore_iterate(fresh)
    assert same(fresh.get_weights(), model.get_weights())


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_checkpoints_may_hold_the_average_of_a_policy(tmp_path: Path, first: bool) -> None:
    def callbacks(path: Path | None) -> tuple[PolicyAverage, list[Any]]:
        ema = PolicyAverage(EMA(decay=0.5), buffers=True)
        savers = [keras.callbacks.ModelCheckpoint(str(path))] if path else []
        swap = SwapAverage(on_epoch_end=True, average=ema)
        return ema, [*savers, swap, ema] if first else [ema, swap, *savers]

    path = tmp_path / "net.keras"
    ema, ours = callbacks(path)
    model = compiled()
    seen: list[list[np.ndarray]] = []

    class Look(keras.callbacks.Callback):
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(self.model.get_weights())

    look = Look()
    model.fit(X, Y, validation_data=(X, Y), callbacks=[*ours, look], **FIT)
    loaded, iterate = keras.models.load_model(path), model.get_weights()
    with ema.swap():
        average = model.get_weights()
    shown = list(ema.average().values())
    assert same(loaded.get_weights(), average)
    assert same(seen[0], average)
    assert not same(iterate, average)
    resumed, theirs = callbacks(None)
    for each, parts in ((model, [ema]), (loaded, theirs)):
        each.fit(X, Y, callbacks=parts, **FIT)
    assert same(kept([resumed], loaded), kept([ema], model))
    fresh = PolicyAverage(EMA(decay=0.5), buffers=True)
    loaded = keras.models.load_model(path)
    restore_iterate(loaded)
    loaded.evaluate(X, Y, verbose=0, callbacks=[SwapAverage(average=fresh), look])
    assert same(list(fresh.average().values()), shown)
    assert same(seen[-1], average)


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


def test_a_part_with_an_average_of_its_own_is_saved_within_the_swap_of_the_whole(
    tmp_path: Path,
) -> None:
    def whole() -> tuple[keras.Model, PolicyAverage]:
        keras.utils.set_random_seed(0)
        part = compiled()
        part.fit(X, Y, epochs=1, callbacks=[PolicyAverage(EMA(decay=0.5))], **FIT)
        model = keras.Sequential([keras.layers.Input((4,)), part, keras.layers.Dense(3)])
        model.compile(accumulating(), loss="mse")
        mean = PolicyAverage(EMA(decay=0.5), name="whole")
        model.fit(X, Y, epochs=2, callbacks=[mean], **FIT)
        return model, mean

    model, mean = whole()
    iterate = model.get_weights()
    with mean.swap():
        average = model.get_weights()
        model.save_weights(tmp_path / "average.weights.h5")
    again, _ = whole()
    again.load_weights(tmp_path / "average.weights.h5")
    assert same(again.get_weights(), average)
    assert restore_iterate(again)
    assert same(again.get_weights(), iterate)


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


def test_an_average_that_saw_nothing_puts_out_none_that_did(tmp_path: Path) -> None:
    model, mean = compiled(), PolicyAverage(EMA(decay=0.5))
    model.fit(X, Y, callbacks=[mean], **FIT)
    model.evaluate(X, Y, callbacks=[PolicyAverage(EMA(decay=0.5))], verbose=0)
    model.save_weights(tmp_path / "x.weights.h5")
    again, loaded = compiled(), PolicyAverage(EMA(decay=0.5))
    again.fit(X, Y, epochs=0, callbacks=[loaded], **FIT)
    again.load_weights(tmp_path / "x.weights.h5")
    assert same(list(loaded.average().values()), list(mean.average().values()))


def test_averages_of_an_earlier_fit_are_kept_no_more(tmp_path: Path) -> None:
    model, second = compiled(), PolicyAverage(LAWA(size=2))
    model.fit(X, Y, callbacks=[PolicyAverage(EMA(decay=0.5))], **FIT)
    model.fit(X, Y, callbacks=[second], **FIT)
    model.save_weights(tmp_path / "x.weights.h5")
    saved = second.step
    model.fit(X, Y, callbacks=[second], **FIT)
    assert second.step > saved
    model.load_weights(tmp_path / "x.weights.h5")
    assert second.step == saved


@pytest.mark.parametrize("together", [True, False], ids=["together", "in turn"])
def test_averages_that_are_called_by_hand(tmp_path: Path, together: bool) -> None:
    model, by_fit, ours = compiled(), compiled(), averages()
    shown = SwapAverage(average=ours[0], batchnorm_data=False)
    for callbacks in [[*ours, shown]] if together else [[each] for each in (*ours, shown)]:
        for callback in callbacks:
            callback.set_model(model)
        for callback in callbacks:
            callback.on_train_begin()
    for i in range(STEPS):
        for callback in ours:
            callback.on_train_batch_begin(i)
        model.train_on_batch(X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8])
        for callback in ours:
            callback.on_train_batch_end(i)
    for callback in (*ours, shown):
        callback.on_train_end()
    theirs = averages()
    by_fit.fit(X, Y, callbacks=theirs, **FIT)
    assert same(kept(ours, model), kept(theirs, by_fit))
    iterate = model.get_weights()
    shown.on_test_begin()
    by_path = {v.path: v for v in model.weights}
    seen = [by_path[path].numpy() for path in ours[0].average()]
    shown.on_test_end()
    assert same(seen, list(ours[0].average().values()))
    assert same(model.get_weights(), iterate)
    model.save(tmp_path / "net.keras")
    loaded, taken = keras.models.load_model(tmp_path / "net.keras"), averages()
    for callback in taken:
        callback.set_model(loaded)
    assert same(kept(taken, loaded), kept(ours, model))


def ema() -> PolicyAverage:
    return PolicyAverage(EMA(decay=0.5))


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("again", [True, False], ids=["the same", "new"])
def test_backups_resume_a_model_that_has_an_average(
    tmp_path: Path, first: bool, again: bool
) -> None:
    """As when the cell of a notebook that was interrupted is run again."""

    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    def run(model: keras.Model, mean: PolicyAverage, *more: Any) -> None:
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        callbacks = [backup, mean] if first else [mean, backup]
        model.fit(X, Y, epochs=4, callbacks=[*callbacks, *more], **FIT)

    unbroken, whole = compiled(), ema()
    unbroken.fit(X, Y, epochs=4, callbacks=[whole], **FIT)
    model, old = compiled(), ema()
    with pytest.raises(KeyboardInterrupt):
        run(model, old, Dies())
    mean = old if again else ema()
    run(model, mean)
    assert same(kept([mean], model), kept([whole], unbroken))
    assert again or old.step == whole.step // 2
    model.save(tmp_path / "net.keras")
    new, loaded = ema(), keras.models.load_model(tmp_path / "net.keras")
    new.set_model(loaded)
    assert same(kept([new], loaded), kept([whole], unbroken))
    begun = ema()
    model.fit(X, Y, callbacks=[begun], **FIT)  # no one goes on from the backup any more
    assert begun.step < mean.step


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


@pytest.mark.parametrize("alone", [True, False])
def test_evaluations_do_not_change_what_files_hold(tmp_path: Path, alone: bool) -> None:
    path, model, (old, new) = tmp_path / "net.keras", compiled(), (ema(), ema())
    model.fit(X, Y, callbacks=[old], **FIT)
    model.fit(X, Y, epochs=2, callbacks=[new], **FIT)
    before = kept([old], model)
    swap = SwapAverage(average=old, batchnorm_data=False)
    model.evaluate(X, Y, callbacks=[swap] if alone else [old, swap], verbose=0)
    assert same(kept([old], model), before)
    model.save(path)
    loaded, taken = keras.models.load_model(path), ema()
    taken.set_model(loaded)
    assert same(kept([taken], loaded), kept([new], model))
    assert not same(kept([taken], loaded), before)


def test_what_is_loaded_is_that_of_all_callbacks_until_training_goes_on(tmp_path: Path) -> None:
    path, model, (old, mean) = tmp_path / "x.weights.h5", compiled(), (ema(), ema())
    model.fit(X, Y, epochs=2, callbacks=[old], **FIT)
    model.fit(X, Y, epochs=4, callbacks=[mean], **FIT)
    model.save_weights(path)
    held = kept([mean], model)
    model.fit(X, Y, epochs=2, callbacks=[mean], **FIT)
    went_on = kept([mean], model)
    model.load_weights(path)
    shown, fresh = ema(), ema()
    for each in (shown, old):  # an earlier one, too
        swap = SwapAverage(average=each, batchnorm_data=False)
        model.evaluate(X, Y, callbacks=[swap], verbose=0)
    assert all(same(kept([each], model), held) for each in (mean, shown, old))
    model.fit(X, Y, epochs=2, callbacks=[fresh], **FIT)
    assert same(kept([fresh], model), went_on)
    begun = ema()
    model.fit(X, Y, epochs=2, callbacks=[begun], **FIT)
    assert begun.step == 3
    assert all(same(kept([each], model)[-1:], held[-1:]) for each in (mean, shown, old))
