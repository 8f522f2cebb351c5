"""Loops and branches of keras.ops within a layer that rounds: each turn draws random bits of its
own, the same in every way that a backend runs.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import quantize_elementwise, quantize_gemms

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, MODES, normal, numpy, pull_back, same, traced

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


class Branching(Looping):
    """A product, one of three branches, one within another, and two products."""

    def call(self, inputs):
        rows, chosen = inputs
        plain = lambda: rows[:3] * 1.0  # noqa: E731
        once = lambda: ops.matmul(rows[:3], self.w)  # noqa: E731
        twice = lambda: ops.stack([self.turn(rows[0])] + 2 * [self.turn(rows[0])])  # noqa: E731
        switched = ops.switch(chosen, [plain, twice, self.third(rows) or once])
        within = lambda: ops.cond(chosen > 1, once, twice)  # noqa: E731
        both = ops.cond(chosen > 0, within, plain)
        ends = [self.turn(rows[0])[None] for _ in range(2)]
        return ops.concatenate([self.turn(rows[0])[None], switched, both, *ends])

    def third(self, rows):
        return None


class LoopInBranch(Branching):
    def third(self, rows):
        return lambda: ops.map(self.turn, rows[:3])


@pytest.mark.parametrize("kind", [Branching, LoopInBranch])
@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_branches_draw_the_same_bits_where_all_are_traced(chosen, kind):
    """Of the forward and of the backward; but TensorFlow's XLA compiles no gradient of a loop in a
    branch, and needs none here.
    """
    recipe = Recipe(operands={"input": "fixed<8,2>/stochastic", "error": "fixed<8,4>/stochastic"})
    found = []
    for mode in MODES:
        layer = quantize_gemms(kind(None), recipe, seed=3)

        def run(x, chosen, layer=layer):
            function = lambda x: layer([x, chosen], training=True)  # noqa: E731
            if kind is LoopInBranch:
                return (function(x),)
            return pull_back(function, x, ops.ones((9, 32)) * (9 / 32))

        call = traced(run, mode)
        given = ops.convert_to_tensor(ROWS), ops.convert_to_tensor(np.int32(chosen))
        runs = range(2 if mode == "eager" or BACKEND != "jax" else 1)
        found.append([[numpy(part) for part in call(*given)] for _ in runs])
    rows = np.concatenate([y for y, *_ in found[0]])
    rows = {row.tobytes() for row in rows if not np.array_equal(row, X)}
    assert len(rows) == 2 * {0: 3, 1: 7, 2: 9}[chosen]
    for others in found[1:]:
        for ours, theirs in zip(others, found[0], strict=False):
            for a, b in zip(ours, theirs, strict=True):
                same(a, b)


def test_delayed_scales_are_refused_in_branches():
    """Who is not run has no error, and its scale would be overwritten with nothing."""

    class Chosen(layers.Layer):
        def __init__(self):
            super().__init__(name="chosen")
            self.w = self.add_weight(shape=(3, 3), name="w")

        def call(self, x):
            return ops.cond(ops.sum(x) > 0, lambda: ops.matmul(x, self.w), lambda: x * 1.0)

    model = keras.Sequential([layers.Input((3,)), Chosen()])
    quantize_gemms(model, "fp8_delayed")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="layer 'chosen' makes it in a branch; exclude"):
        model.fit(normal((2, 3)), normal((2, 3)), verbose=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_recurrent_layers_take_batches_of_none(compiled):
    model = keras.Sequential([layers.Input((3, 2)), layers.SimpleRNN(4)])
    quantize_gemms(model, Recipe(operands={"input": "fixed<8,2>/stochastic"}))
    model.compile("sgd", "mse", run_eagerly=not compiled)
    assert model.predict_on_batch(np.zeros((2, 3, 2), "float32")).shape == (2, 4)
    assert model.predict_on_batch(np.zeros((0, 3, 2), "float32")).shape == (0, 4)
