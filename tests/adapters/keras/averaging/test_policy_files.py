"""`PolicyAverage` in files: what they hold, and what goes on from them, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import PolicyAverage, SwapAverage, restore_iterate

from qemu_swalp.training import EMA, LAWA, Averaging
from tests.adapters.keras.conftest import same
from tests.helpers.keras_averages import (
    FIT,
    STEPS,
    X,
    Y,
    accumulating,
    averages,
    compiled,
    ema,
    kept,
)


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
    with pytest.raises(ValueError, match=r"after 1 updates .* knows of 0: .* build it by"):
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
