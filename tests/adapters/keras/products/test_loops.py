"""Loops of keras.ops within a layer that rounds: each turn draws random bits of its own, the same
in every way that a backend runs.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import quantize_elementwise, quantize_gemms

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, MODES, normal, numpy, same, traced

TURNS = 6
X = normal((32,), 1)
ROWS = np.tile(X, (TURNS, 1))


class Looping(layers.Layer):
    """What each of equal turns computes of the same numbers."""

    def __init__(self, loop):
        super().__init__(name="looping")
        self.loop = loop
        self.w = self.add_weight(shape=(32, 32), name="w")
        self.w.assign(np.eye(32))

    def call(self, rows):
        before = self.turn(rows[0])
        return ops.concatenate([before[None], self.loop(self.turn, rows), self.turn(rows[0])[None]])

    def turn(self, x):
        return ops.matmul(x, self.w)


def by_fori(turn, rows):
    start = ops.zeros((TURNS, 32))
    return ops.fori_loop(0, TURNS, lambda i, y: _set(y, i, turn(rows[0])), start)


def by_while(turn, rows):
    return ops.while_loop(
        lambda i, y: i < TURNS,
        lambda i, y: (i + 1, _set(y, i, turn(rows[0]))),
        (ops.convert_to_tensor(0), ops.zeros((TURNS, 32))),
    )[1]


def _set(y, i, row):
    return ops.where(ops.arange(TURNS)[:, None] == i, row[None], y)


LOOPS = {
    "scan": lambda turn, rows: ops.scan(lambda c, x: (c, turn(x)), rows[0], rows)[1],
    "map": ops.map,
    "vectorized_map": ops.vectorized_map,
    "fori_loop": by_fori,
    "while_loop": by_while,
}
RECIPES = {
    quantize_gemms: Recipe(operands={"input": "fixed<8,2>/stochastic"}),
    quantize_elementwise: Recipe(elementwise="fixed<8,2>/stochastic"),
}


@pytest.mark.parametrize("quantize", RECIPES)
@pytest.mark.parametrize("name", LOOPS)
def test_each_turn_has_its_own_bits(name, quantize):
    if quantize is quantize_elementwise:
        Looping.turn = lambda self, x: x * 1.5
    try:
        found = []
        for mode in MODES:
            layer = quantize(Looping(LOOPS[name]), RECIPES[quantize], seed=3)
            call = traced(lambda x, layer=layer: layer(x), mode)
            found.append(
                [
                    numpy(call(ops.convert_to_tensor(ROWS)))
                    for _ in range(2 if mode == "eager" or BACKEND != "jax" else 1)
                ]
            )
    finally:
        Looping.turn = lambda self, x: ops.matmul(x, self.w)
    for calls in found:  # a program of JAX counts none
        rows = np.concatenate(calls)
        assert len({row.tobytes() for row in rows}) == len(rows), rows
    for others in found[1:]:
        for ours, theirs in zip(others, found[0], strict=False):
            same(ours, theirs)


@pytest.mark.parametrize("compiled", [False, True])
def test_recurrent_layers_take_batches_of_none(compiled):
    model = keras.Sequential([layers.Input((3, 2)), layers.SimpleRNN(4)])
    quantize_gemms(model, Recipe(operands={"input": "fixed<8,2>/stochastic"}))
    model.compile("sgd", "mse", run_eagerly=not compiled)
    assert model.predict_on_batch(np.zeros((2, 3, 2), "float32")).shape == (2, 4)
    assert model.predict_on_batch(np.zeros((0, 3, 2), "float32")).shape == (0, 4)
