"""The layer `Quantize` and models rebuilt with it: the core's bits in every way Keras runs a
model.
"""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import Quantize, disabled, quantize_activations, unquantize_activations

from qemu_swalp import RandomBits, stream_id
from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, MODES, normal, numpy, pull_back, same, traced

STOCHASTIC = Recipe(activation="fixed<8,3>/stochastic", error="fixed<12,8>/stochastic")
NEAREST = Recipe(activation="fixed<8,4>/nearest_even", error="e5m2/nearest_even")
BLOCKS = Recipe(activation="bfp<4,axis=0>/stochastic", error="bfp<6>/stochastic_b<8>")
SEED = 2**64 - 1
RUNS = {
    "auto": {"jit_compile": "auto"},
    "jit": {"jit_compile": True},
    "no jit": {"jit_compile": False},
    "eager": {"run_eagerly": True},
}
if BACKEND == "torch":
    del RUNS["jit"]  # it needs a C++ compiler; see test_compiled_by_torch


def bits(role, place, call, seed=SEED):
    return RandomBits(seed, stream_id(role, place), call)


@keras.saving.register_keras_serializable(package="tests")
class Offset(layers.Layer):
    """x + w, so that the gradient of w is the error."""

    def build(self, shape):
        self.w = self.add_weight(shape=shape[1:], initializer="zeros", name="w")

    def call(self, x):
        return x + self.w


@keras.saving.register_keras_serializable(package="tests")
class Product(keras.losses.Loss):
    """⟨y, y_pred⟩ summed over the batch: its gradient is y."""

    def __init__(self, reduction="sum", name="product"):
        super().__init__(name=name, reduction=reduction)

    def call(self, y, y_pred):
        return ops.sum(y * y_pred, axis=-1)


def offset_model(recipe=STOCHASTIC, features=5, **run):
    model = keras.Sequential([layers.Input((features,)), Offset(name="offset")])
    quantized = quantize_activations(model, recipe, layers="offset", seed=SEED)
    quantized.compile(keras.optimizers.SGD(1.0), loss=Product(), **run)
    return quantized


class ByHand:
    """What offset_model computes, in NumPy."""

    def __init__(self, recipe=STOCHASTIC, features=5):
        self.recipe, self.w = recipe, np.zeros(features, np.float32)
        self.calls = self.evaluations = 0

    def forward(self, x):
        """Evaluation, which has random steps of its own (clause RNG-5)."""
        self.evaluations += 1
        step = 2**30 + self.evaluations - 1
        return self.recipe.activation(x + self.w, bits("activation", 1, step))

    def step(self, x, y):
        activation = self.recipe.activation(x + self.w, bits("activation", 1, self.calls))
        self.w = self.w - self.recipe.error(y, bits("error", 1, self.calls)).sum(0)
        self.calls += 1
        return (activation * y).sum()


def batches(*arrays, size=4):
    return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(arrays[0]), size)]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    "recipe",
    [STOCHASTIC, Recipe(activation="fixed<8,3>/stochastic", error="fixed<12,8>/nearest_even")],
    ids=["stochastic", "nearest error"],
)
def test_fit_evaluate_and_predict_have_the_cores_bits_and_count_calls(run, recipe):
    """Sums of fixed-point errors are exact, in any order."""
    model, by_hand = offset_model(recipe, **RUNS[run]), ByHand(recipe)
    x, y = normal((11, 5), 1), normal((11, 5), 2) / 4  # the last batch is of 3
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for _ in range(2):
        for batch in batches(x, y):
            by_hand.step(*batch)
    same(model.get_layer("offset").w, by_hand.w)
    site = model.get_layer("offset_quantize")
    assert int(site.calls) == by_hand.calls == 6
    same(
        model.predict(x, batch_size=4, verbose=0),
        np.concatenate([by_hand.forward(a) for (a,) in batches(x)]),
    )
    model.evaluate(x, y, batch_size=4, verbose=0)
    by_hand.evaluations += 3
    assert (int(site.calls), int(site.evaluations)) == (6, 6)
    model.fit(
        x,
        y,
        batch_size=4,
        shuffle=False,
        verbose=0,
        validation_data=(x, y),
        validation_batch_size=11,
    )
    for batch in batches(x, y):
        by_hand.step(*batch)
    same(model.get_layer("offset").w, by_hand.w)
    assert (int(site.calls), int(site.evaluations)) == (9, 7)
    same(model(x), by_hand.recipe.activation(x + by_hand.w, bits("activation", 1, 2**30 + 7)))


