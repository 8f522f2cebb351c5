"""An average that is swapped in goes out again: by hooks and by the next use, whatever happens."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import (
    SGD,
    PolicyAverage,
    QuantizedOptimizer,
    SwapAverage,
    restore_iterate,
    swap_average,
    update_bn,
)

from qemu_swalp.training import EMA
from tests.adapters.keras.conftest import BACKEND, data, network, same

X, Y = data()
FIT: dict[str, Any] = {"batch_size": 8, "shuffle": False, "verbose": 0}


def compiled(finalize: bool = False, net: Callable[[], keras.Model] = network) -> keras.Model:
    model = net()
    optimizer = QuantizedOptimizer(
        keras.optimizers.SGD(0.125, momentum=0.5), None, swa_start=2, swa_finalize=finalize
    )
    model.compile(optimizer, loss="mse")
    return model


@cache
def trained(epochs: int, finalize: bool = False) -> list[np.ndarray]:
    """Weights of a run that nothing interrupts."""
    model = compiled(finalize)
    model.fit(X, Y, epochs=epochs, **FIT)
    return model.get_weights()


def iterate_of(model: keras.Model) -> list[np.ndarray]:
    if BACKEND == "jax":
        model.jax_state_sync()
    return model.get_weights()


class Raises(keras.callbacks.Callback):
    """Raises in one of its hooks, once."""

    def __init__(self, hook: str, exception: BaseException) -> None:
        super().__init__()
        self.left = [exception]
        setattr(self, hook, self.throw)

    def throw(self, *args: Any, **kwargs: Any) -> None:
        if self.left:
            raise self.left.pop()


class RaisingData(keras.utils.PyDataset):
    """Validation data whose second batch raises, once."""

    def __init__(self, exception: type[BaseException]) -> None:
        super().__init__()
        self.left = [exception]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        if i and self.left:
            raise self.left.pop()("stop")
        return X, Y


FITS: dict[str, Callable[[], dict[str, Any]]] = {
    "interrupt": lambda: {"callbacks": [Raises("on_test_batch_end", KeyboardInterrupt("stop"))]},
    "begin": lambda: {"callbacks": [Raises("on_test_begin", ValueError("stop"))]},
    "end": lambda: {"callbacks": [Raises("on_test_end", ValueError("stop"))]},
    "data": lambda: {"validation_data": RaisingData(KeyboardInterrupt)},
}
AGAIN: dict[str, Callable[[SwapAverage], list[SwapAverage]]] = {
    "same": lambda swap: [swap],
    "new": lambda swap: [SwapAverage()],
    "none": lambda swap: [],
}


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize(
    ("fit", "finalize"),
    [*((fit, False) for fit in FITS.values()), (FITS["interrupt"], True)],
    ids=[*FITS, "finalize"],
)
def test_an_interrupted_validation_leaves_the_iterate(
    fit: Callable[[], dict[str, Any]],
    finalize: bool,
    again: Callable[[SwapAverage], list[SwapAverage]],
) -> None:
    """And training goes on from it, whoever collects the old callback in between."""
    model, swap = compiled(finalize), SwapAverage()
    arguments = {"validation_data": (X, Y), "callbacks": [], **fit()}
    arguments["callbacks"].insert(0, swap)
    with pytest.raises((KeyboardInterrupt, ValueError), match="stop"):
        model.fit(X, Y, epochs=1, **FIT, **arguments)
    assert same(model.get_weights(), trained(1))
    callbacks = again(swap)
    del swap, arguments
    gc.collect()
    assert same(model.get_weights(), trained(1))
    model.fit(X, Y, epochs=1, callbacks=callbacks, validation_data=(X, Y), **FIT)
    assert same(model.get_weights(), trained(2, finalize))


def swap_and_back(model: keras.Model) -> None:
    with swap_average(model):
        pass


USES: dict[str, Callable[[keras.Model], Any]] = {
    "evaluate": lambda model: model.evaluate(X, Y, verbose=0),
    "predict": lambda model: model.predict(X, verbose=0),
    "test_on_batch": lambda model: model.test_on_batch(X, Y),
    "swap": swap_and_back,
    "restore_iterate": restore_iterate,
}


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_an_interrupted_evaluation_is_undone_at_once(call: str) -> None:
    model = compiled()
    model.fit(X, Y, epochs=1, **FIT)
    before = model.get_weights()
    hook = {"evaluate": "on_test_batch_end", "predict": "on_predict_batch_end"}[call]
    arguments = (X, Y) if call == "evaluate" else (X,)
    with pytest.raises(KeyboardInterrupt):
        getattr(model, call)(
            *arguments, verbose=0, callbacks=[SwapAverage(), Raises(hook, KeyboardInterrupt())]
        )
    assert same([v.numpy() for v in model.weights], before)
    model.fit(X, Y, epochs=1, **FIT)
    assert same(model.get_weights(), trained(2))


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_an_evaluation_that_never_ended_is_undone_by_the_next_use(
    use: Callable[[keras.Model], Any],
) -> None:
    model, swap = compiled(), SwapAverage()
    model.fit(X, Y, epochs=1, **FIT)
    before = model.get_weights()
    swap.set_model(model)
    swap.on_test_begin()  # as in a loop of one's own
    del swap
    gc.collect()
    assert not same(iterate_of(model), before)
    use(model)
    assert same(model.get_weights(), before)
    model.fit(X, Y, epochs=1, **FIT)
    assert same(model.get_weights(), trained(2))


@pytest.mark.parametrize("callbacks", [[], [SwapAverage]], ids=["plain", "callback"])
def test_an_interrupted_end_of_an_epoch_is_undone_at_once(
    callbacks: list[type[SwapAverage]],
) -> None:
    model = compiled()
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            X,
            Y,
            epochs=1,
            callbacks=[SwapAverage(on_epoch_end=True), Raises("on_epoch_end", KeyboardInterrupt())],
            **FIT,
        )
    assert same([v.numpy() for v in model.weights], trained(1))
    model.fit(X, Y, epochs=1, callbacks=[make() for make in callbacks], **FIT)
    assert same(model.get_weights(), trained(2))


def test_weights_that_were_written_since_stay() -> None:
    model = compiled()
    model.fit(X, Y, epochs=1, **FIT)
    with pytest.raises(KeyboardInterrupt):
        model.evaluate(
            X,
            Y,
            verbose=0,
            callbacks=[SwapAverage(), Raises("on_test_end", KeyboardInterrupt())],
        )
    written = [np.full_like(w, 0.5) for w in model.get_weights()]
    model.set_weights(written)
    assert not restore_iterate(model)
    assert same(model.get_weights(), written)


@pytest.mark.parametrize(
    "swap",
    [
        lambda model: model.optimizer.swap(),
        swap_average,
    ],
    ids=["optimizer", "model"],
)
def test_an_abandoned_swap_stands_until_it_is_undone(swap: Callable[[keras.Model], Any]) -> None:
    model = compiled()
    model.fit(X, Y, epochs=1, **FIT)
    before = model.get_weights()
    swap(model).__enter__()
    average = model.get_weights()
    gc.collect()
    assert same(model.get_weights(), average)
    assert not same(average, before)
    for again in (swap_average, lambda model: model.optimizer.swap()):
        with pytest.raises(ValueError, match="An average stands in the weights"), again(model):
            pass
    with pytest.raises(ValueError, match="An average stands in the weights"):
        model.evaluate(X, Y, verbose=0, callbacks=[SwapAverage()])
    with pytest.raises(ValueError, match=r"call restore_iterate\(model\)"):
        model.fit(X, Y, epochs=1, callbacks=[SwapAverage()], **FIT)
    with pytest.raises(ValueError, match=r"call restore_iterate\(model\)"):
        model.optimizer.apply([v + 0 for v in model.trainable_variables])
    assert same(model.get_weights(), average)
    assert restore_iterate(model)
    assert same(model.get_weights(), before)


def test_training_within_a_swap_is_refused_and_the_swap_still_undone() -> None:
    model = compiled()
    model.fit(X, Y, epochs=1, **FIT)
    before = model.get_weights()
    with (
        pytest.raises(ValueError, match="An average stands in the weights"),
        swap_average(model),
    ):
        model.fit(X, Y, epochs=1, **FIT)
    assert same(model.get_weights(), before)
    model.fit(X, Y, epochs=1, **FIT)
    assert same(model.get_weights(), trained(2))


def test_two_callbacks_that_swap_are_refused() -> None:
    model = compiled()
    with pytest.raises(ValueError, match="An average stands"):
        model.fit(
            X, Y, epochs=1, validation_data=(X, Y), callbacks=[SwapAverage(), SwapAverage()], **FIT
        )


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_a_callback_that_swaps_beside_ours_is_refused(first: bool) -> None:
    model = network()
    inner = keras.optimizers.SGD(0.125, use_ema=True, ema_momentum=0.5)
    model.compile(QuantizedOptimizer(inner, None, swa_start=2, swa_finalize=False), "mse")
    callbacks = [keras.callbacks.SwapEMAWeights(), SwapAverage()][:: 1 if first else -1]
    with pytest.raises(ValueError, match="as SwapEMAWeights does"):
        model.fit(X, Y, epochs=1, validation_data=(X, Y), callbacks=callbacks, **FIT)


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_the_best_weights_are_the_average_in_either_order(first: bool) -> None:
    """Also where the best are those of the last epoch."""
    model = compiled()
    stopping = keras.callbacks.EarlyStopping("loss", patience=5, restore_best_weights=True)
    callbacks = [stopping, SwapAverage(on_epoch_end=True)][:: 1 if first else -1]
    model.fit(X, Y, epochs=2, callbacks=callbacks, **FIT)
    assert stopping.best_epoch == 1
    average = list(model.optimizer.average().values())
    assert same([v.numpy() for v in model.trainable_variables], average)


def test_an_abandoned_swap_of_a_policy() -> None:
    model = compiled()
    policy = PolicyAverage(EMA(decay=0.5))
    model.fit(X, Y, epochs=1, callbacks=[policy], **FIT)
    before = model.get_weights()
    policy.swap().__enter__()
    gc.collect()
    assert not same(model.get_weights(), before)
    with pytest.raises(ValueError, match="An average stands"), policy.swap():
        pass
    with pytest.raises(ValueError, match="An average stands"):
        model.fit(X, Y, epochs=1, **FIT)
    assert restore_iterate(model)
    assert same(model.get_weights(), before)


# --- files


def normalized() -> keras.Model:
    """With batch normalization, whose statistics are kept beside the average too."""
    model = network()
    layers = [keras.layers.Input((4,)), model.layers[0], keras.layers.BatchNormalization()]
    return keras.Sequential([*layers, model.layers[1]], name="net")


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_checkpoints_are_the_same_in_either_order(tmp_path: Path, first: bool) -> None:
    """They hold the average as the weights, and a model that is loaded trains on as if nothing had
    been saved.
    """
    model = compiled(net=normalized)
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    swap = SwapAverage(on_epoch_end=True, batchnorm_data=X)
    callbacks = [checkpoint, swap] if first else [swap, checkpoint]
    model.fit(X, Y, epochs=2, callbacks=callbacks, **FIT)
    loaded = keras.models.load_model(tmp_path / "1.keras")
    average = list(loaded.optimizer.average().values())
    assert same([v.numpy() for v in loaded.trainable_variables], average)
    loaded.fit(X, Y, epochs=1, callbacks=[SwapAverage(True, X)], **FIT)
    assert same(loaded.get_weights(), model.get_weights())


def test_a_model_that_holds_an_average_does_not_train_unasked(tmp_path: Path) -> None:
    model = compiled(net=normalized)
    model.fit(X, Y, epochs=1, **FIT)
    with swap_average(model):
        update_bn(X, model)
        model.save(tmp_path / "average.keras")
    loaded = keras.models.load_model(tmp_path / "average.keras")
    with pytest.raises(ValueError, match=r"restore_iterate\(model\)"):
        loaded.fit(X, Y, epochs=1, **FIT)
    assert restore_iterate(loaded)
    assert same(loaded.get_weights(), model.get_weights())
    for each in (model, loaded):
        each.fit(X, Y, epochs=1, **FIT)
    assert same(loaded.get_weights(), model.get_weights())


def test_weights_of_an_average_are_not_loaded_without_their_iterate(tmp_path: Path) -> None:
    model = compiled()
    model.fit(X, Y, epochs=1, **FIT)
    with swap_average(model):
        model.save_weights(tmp_path / "average.weights.h5")
    loaded = compiled()
    with pytest.raises(ValueError, match=r"Build it first, by optimizer.build"):
        loaded.load_weights(tmp_path / "average.weights.h5")
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(tmp_path / "average.weights.h5")
    assert restore_iterate(loaded)
    assert same(loaded.get_weights(), trained(1))


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("interrupted_in", ["on_epoch_begin", "on_epoch_end", "on_test_batch_end"])
def test_backups_resume_bit_for_bit_in_either_order(
    tmp_path: Path, first: bool, interrupted_in: str
) -> None:
    class Dies(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch
            if interrupted_in == "on_epoch_begin" and epoch == 2:
                raise KeyboardInterrupt

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if interrupted_in == "on_epoch_end" and epoch == 1:
                raise KeyboardInterrupt

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            if interrupted_in == "on_test_batch_end" and self.epoch == 2:
                raise KeyboardInterrupt

    def run(*more: keras.callbacks.Callback) -> list[np.ndarray]:
        keras.utils.clear_session()
        model = compiled(net=normalized)
        swap = SwapAverage(on_epoch_end=True, batchnorm_data=X)
        backup = keras.callbacks.BackupAndRestore(str(tmp_path))
        callbacks = [backup, swap] if first else [swap, backup]
        model.fit(X, Y, epochs=3, validation_data=(X, Y), callbacks=[*callbacks, *more], **FIT)
        return model.get_weights()

    uninterrupted = run()
    with pytest.raises(KeyboardInterrupt):
        run(Dies())
    assert same(run(), uninterrupted)


# --- other optimizers' optimizers


def optimizer(seed: int) -> SGD:
    return SGD(0.125, seed=seed, swa_start=2, swa_finalize=False)


def by_function() -> keras.optimizers.Optimizer:
    """Which knows its optimizers once it is built."""
    parts = [optimizer(1), optimizer(2)]
    return keras.optimizers.MultiOptimizer(lambda v: parts["head" in v.path])


def by_map() -> keras.optimizers.Optimizer:
    table = keras.optimizers.OptimizerMap(optimizer(1), {".*head.*": optimizer(2)})
    return keras.optimizers.MultiOptimizer(table)


def with_idle() -> keras.optimizers.Optimizer:
    """One of its optimizers has no variables."""
    table = keras.optimizers.OptimizerMap(optimizer(1), {"nowhere": optimizer(2)})
    return keras.optimizers.MultiOptimizer(table)


def scaled() -> keras.optimizers.Optimizer:
    return keras.optimizers.LossScaleOptimizer(by_function())


@pytest.mark.parametrize("wrapper", [by_function, by_map, with_idle, scaled])
@pytest.mark.parametrize("built", [True, False], ids=["built", "unbuilt"])
def test_optimizers_within_others_in_their_first_fit(
    wrapper: Callable[[], Any], built: bool
) -> None:
    model = network()
    if not built:
        layers = [keras.layers.Dense(5, name="hidden"), keras.layers.Dense(3, name="head")]
        model = keras.Sequential(layers, name="net")
    model.compile(wrapper(), loss="mse")
    seen: list[list[np.ndarray]] = []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(iterate_of(model)))
    swap = SwapAverage(on_epoch_end=True)
    model.fit(X, Y, epochs=2, validation_data=(X, Y), callbacks=[look, swap], **FIT)
    with swap_average(model):
        assert same(model.get_weights(), seen[1])
    assert not same(model.get_weights(), seen[1])


# --- batch normalization


def test_statistics_that_do_not_fit_the_average_are_warned_of() -> None:
    model = compiled(net=normalized)
    with pytest.warns(UserWarning, match="batch normalization keeps the statistics of"):
        model.fit(X, Y, validation_data=(X, Y), callbacks=[SwapAverage()], **FIT)
    with (
        pytest.warns(UserWarning, match=r"update_bn\(data, model\) within the swap"),
        swap_average(model),
    ):
        model.evaluate(X, Y, verbose=0)


@pytest.mark.filterwarnings("error::UserWarning")
def test_statistics_that_fit_are_not_warned_of() -> None:
    model = compiled(net=normalized)
    for given in (X, False):
        model.fit(X, Y, validation_data=(X, Y), callbacks=[SwapAverage(True, given)], **FIT)
    with swap_average(model):
        update_bn(X, model)
        model.evaluate(X, Y, verbose=0)


def test_a_model_that_ends_as_the_average_has_its_statistics() -> None:
    model = compiled(finalize=True, net=normalized)
    model.fit(X, Y, callbacks=[SwapAverage(batchnorm_data=X)], **FIT)
    statistics = [np.array(v) for v in model.layers[1].non_trainable_variables]
    update_bn(X, model)
    assert same(statistics, [np.array(v) for v in model.layers[1].non_trainable_variables])
