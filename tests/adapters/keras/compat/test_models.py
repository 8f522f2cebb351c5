"""What is not promised of models and layers of Keras, and is used: a contract test for each item.

A failure names what a new release has changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import _compat

from tests.adapters.keras.conftest import BACKEND, data, network


def test_flat_layers_and_input_layer_of() -> None:
    x = keras.Input((2,), name="x")
    inner = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, name="dense")])
    model = keras.Model(x, inner(x))
    layers = _compat.flat_layers(model)
    assert model in layers
    assert model not in _compat.flat_layers(model, include_self=False)
    assert "dense" in [layer.name for layer in layers]
    assert _compat.input_layer_of(model.inputs[0]).name == "x"


def test_own_trainable_variables_and_conv_lstm_cell() -> None:
    layer = keras.layers.ConvLSTM2D(2, 3)
    assert _compat.own_trainable_variables(layer.cell) == []
    layer.build((None, 5, 8, 8, 4))
    assert _compat.own_trainable_variables(layer) == []
    assert type(layer.cell) is _compat.ConvLSTMCell
    names = [v.name for v in _compat.own_trainable_variables(layer.cell)]
    assert names == ["kernel", "recurrent_kernel", "bias"]
    assert _compat.own_trainable_variables(object.__new__(keras.layers.Layer)) == []


def test_is_training() -> None:
    seen = []

    class Seeing(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            seen.append(_compat.is_training({}))
            return x

    layer = Seeing()
    for training in (True, False, None):
        layer(np.ones(1, "f4"), training=training)
    assert seen == [True, False, False]
    assert _compat.is_training({"training": True})
    assert not _compat.is_training({})


def test_saved_state_and_add_state(tmp_path: Path) -> None:
    """State of a built layer: a variable of it, saved, and no weight."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    states = []
    for value in (5, 0):
        states.append(_compat.SavedState(seed=value))
        _compat.add_state(model.layers[0], "more", states[-1])
        if value:
            model.save_weights(tmp_path / "x.weights.h5")
            del model.layers[0]._seed_generators[:]
    model.load_weights(tmp_path / "x.weights.h5")
    assert keras.ops.convert_to_numpy(states[1].state).tolist() == [5, 0]
    assert len(model.variables) == 3
    assert len(model.weights) == 2


def test_what_is_saved_beside_the_weights_of_a_model(tmp_path: Path) -> None:
    class Note(_compat.SavedBeside):
        seen: Any = None

        def save_own_variables(self, store: Any) -> None:
            store["note"] = np.arange(3)

        def load_own_variables(self, store: Any) -> None:
            self.seen = np.array(store["note"]) if "note" in store.keys() else ()  # noqa: SIM118

    _compat.save_beside_weights("_qemu_swalp_test", lambda model: Note())
    try:
        inputs = keras.Input((4,))
        for model in (network(), keras.Model(inputs, network()(inputs))):
            for name in ("x.weights.h5", "x.keras"):
                model.save(tmp_path / name) if name == "x.keras" else model.save_weights(
                    tmp_path / name
                )
                model._qemu_swalp_test.seen = None
                model.load_weights(tmp_path / name)
                assert list(model._qemu_swalp_test.seen) == [0, 1, 2]
            loaded = keras.models.load_model(tmp_path / "x.keras")
            assert list(loaded._qemu_swalp_test.seen) == [0, 1, 2]
    finally:
        del keras.Model._qemu_swalp_test


def test_callbacks_beside() -> None:
    found: list[Any] = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            found.append(_compat.callbacks_beside(self))

        on_test_begin = on_train_begin

    look, other, model = Look(), keras.callbacks.TerminateOnNaN(), network()
    look.on_train_begin()
    model.compile("sgd", loss="mse")
    model.fit(*data(8), callbacks=[look, other], verbose=0)
    model.evaluate(*data(8), callbacks=[other, look], verbose=0)
    assert [other in callbacks and look in callbacks for callbacks in found] == [False, True, True]


def test_sublayers() -> None:
    inner = keras.Sequential([keras.layers.Dense(1)], name="inner")
    assert _compat.sublayers(keras.Sequential([inner])) == [inner]


