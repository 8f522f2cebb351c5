"""Replicas: the gradient is rounded after it is summed over them, and all of them hold what one
process gets; what each rounds within the model has random bits of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters.keras.conftest import BACKEND
from tests.adapters.keras.test_saving import run

TWO_REPLICAS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def replicas(v):
    held = v.value if isinstance(v, keras.Variable) else v
    return [value.numpy() for value in strategy.experimental_local_results(held)]
"""

MIRRORED = """
with strategy.scope():
    optimizer = exact.optimizer(recipe=exact.MASTER, weight_decay=0.25)
    model = exact.compiled(exact.network(), optimizer)
exact.fit(model)
expected = exact.trained(16, exact.MASTER, decay=0.25)
exact.assert_as_expected(model, expected)
for v in [*model.weights, *optimizer.variables]:
    first, *others = replicas(v)
    assert all(np.array_equal(first, other) for other in others), v.path
assert len(replicas(model.weights[0])) == 2
with optimizer.swap():
    means = optimizer.average().values()
    assert all(np.array_equal(copy, mean) for v, mean in zip(model.weights, means)
               for copy in replicas(v))
exact.assert_as_expected(model, expected)
print("equal")
"""

EMULATED = """
import qemu_swalp as q
from qemu_swalp.training import Recipe
from qemu_swalp_keras import emulate

FORM = "fixed<8,4>/stochastic"

def noise_is_of_the_replica(role, recipe):
    with strategy.scope():
        layer = keras.layers.Rescaling(1.0) if "elementwise" in recipe.sections else (
            keras.layers.Dense(4, use_bias=False, kernel_initializer="identity"))
        model = keras.Sequential([keras.Input((4,)), layer])
    model, _ = emulate(model, None, recipe, seed=9)
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype("float32")
    parts = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(x[context.replica_id_in_sync_group]))
    call = lambda x: strategy.run(lambda x: model(x, training=True), (x,))
    for step, call in enumerate((call, tf.function(call, autograph=False))):
        for r, y in enumerate(replicas(call(parts))):
            stream = q.stream_id(role + ("@1" if r else ""), 1)
            expected = q.quantize(
                x[r], "fixed<8,4>", "stochastic", random=q.RandomBits(9, stream, step))
            assert np.array_equal(y, expected), (role, step, r)

noise_is_of_the_replica("forward.input", Recipe(operands={"input": FORM}))
noise_is_of_the_replica("activation", Recipe(activation=FORM))
noise_is_of_the_replica("forward.multiply.0", Recipe(elementwise={"forward.multiply": FORM}))

def made(recipe):
    with strategy.scope():
        layers = keras.layers.Dense(5, "tanh"), keras.layers.Dense(2)
        model = keras.Sequential([keras.Input((4,)), *layers])
        rng = np.random.default_rng(1)
        model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    average = {"start": 2, "finalize": False}
    model, optimizer = emulate(model, "sgd", recipe, seed=9, average=average)
    model.compile(optimizer, "mse")
    return model

def fit(model):
    x, y = exact.X[:19], exact.Y[:19]  # of the last batch the replicas get 2 and 1
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)

def state(model):
    return [*model.variables, *model.optimizer.variables]

recipe = Recipe(
    weight=FORM, gradient=FORM, activation=FORM, error=FORM, elementwise="bf16/stochastic",
    operands=dict.fromkeys(("input", "weight", "error"), FORM))
model, again = made(recipe), made(recipe)
fit(model)
model.save(sys.argv[1])
with strategy.scope():
    loaded = keras.models.load_model(sys.argv[1])
for each in (model, loaded, again, again):
    fit(each)
assert model.layers[0].rounding_state.state.numpy().tolist() == [6, 0, 1]
for v, *others in zip(state(model), state(again), state(loaded), strict=True):
    values = [part for w in (v, *others) for part in replicas(w)]
    assert len(values) == 6, v.path
    assert all(np.array_equal(values[0], value) for value in values), v.path
for weight in model.trainable_variables:
    assert np.array_equal(weight, q.quantize(np.asarray(weight), "fixed<8,4>", "toward_zero"))
try:
    fit(made("fp8_delayed"))
except ValueError as error:
    assert "which the replicas of tf.distribute do not share" in str(error)
    print("equal")
"""

AROUND_TRAINING = """
from contextlib import nullcontext
from qemu_swalp.training import Phases, Recipe
from qemu_swalp_keras import Monitor, emulate, update_bn

COARSE = Recipe(weight="fixed<4,2>/nearest_even")
PHASES = Phases({0: Recipe(weight="fixed<8,6>/nearest_even"), 2: COARSE})
X = exact.X[:16]

def made(scope):
    keras.utils.set_random_seed(3)
    with scope:
        layers = keras.layers.Dense(5), keras.layers.BatchNormalization(), keras.layers.Dense(4)
        model = keras.Sequential([keras.Input(X.shape[1:]), *layers])
        model, optimizer = emulate(model, keras.optimizers.SGD(0.25), PHASES)
        model.compile(optimizer, "mse", jit_compile=False)
    return model

model, alone = made(strategy.scope()), made(nullcontext())
for each in (model, alone):
    update_bn(X, each)
assert all(map(np.array_equal, model.get_weights(), alone.get_weights()))
model.fit(X, np.ones((16, 4)), batch_size=8, epochs=2, verbose=0)
assert model.optimizer.phase.since == 2
for weight in model.trainable_variables:
    first, second = replicas(weight)
    assert np.array_equal(first, second)
    assert np.array_equal(first, np.round(first * 4) / 4), weight.path
try:
    Monitor(X, np.ones((16, 4))).watch(model)
except ValueError as error:
    assert "has 2 replicas, and figures of updates would count each" in str(error)
    print("equal")
"""

