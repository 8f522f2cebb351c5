"""Replicas: the gradient is rounded after it is summed over them, and all of them hold what one
process gets.
"""

from __future__ import annotations

import pytest

from tests.adapters.keras.conftest import BACKEND
from tests.adapters.keras.test_saving import run

MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def replicas(v):
    return [value.numpy() for value in strategy.experimental_local_results(v.value)]

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


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_mirrored_replicas_hold_what_one_process_gets() -> None:
    done = run(MIRRORED)
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution shards on JAX")
@pytest.mark.parametrize("parallel", ["data", "model"])
def test_sharded_training_gives_the_bits_of_one_device(parallel: str) -> None:
    done = run(SHARDED, parallel, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert done.stdout.strip() == "equal", done.stderr