def test_compiled_by_torch():
    if BACKEND != "torch":
        pytest.skip("torch.compile is PyTorch's")
    model, by_hand = offset_model(jit_compile=True), ByHand()
    x, y = normal((8, 5), 1), normal((8, 5), 2) / 4
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for batch in batches(x, y) * 2:
        by_hand.step(*batch)
    same(model.get_layer("offset").w, by_hand.w)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "recipe",
    [
        STOCHASTIC,
        NEAREST,
        BLOCKS,
        Recipe(activation="e4m3fn/stochastic"),
        Recipe(error="bfp8/stochastic"),
    ],
    ids=["stochastic", "nearest", "blocks", "activation", "error"],
)
def test_the_layer_in_a_custom_loop(mode, recipe):
    layer = Quantize(recipe.activation, recipe.error, seed=5, place=7)
    x, upstream = normal((3, 4), 1), normal((3, 4), 2)
    if BACKEND == "jax":

        def both(variables, x, upstream):
            def call(x):
                y, written = layer.stateless_call([], variables, x, training=True)
                return y, written

            import jax

            y, pull, written = jax.vjp(call, x, has_aux=True)
            return (y, pull(upstream)[0]), written

        function, variables = traced(both, mode), [v.value for v in layer.variables]
        results = []
        for _ in range(3):
            result, variables = function(variables, x, upstream)
            results.append(result)
    else:
        function = traced(
            lambda x, upstream: pull_back(lambda x: layer(x, training=True), x, upstream), mode
        )
        results = [
            function(ops.convert_to_tensor(x), ops.convert_to_tensor(upstream)) for _ in range(3)
        ]
        variables = layer.variables
    for call, (y, gradient) in enumerate(results):
        same(
            y,
            x
            if recipe.activation is None
            else recipe.activation(x, bits("activation", 7, call, 5)),
        )
        same(
            gradient,
            upstream if recipe.error is None else recipe.error(upstream, bits("error", 7, call, 5)),
        )
    assert int(variables[0]) == (0 if recipe is NEAREST else 3)


def test_bits_are_those_of_the_torch_adapter():
    import torch
    from qemu_swalp_torch import quantize_activations as in_torch

    class Times2(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    recipe = Recipe(activation="bfp<4,axis=0>/stochastic", error="e4m3fn/stochastic")
    module = torch.nn.Sequential(Times2(), torch.nn.Identity(), Times2())
    in_torch(module, recipe, modules=Times2, seed=3)
    model = keras.Sequential(
        [layers.Input((6,)), layers.Rescaling(2.0), layers.Identity(), layers.Rescaling(2.0)]
    )
    quantized = quantize_activations(model, recipe, layers=layers.Rescaling, seed=3)
    given = normal((4, 6))
    for _ in range(2):
        y, gradient = pull_back(
            lambda x: quantized(x, training=True),
            ops.convert_to_tensor(given),
            ops.convert_to_tensor(given),
        )
        x = torch.tensor(given, requires_grad=True)
        out = module(x)
        out.backward(torch.tensor(given))
        same(y, out.detach().numpy())
        same(gradient, x.grad.numpy())


def test_the_given_model_stays_the_view_without_rounding():
    model = keras.Sequential([layers.Input((5,)), Offset(name="offset"), layers.Dense(3)])
    x = normal((4, 5))
    plain = numpy(model(x))
    quantized = quantize_activations(model, NEAREST)
    assert type(quantized) is keras.Sequential
    assert quantized.trainable_variables == model.trainable_variables
    assert np.any(numpy(quantized(x)) != plain)
    same(model(x), plain)
    same(unquantize_activations(quantized)(x), plain)
    quantized.compile(keras.optimizers.SGD(0.1), loss="mse")
    quantized.fit(x, normal((4, 3)), verbose=0)
    assert np.any(numpy(model(x)) != plain)
    same(unquantize_activations(quantized)(x), model(x))


@pytest.mark.parametrize("run", RUNS)
def test_disabling_needs_no_new_compilation_and_leaves_the_random_bits_in_place(run):
    x, y = normal((8, 5), 1), np.round(normal((8, 5), 2) * 8) / 8  # sums are exact
    model = offset_model(**RUNS[run])
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    w = numpy(model.get_layer("offset").w)
    by_hand = ByHand()
    by_hand.w, by_hand.calls = w, 2
    for _ in range(2):
        same(model.predict(x, verbose=0), by_hand.forward(x))
        with disabled(model):
            with disabled(model):
                same(model.predict(x, verbose=0), x + w)
            same(model.predict(x, verbose=0), x + w)
            same(model(x), x + w)
    with disabled(model):
        model.fit(x, y, batch_size=8, verbose=0)
    same(model.get_layer("offset").w, w - y.sum(0))
    assert int(model.get_layer("offset_quantize").calls) == 2
    assert int(model.get_layer("offset_quantize").evaluations) == 2
    with pytest.raises(KeyError), disabled(model):
        raise KeyError
    assert int(model.get_layer("offset_quantize").enabled) == 1


def test_disabling_within_a_callback_of_fit():
    x, y = normal((8, 5), 1), normal((8, 5), 2)
    seen = []

    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with disabled(self.model):
                seen.append(
                    (
                        numpy(self.model.get_layer("offset").w + 0),
                        self.model.evaluate(x, y, verbose=0),
                    )
                )

    model, by_hand = offset_model(), ByHand()
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[Evaluate()])
    for (w, loss), part in zip(seen, (batches(x, y), batches(x, y)), strict=True):
        for batch in part:
            by_hand.step(*batch)
        same(w, by_hand.w)
        assert loss == pytest.approx(((x + w) * y).sum(), rel=1e-5)


