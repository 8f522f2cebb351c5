"""Delayed scaling: scales are state of the layers, which is saved, and undone."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import (
    Monitor,
    QuantizedOptimizer,
    disabled,
    emulate,
    quantize_elementwise,
    quantize_gemms,
    swap_average,
    unquantize_gemms,
)

from qemu_swalp import quantize
from qemu_swalp.training import Recipe, recipe
from tests.helpers.keras_native import BACKEND, MODES, normal, numpy, same, traced
from tests.helpers.keras_training import gradients

DELAYED = recipe("fp8_delayed", history=3)
E4M3 = "block<e4m3fn,scale=float<8,23>>"


def network():
    """With a convolution on PyTorch, where it takes no time to compile."""
    keras.utils.set_random_seed(3)
    if BACKEND == "torch":
        first = layers.Conv2D(3, 2, activation="relu", name="first")
    else:
        first = layers.EinsumDense("bhwc,co->bhwo", (6, 6, 3), name="first")
    return keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            first,
            layers.Flatten(name="flat"),
            layers.Dense(2, name="fc"),
        ]
    )


def trained(model, seeds, **options):
    for seed in seeds:
        x = normal((8, 6, 6, 2), seed) * np.float32(3.0 ** (seed % 3))
        model.fit(x, normal((8, 2), seed + 50), verbose=0, shuffle=False, **options)
    return model


def states(model):
    found = {}
    for layer in model.layers:
        if hasattr(layer, "delayed_scales"):
            found |= {f"{layer.name}.{v.name}": numpy(v) for v in layer.delayed_scales.weights}
    return found


def test_scales_of_tiny_numbers():
    """448/1e-37 overflows: the scale is the least normal number."""
    model = keras.Sequential([layers.Input((2,)), layers.Dense(1, use_bias=False, name="fc")])
    quantize_gemms(model, recipe("fp8_delayed", history=1))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    for _ in range(3):
        model.fit(np.full((4, 2), 1e-37, np.float32), np.ones((4, 1)), verbose=0)
        assert np.isfinite(model.predict(np.ones((4, 2), np.float32), verbose=0)).all()
    assert states(model)["fc.input"][0] == np.float32(2.0**-126)


@pytest.mark.parametrize("wrapped", [True] if BACKEND == "tensorflow" else [False, True])
def test_a_saved_model_resumes_to_the_bit(tmp_path, wrapped):
    model = quantize_gemms(network(), DELAYED)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.5)
    if wrapped:
        optimizer = QuantizedOptimizer(optimizer, Recipe(weight="bf16/stochastic"), swa_start=0)
    model.compile(optimizer, "mse")
    trained(model, range(3)).save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    again = keras.models.load_model(tmp_path / "model.keras")
    fresh = quantize_gemms(network(), DELAYED)
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert len(states(model)) == 6
    for name, state in states(model).items():
        same(states(again)[name], state)
        same(states(fresh)[name], state)
        assert np.count_nonzero(state) == 5, name
    for each in (model, again):
        trained(each, range(3, 5))
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        same(a, b)
    if wrapped:
        before = states(model)
        assert not any("scale" in name for name in model.optimizer.average())
        with swap_average(model):
            for name, state in states(model).items():
                same(state, before[name])


def test_scales_by_hand():
    layer = layers.Dense(4, use_bias=False, kernel_initializer="identity")
    model = keras.Sequential([layers.Input((4,)), layer])
    quantize_gemms(
        model, Recipe(operands={"input": E4M3}, scaling={"input": "delayed<2,margin=1>"})
    )
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=BACKEND != "jax")
    seen, scale = [], np.float32(1)
    for step in range(4):
        x = normal((5, 4), step) * np.float32(10.0 ** (step % 3))
        same(model.predict(x, verbose=0), quantize(x, E4M3, scales=scale))
        model.train_on_batch(x, x)
        seen = [np.abs(x).max(), *seen][:2]
        scale = np.float32(1) / (np.float32(448) / max(seen) / np.float32(2))
        (state,) = layer.delayed_scales.weights
        assert numpy(state).tolist()[:2] == [scale, seen[0]]


def test_scales_of_a_convolution_by_hand():
    layer = layers.Conv2D(2, 3, padding="same", use_bias=False)
    model = keras.Sequential([layers.Input((4, 4, 1)), layer])
    layer.kernel.assign(normal((3, 3, 1, 2), 9))
    quantize_gemms(model, DELAYED)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    for step in range(2):
        x, target = normal((2, 4, 4, 1), step), normal((2, 4, 4, 2), 5 + step)
        error = (model.predict_on_batch(x) - target) / np.float32(target.size // 2)
        model.train_on_batch(x, target)
        seen = {"input": x, "weight": layer.kernel, "error": error}
        for variable in layer.delayed_scales.weights:
            amax = np.abs(numpy(seen[variable.name])).max()
            assert numpy(variable)[1] == amax, variable.name
            assert np.count_nonzero(numpy(variable)) == 3 + step


def test_undoing_disabling_and_reporting():
    plain = network()
    weights = len(plain.weights)
    model, _ = emulation = emulate(plain, None, DELAYED)
    x = normal((2, 6, 6, 2))
    model(x)
    assert "scale of error" in str(emulation)
    assert "delayed<3>" in str(emulation)
    assert len(model.weights) == weights + 6
    quantize_elementwise(model, Recipe(elementwise="bf16"), exclude="flat")
    model.compile("sgd", "mse")
    trained(model, range(1))
    assert all(np.count_nonzero(state) == 3 for state in states(model).values())
    before = states(model)
    with disabled(model):
        trained(model, range(1))
    for name, state in states(model).items():
        same(state, before[name])
    assert len(unquantize_gemms(model).weights) == weights
    quantize_gemms(model, DELAYED)
    assert all(state[0] == 1 for state in states(model).values())


def test_an_error_of_zero_and_monitoring():
    model = quantize_gemms(network(), DELAYED)
    model.compile("sgd", "mse")
    monitor = Monitor(normal((4, 6, 6, 2)), normal((4, 2)))
    trained(model, range(2), callbacks=[monitor])
    assert "wgrad.error" in str(monitor)


class Own(keras.Model):
    """A subclassed model, whose products are known when it is called."""

    def __init__(self, twice=False):
        super().__init__()
        self.fc, self.twice = layers.Dense(3, name="fc"), twice

    def build(self, shape):
        self.w = self.add_weight(shape=(3, 2), name="w")
        self.fc.build(shape)

    def call(self, x, training=False):
        x = self.fc(x)
        return ops.matmul(self.fc(x) if self.twice else x, self.w)


def test_a_subclassed_model():
    model = quantize_gemms(Own(), DELAYED)
    model.compile("sgd", "mse")
    x, y = normal((4, 3)), normal((4, 2))
    model.fit(x, y, verbose=0)
    names = [v.name for v in model.delayed_scales.weights]
    assert names == ["input_fc_0", "weight_fc_0", "error_fc_0", "input", "weight", "error"]
    assert all(np.count_nonzero(numpy(v)) == 3 for v in model.delayed_scales.weights)


def test_what_has_no_scale_of_its_own_is_refused():
    x, y = normal((4, 3)), normal((4, 2))
    late = Own()
    late(x)
    quantize_gemms(late, DELAYED)
    if BACKEND == "jax":  # whose training steps make no variables
        with pytest.raises(ValueError, match="call the model once on a batch, in inference"):
            late(x, training=True)
        late(x)
    late(x, training=True)
    recurrent = keras.Sequential([layers.Input((5, 3)), layers.SimpleRNN(2, name="rnn")])
    shared = layers.Dense(3, name="shared")
    inputs = layers.Input((3,))
    for model, given in (
        (recurrent, normal((4, 5, 3))),
        (keras.Model(inputs, layers.Dense(2)(shared(shared(inputs)))), x),
    ):
        quantize_gemms(model, DELAYED)
        model.compile("sgd", "mse", run_eagerly=True)
        with pytest.raises(ValueError, match="makes it several times"):
            model.fit(given, y, verbose=0)


def test_a_step_by_hand_that_calls_the_model_twice_is_told():
    """Gradients of one step add up, and the scales with them."""
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3, name="fc")])
    quantize_gemms(model, DELAYED)
    x, weights = normal((2, 4), 1), model.trainable_variables
    for calls in (1, 2):
        twice = lambda x, n=calls: sum(model(x * k, training=True) for k in range(1, n + 1))  # noqa: E731
        _, _, found = gradients(twice, weights, np.ones((2, 3), "float32"), x)
        for variable, gradient in zip(weights, found, strict=True):
            if "scales" in variable.path:
                variable.assign(gradient)
        if calls == 1:
            model(x)
    with pytest.raises(ValueError, match="layer 'fc' made it several times; exclude the layer"):
        model(x)
    values = [v.value for v in model.variables]

    def stateless(x, values=None):
        """On JAX a step has its variables as arguments."""
        held = zip(model.variables, values or (), strict=False)
        with keras.StatelessScope(list(held)) if values else nullcontext():
            return model(x)

    for mode in MODES[1:]:  # programs tell by their numbers
        given = (values,) if BACKEND == "jax" else ()
        assert np.isnan(numpy(traced(stateless, mode)(ops.convert_to_tensor(x), *given))).all()


def test_files_without_the_number_of_backwards_are_read():
    """As they were before the state had it."""
    model = quantize_gemms(network(), DELAYED)
    model.compile("sgd", "mse")
    x = normal((4, 6, 6, 2))
    model.fit(x, normal((4, 2)), verbose=0)
    scales = model.get_layer("fc").delayed_scales
    store = {}
    scales.save_own_variables(store)
    older = {key: np.array(value)[:-1] for key, value in store.items()}
    for variable in scales.variables:
        variable.assign(variable * 0)
    scales.load_own_variables(older)
    for key, variable in zip(store, scales.variables, strict=True):
        assert np.array_equal(numpy(variable), store[key])


def test_layers_are_frozen_before_and_after():
    """Their weights stay, and their scales follow what they multiply, in files as well."""
    x, y = normal((4, 6, 6, 2)), normal((4, 2))
    model, early = quantize_gemms(network(), DELAYED), network()
    early.get_layer("fc").trainable = False
    for each in (model, quantize_gemms(early, DELAYED)):
        each.compile("sgd", "mse")
        each.fit(x, y, verbose=0)
    model.get_layer("fc").trainable = False
    assert np.isfinite(model.predict(x, verbose=0)).all()  # before it is compiled anew
    model.compile("sgd", "mse")
    assert len(states(model)) == len(states(early)) == 6
    for each in (model, early):
        weights = [numpy(v) for v in (each.get_layer("fc").kernel, each.get_layer("fc").bias)]
        held = states(each)
        each.fit(x * 3, y, verbose=0)
        for name, state in states(each).items():
            assert not np.array_equal(state, held[name]), name
        same(each.get_layer("fc").kernel, weights[0])
        same(each.get_layer("fc").bias, weights[1])
    store, scales = {}, model.get_layer("fc").delayed_scales
    scales.save_own_variables(store)
    for cut in (None, -1):  # older files lack the last element
        held = {key: np.array(value)[:cut] for key, value in store.items()}
        for variable in scales.variables:
            variable.assign(variable * 0)
        scales.load_own_variables(held)
        for key, variable in zip(store, scales.variables, strict=True):
            same(variable, store[key])
    trained = [v.path for v in model.trainable_variables]
    assert sum("_scales" in path for path in trained) == 6
    assert not any(path.endswith("fc/kernel") for path in trained)
