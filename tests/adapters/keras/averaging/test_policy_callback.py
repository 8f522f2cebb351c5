"""Any averaging policy over a model in `fit`: the core's average of the weights that each step
left.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import SGD, PolicyAverage, update_bn

from qemu_swalp.training import ASWA, EMA, LAWA, SQWA, Averaging, Policy, Recipe, swalp
from tests.adapters.keras.averaging.test_swalp import EPOCH, Recorder, compiled
from tests.adapters.keras.conftest import BACKEND, data, network, same


def expected_of(policy: Policy, steps: list[list[np.ndarray]]) -> list[np.ndarray]:
    state = policy.init()
    for step, weights in enumerate(steps, 1):
        state = policy.update({f"{i}": w for i, w in enumerate(weights)}, state, step)
    return list(policy.average(state).values())


def test_the_average_is_the_cores() -> None:
    policies: list[Policy] = [
        EMA(3, decay=0.75, quantizer="bfp8/stochastic"),  # type: ignore[arg-type]
        LAWA(0, EPOCH, size=2),
        SQWA(EPOCH, EPOCH, captures=1, quantizer="bfp<4,axis=0>/stochastic"),
    ]  # type: ignore[arg-type]
    averages, recorder = [PolicyAverage(policy) for policy in policies], Recorder()
    model = compiled(SGD(0.1, recipe=swalp(8)), jit_compile=False)
    for _ in range(2):  # steps are counted over both
        model.fit(
            *data(),
            batch_size=8,
            epochs=2,
            shuffle=False,
            callbacks=[recorder, *averages],
            verbose=0,
        )
    assert len(recorder.steps) == 4 * EPOCH
    last = model.get_weights()
    for policy, average in zip(policies, averages, strict=True):
        expected = expected_of(policy, recorder.steps)
        assert same(list(average.average().values()), expected)
        with average.swap() as swapped:
            assert same(swapped.get_weights(), expected)
        assert same(model.get_weights(), last)


def test_axis_words_are_those_of_the_layers() -> None:
    makers: list[Any] = [EMA, LAWA, SQWA, Averaging]
    for make in makers:
        words, recorder = PolicyAverage(make(quantizer="bfp<4,axis=out>/nearest_even")), Recorder()
        model = compiled(SGD(0.1, recipe=Recipe(weight="fp16")), jit_compile=False)
        model.fit(*data(), batch_size=8, shuffle=False, callbacks=[recorder, words], verbose=0)
        numbers = make(quantizer="bfp<4,axis=-1>/nearest_even")  # of Dense kernels
        vectors = make(quantizer="bfp<4>/nearest_even")
        expected = [
            (numbers if array.ndim > 1 else vectors, i) for i, array in enumerate(recorder.steps[0])
        ]
        parts = [
            expected_of(policy, [[step[i]] for step in recorder.steps])[0] for policy, i in expected
        ]
        assert same(list(words.average().values()), parts)


def test_a_layout_of_ones_own_goes_before_and_an_unknown_one_is_refused() -> None:
    class Own(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(shape[-1], 3), name="w")

        def call(self, x: Any) -> Any:
            return keras.ops.matmul(x, self.w)

    model = keras.Sequential([keras.layers.Input((4,)), Own(name="own")])
    model.compile("sgd", loss="mse")
    x, y = np.ones((8, 4), np.float32), np.ones((8, 3), np.float32)
    average = PolicyAverage(EMA(quantizer="bfp<4,axis=out>/nearest_even"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"own/w, of shape .*the word 'out'.*Own\.w"):
        model.fit(x, y, callbacks=[average], verbose=0)
    path = model.trainable_variables[0].path
    known = EMA(quantizer="bfp<4,axis=out>/nearest_even", layouts={path: {"out": 1}})  # type: ignore[arg-type]
    average = PolicyAverage(known)
    model.fit(x, y, callbacks=[average], verbose=0)
    assert average.state.n_averaged == 1


def test_aswa_scores_the_model_as_it_holds_the_weights() -> None:
    x, y = map(keras.ops.convert_to_tensor, data(seed=1))
    seen = []

    def error(held: keras.Model) -> float:
        return float(keras.ops.convert_to_numpy(keras.ops.mean((held(x) - y) ** 2)))

    def score(weights: Any) -> float:
        with average.holding(weights) as held:
            seen.append(error(held))
        return -seen[-1]

    average = PolicyAverage(ASWA(0, EPOCH, score=score))
    model = compiled(SGD(0.2, recipe=swalp(4)))
    model.fit(*data(), batch_size=8, epochs=4, callbacks=[average], verbose=0)
    assert len(seen) == 7  # the first iterate, then it and the average with it
    assert average.state.score == -min(seen)
    with average.swap():
        assert error(model) == pytest.approx(min(seen))


def test_swap_brings_back_batch_normalization_and_survives_an_exception() -> None:
    model = keras.Sequential(
        [*network().layers[:1], keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    )
    model.compile("sgd", loss="mse")
    average = PolicyAverage(Averaging())
    model.fit(*data(), batch_size=8, callbacks=[average], verbose=0)
    before = model.get_weights()

    def fail() -> None:
        with average.swap():
            update_bn(data()[0], model)
            assert not same(model.get_weights(), before)
            raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        fail()
    assert same(model.get_weights(), before)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras on PyTorch executes one step at once")
def test_steps_executed_at_once_must_not_hide_one_that_is_due() -> None:
    model = network()
    model.compile("sgd", loss="mse", steps_per_execution=4)
    fine = PolicyAverage(Averaging(0, 4))
    model.fit(*data(), batch_size=8, epochs=2, callbacks=[fine], verbose=0)
    assert fine.state.n_averaged == 4
    with pytest.raises(ValueError, match="An average is due at one of the steps 1 to 3"):
        model.fit(*data(), batch_size=8, callbacks=[PolicyAverage(Averaging(0, 3))], verbose=0)


def test_errors() -> None:
    with pytest.raises(
        TypeError, match=r"policy must be a qemu_swalp\.training\.Policy, such as EMA"
    ):
        PolicyAverage("ema")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing averaged yet"):
        PolicyAverage(EMA()).average()