SHARDED = """
import jax
from keras import distribution as d

devices = d.list_devices()
assert len(devices) == 4
if sys.argv[1] == "data":
    d.set_distribution(d.DataParallel(devices=devices))
else:
    mesh = d.DeviceMesh((2, 2), ["batch", "model"], devices)
    layout = d.LayoutMap(mesh)
    layout["net/layer/kernel"] = (None, "model")
    layout["net/layer/bias"] = ("model",)
    d.set_distribution(d.ModelParallel(layout_map=layout, batch_dim_name="batch"))
model = exact.compiled()
exact.fit(model)
kernel = model.weights[0].value.sharding
assert kernel.is_fully_replicated == (sys.argv[1] == "data")
for v in model.optimizer.variables:
    if v.shape == model.weights[0].shape:
        assert v.value.sharding.is_equivalent_to(kernel, 2), v.path
exact.assert_as_expected(model, exact.trained(16))
with model.optimizer.swap():
    pairs = zip(model.get_weights(), model.optimizer.average().values())
    assert all(np.array_equal(w, mean) for w, mean in pairs)
    assert model.weights[0].value.sharding.is_equivalent_to(kernel, 2)
exact.fit(model)
exact.assert_as_expected(model, exact.trained(32))
print("equal")
"""


EMULATED_SHARDED = """
from keras import distribution as d
from qemu_swalp.training import Recipe
from qemu_swalp_keras import emulate

FORM = "fixed<8,4>/stochastic"
ELEMENTWISE = {"forward.multiply": FORM} if sys.argv[1] == "data" else {}
RECIPE = Recipe(
    weight=FORM, activation=FORM, error="fixed<8,6>/stochastic", elementwise=ELEMENTWISE,
    operands=dict.fromkeys(("input", "weight", "error"), FORM))

def fitted(model=None):
    if model is None:
        layers = keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")
        model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Rescaling(0.5)])
        rng = np.random.default_rng(1)
        model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
        model, optimizer = emulate(model, keras.optimizers.SGD(2.0**-3), RECIPE, seed=9)
        model.compile(optimizer, "mse")
    model.fit(exact.X[:24], exact.Y[:24], batch_size=8, shuffle=False, verbose=0)
    return model

def state(model):
    return [np.asarray(v) for v in [*model.variables, *model.optimizer.variables]]

alone = fitted()
devices = d.list_devices()
assert len(devices) == 4
if sys.argv[1] == "data":
    d.set_distribution(d.DataParallel(devices=devices))
else:
    layout = d.LayoutMap(d.DeviceMesh((2, 2), ["batch", "model"], devices))
    layout[".*a/kernel"], layout[".*a/bias"] = (None, "model"), ("model",)
    layout[".*b/kernel"] = ("model", None)
    d.set_distribution(d.ModelParallel(layout_map=layout, batch_dim_name="batch"))
sharded = fitted()
assert sharded.weights[0].value.sharding.is_fully_replicated == (sys.argv[1] == "data")
assert all(map(np.array_equal, state(alone), state(sharded)))
sharded.save(sys.argv[2])
fitted(alone)
d.set_distribution(None)
loaded = fitted(keras.models.load_model(sys.argv[2]))
assert all(map(np.array_equal, state(alone), state(loaded)))
print("equal")
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_mirrored_replicas_hold_what_one_process_gets() -> None:
    done = run(TWO_REPLICAS + MIRRORED)
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_each_mirrored_replica_has_random_bits_of_its_own(tmp_path: Path) -> None:
    done = run(TWO_REPLICAS + EMULATED, str(tmp_path / "model.keras"))
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_statistics_phases_and_figures_of_mirrored_replicas() -> None:
    done = run(TWO_REPLICAS + AROUND_TRAINING)
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution shards on JAX")
@pytest.mark.parametrize("parallel", ["data", "model"])
def test_sharded_training_gives_the_bits_of_one_device(parallel: str) -> None:
    done = run(SHARDED, parallel, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution shards on JAX")
@pytest.mark.parametrize("parallel", ["data", "model"])
def test_sharded_models_round_as_on_one_device(parallel: str, tmp_path: Path) -> None:
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    flags += " --xla_llvm_disable_expensive_passes=true"
    path = str(tmp_path / "model.keras")
    done = run(EMULATED_SHARDED, parallel, path, XLA_FLAGS=flags)
    assert done.stdout.strip() == "equal", done.stderr