@pytest.mark.parametrize("run", RUNS)
def test_what_looks_at_a_model_does_not_change_its_training(run):
    x, y = normal((8, 5), 1), normal((8, 5), 2)
    weights = []
    for validation in ({}, {"validation_data": (x, y)}):
        model = offset_model(**RUNS[run])
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, **validation)
        if validation:
            model.evaluate(x, y, verbose=0)
            model.predict(x, verbose=0)
            model(x)
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        weights.append(model.get_layer("offset").w)
    same(*weights)


def test_a_saved_run_goes_on_with_the_bits_of_an_unbroken_one(tmp_path):
    x, y = normal((8, 5), 1), normal((8, 5), 2)
    model = offset_model()
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fresh = offset_model()
    fresh.load_weights(tmp_path / "model.weights.h5")
    cloned = keras.models.clone_model(model)
    cloned.set_weights(model.get_weights())
    for other in (loaded, fresh, cloned):
        assert (
            other.get_layer("offset_quantize").get_config()
            == model.get_layer("offset_quantize").get_config()
        )
        assert int(other.get_layer("offset_quantize").calls) == 2
    for _ in range(2):
        expected = model.predict(x, verbose=0)
        for other in (loaded, fresh, cloned):
            same(other.predict(x, verbose=0), expected)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    loaded.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    same(loaded.get_layer("offset").w, model.get_layer("offset").w)
    with disabled(model):
        model.save(tmp_path / "disabled.keras")
    assert (
        int(
            keras.models.load_model(tmp_path / "disabled.keras")
            .get_layer("offset_quantize")
            .enabled
        )
        == 1
    )


ELSEWHERE = """
import sys, numpy as np, keras, qemu_swalp_keras
model = keras.models.load_model(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], np.stack([model.predict(x, verbose=0) for _ in range(2)]))
"""


def test_a_saved_model_goes_on_on_another_backend(tmp_path):
    other = {"tensorflow": "torch", "jax": "tensorflow", "torch": "jax"}[
        BACKEND
    ]  # the other way round in test_saving
    model = keras.Sequential(
        [
            layers.Input((5,)),
            Quantize("bfp<4,axis=0>", seed=SEED, place=3),
            layers.Reshape((5, 1)),
            Quantize("e4m3fn/stochastic_c<8>", seed=SEED, place=4),
        ]
    )
    x = normal((4, 5))
    model(x)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ELSEWHERE,
            *(str(tmp_path / f) for f in ("model.keras", "x.npy", "y.npy")),
        ],
        env={**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same(np.load(tmp_path / "y.npy"), np.stack([model.predict(x, verbose=0) for _ in range(2)]))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_rounds_in_the_dtype_that_comes(policy):
    if BACKEND == "jax" and policy == "float64":
        pytest.skip("JAX has no float64 by default")
    dtype = policy.removeprefix("mixed_")
    model = keras.Sequential(
        [
            layers.Input((5,), dtype="float32"),
            layers.Dense(4, dtype=policy, name="dense"),
            layers.Dense(3, dtype="float32", name="head"),
        ]
    )
    quantized = quantize_activations(
        model, Recipe(activation="fixed<8,3>/stochastic", error="fixed<8,6>/stochastic")
    )
    dense = quantized.get_layer("dense_quantize")
    out = dense(model.get_layer("dense")(normal((2, 5))))
    assert keras.backend.standardize_dtype(out.dtype) == dtype
    exact = numpy(ops.cast(out, "float64" if policy == "float64" else "float32"))
    assert np.array_equal(exact * 8, np.round(exact * 8))
    assert keras.backend.standardize_dtype(quantized(normal((2, 5))).dtype) == "float32"
    quantized.compile(keras.optimizers.SGD(0.1), loss="mse")
    quantized.fit(normal((4, 5)), normal((4, 3)), verbose=0)
    assert quantized.outputs[0].dtype == "float32"