class Order(keras.callbacks.Callback):
    """Notes which hooks of a callback and of `_compat` come when."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen.append("begin")
        _compat.before_epoch_end(self.model, lambda: self.seen.append("before"))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append("batch")

    def on_test_begin(self, logs: Any = None) -> None:
        self.seen.append("test")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append("end")


def test_before_calls_and_before_epoch_end() -> None:
    model, seen = network(), []
    model.compile("sgd", loss="mse")
    remove = _compat.before_calls(model, ["make_train_function"], lambda: seen.append("first"))
    x, y = data(8)
    model.fit(x, y, validation_data=(x, y), callbacks=[Order(seen)], verbose=0)
    assert seen == ["first", "begin", "batch", "before", "test", "end"]
    remove()
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    assert len(seen) == 6
    assert not {"make_train_function", "evaluate", "_get_metrics_result_or_logs"} & set(vars(model))


def test_fit_was_interrupted() -> None:
    """On JAX it finalizes the weights; a `fit` in the handler of another exception is none."""
    seen: list[bool] = []

    class Optimizer(keras.optimizers.SGD):
        def finalize_variable_values(self, var_list: Any) -> None:
            seen.append(_compat.fit_was_interrupted())

    model = network()
    model.compile(Optimizer(0.1), loss="mse")
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: 1 / 0)
    try:
        model.fit(*data(8), callbacks=[stop], verbose=0)
    except ZeroDivisionError:
        model.fit(*data(8), verbose=0)
    assert seen == ([True, False] if BACKEND == "jax" else [False])


def test_reads_state_to_train() -> None:
    seen: list[bool] = []

    class Optimizer(keras.optimizers.SGD):
        @property
        def variables(self) -> list[Any]:
            seen.append(_compat.reads_state_to_train())
            return super().variables

    model = network()
    model.compile(Optimizer(0.1), loss="mse")
    model.fit(*data(8), verbose=0)
    assert any(seen) == (BACKEND == "jax")
    seen.clear()
    model.evaluate(*data(8), verbose=0)
    assert not any(seen)
    assert model.optimizer.variables
    assert not any(seen)


def test_trainer_trains() -> None:
    """Within `fit` and not within `evaluate`, of a model whose `call` takes no `training`."""
    seen: list[bool] = []

    class Own(keras.Model):
        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(shape[-1], 1))

        def call(self, x: Any) -> Any:
            seen.append(_compat.trainer_trains())
            return keras.ops.matmul(x, self.w)

    model = Own()
    model.build((None, 4))
    model.compile("sgd", "mse")
    x, y = data(8, outputs=1)
    model.fit(x, y, verbose=0)
    assert any(seen)
    seen.clear()
    model.evaluate(x, y, verbose=0)
    assert seen
    assert not any(seen)


def test_state_layers() -> None:
    """Their variables are trained, though they are none of the layers of a model; they go again."""
    layer = keras.layers.Dense(2)
    layer.build((1, 3))
    state = _compat.StateLayer("scales")
    state.add_weight(name="scale", shape=(2,))
    assert state.built
    _compat.add_state(layer, "state", state)
    assert len(layer.trainable_weights) == 3
    assert _compat.sublayers(layer) == []
    assert _compat.flat_layers(layer) == [layer]
    _compat.remove_state(layer, "state")
    assert len(layer.trainable_weights) == 2
    assert not hasattr(layer, "state")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's checkpoints")
def test_track_variable(tmp_path: Path) -> None:
    """SavedModels hold only variables that they find from the model."""
    import tensorflow as tf

    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    state, layer = keras.Variable([3.0, 4.0], name="more"), model.layers[0]
    dependencies = tf.train.Checkpoint(layer=layer)
    assert not any(
        "more" in key
        for key, _ in tf.train.list_variables(dependencies.write(str(tmp_path / "before")))
    )
    _compat.track_variable(layer, "more", state)
    written = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "after"))
    assert any("more" in key for key, _ in tf.train.list_variables(written))


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's trainer")
def test_in_variables_and_state_of() -> None:
    """It hands its variables from step to step, in this order."""
    model = network()
    model.compile("sgd", "mse", metrics=["mae"])
    model.train_on_batch(*data())
    state = _compat.state_of(model)
    assert [len(part) for part in state] == [
        len(model.trainable_variables),
        len(model.non_trainable_variables),
        len(model.optimizer.variables),
        len(model.metrics_variables),
    ]
    assert not model._jax_state_synced
    zeros = tuple([0 * x for x in part] for part in state)
    _compat.in_variables(model, zeros)
    assert not any(np.any(w) for w in model.get_weights())
    assert int(model.optimizer.iterations) == 0
