"""Loops and branches of keras.ops within a layer that rounds: each turn draws random bits of its
own, the same in every way that a backend runs.
"""

from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import quantize_elementwise, quantize_gemms
from qemu_swalp_keras._compat import function_in_place

import qemu_swalp as q
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


class Turning:
    """A turn, with the shape of what it gives."""

    def __init__(self, turn, shape):
        self.turn, self.shape = turn, shape

    def __call__(self, x):
        return self.turn(x)


def scan_forwards(turn, rows, **options):
    return ops.scan(lambda c, x: (c, turn(x)), ops.zeros(turn.shape), rows, **options)[1]


def scan_backwards(turn, rows):
    return scan_forwards(turn, rows, reverse=True)


def by_rnn(turn, rows):
    """As the cell of a recurrent layer, for one sample."""
    step = lambda x, states: (turn(x[0])[None], states)  # noqa: E731
    return function_in_place("rnn")(
        step, rows[None], [ops.zeros((1, 1))], input_length=rows.shape[0]
    )[1][0]


def by_short_fori(turn, rows):
    start = ops.zeros((rows.shape[0], *turn.shape))
    return ops.fori_loop(0, rows.shape[0], lambda i, y: _put(y, i, turn(rows[0])), start)


def by_bounded_while(turn, rows):
    return ops.while_loop(
        lambda i, y: i < rows.shape[0],
        lambda i, y: (i + 1, _put(y, i, turn(rows[0]))),
        (ops.convert_to_tensor(0), ops.zeros((rows.shape[0], *turn.shape))),
        maximum_iterations=rows.shape[0] + 1,
    )[1]


def _put(y, i, row):
    number = ops.reshape(ops.arange(y.shape[0]), (-1, *(1,) * len(row.shape)))
    return ops.where(number == i, row[None], y)


NESTABLE = {
    "scan": scan_forwards,
    "reverse": scan_backwards,
    "map": ops.map,
    "rnn": by_rnn,
    "fori_loop": by_short_fori,
    "while_loop": by_bounded_while,
}


def distinct_draws(make, shape, quantize=quantize_gemms):
    """All rows of two calls are distinct, and the same eagerly and compiled by XLA."""
    turn = Looping.turn
    if quantize is quantize_elementwise:
        Looping.turn = lambda self, x: x * 1.5
    try:
        found = []
        for mode in (MODES[0], *MODES[1:][-1:]):
            layer = quantize(make(), RECIPES[quantize], seed=3)
            call = traced(lambda x, layer=layer: layer(x), mode)
            runs = range(2 if mode == "eager" or BACKEND != "jax" else 1)
            found.append([numpy(call(ops.convert_to_tensor(ROWS[:3]))) for _ in runs])
    finally:
        Looping.turn = turn
    for calls in found:
        assert calls[0].shape == shape
        rows = np.concatenate(calls).reshape(-1, 32)
        assert len({row.tobytes() for row in rows}) == len(rows), rows
    for others in found[1:]:
        for ours, theirs in zip(others, found[0], strict=False):
            same(ours, theirs)


class Nested(Looping):
    """Products before, within, between and after loops within the turns of a loop."""

    def __init__(self, outer, inner):
        super().__init__(outer)
        self.inner = inner

    def call(self, rows):
        one = Turning(self.turn, (32,))

        def turn(x):
            several = [self.inner(one, ops.tile(x[None], (n, 1))) for n in (2, 1)]
            return ops.concatenate(
                [self.turn(x)[None], several[0], *several[1:], self.turn(x)[None]]
            )

        looped = self.loop(Turning(turn, (5, 32)), rows)
        return ops.concatenate([ops.reshape(looped, (-1, 32)), self.turn(rows[0])[None]])


@pytest.mark.parametrize(
    ("outer", "inner"), list(pairwise([*NESTABLE, *NESTABLE][: len(NESTABLE) + 1]))
)
def test_loops_within_loops_draw_their_own_bits(outer, inner):
    distinct_draws(lambda: Nested(NESTABLE[outer], NESTABLE[inner]), (16, 32))


def test_elementwise_operations_of_loops_within_loops_draw_their_own_bits():
    distinct_draws(lambda: Nested(ops.map, ops.map), (16, 32), quantize_elementwise)


def test_three_loops_within_each_other_draw_their_own_bits():
    inner = lambda turn, rows: ops.map(  # noqa: E731
        lambda x: ops.sum(ops.map(turn, ops.tile(x[None], (2, 1))), axis=0), rows
    )
    distinct_draws(lambda: Nested(ops.map, inner), (16, 32))


class BranchInLoop(Looping):
    """In each turn a product, branches, one in another, and products after them."""

    def call(self, rows):
        def turn(x):
            two = lambda: ops.stack([self.turn(x), self.turn(x)])  # noqa: E731
            none = lambda: ops.stack([x, x])  # noqa: E731
            some = ops.sum(x * x) > -1
            within = lambda: ops.concatenate(  # noqa: E731
                [self.turn(x)[None], ops.cond(some, two, none), self.turn(x)[None]]
            )
            parts = [self.turn(x)[None], ops.switch(ops.cast(some, "int32"), [none, two])]
            parts += [ops.cond(some, within, lambda: ops.concatenate([none(), none()]))]
            parts += [self.turn(x)[None]]
            return ops.concatenate(parts)

        looped = self.loop(Turning(turn, (8, 32)), rows)
        return ops.concatenate([ops.reshape(looped, (-1, 32)), self.turn(rows[0])[None]])


@pytest.mark.parametrize(
    ("name", "quantize"),
    [*((name, quantize_gemms) for name in NESTABLE), ("map", quantize_elementwise)],
)
def test_branches_in_loops_draw_their_own_bits(name, quantize):
    distinct_draws(lambda: BranchInLoop(NESTABLE[name]), (25, 32), quantize)


class Named(Looping):
    """Products before, in and after a loop whose turns hold what is given."""

    def __init__(self, inner):
        super().__init__(ops.map)
        self.inner = inner

    def call(self, rows):
        before = self.turn(rows[0])[None]
        looped = ops.reshape(self.loop(lambda x: self.inner(self.turn, x), rows), (-1, 32))
        return ops.concatenate([before, looped, self.turn(rows[0])[None]])


def loops_in_a_turn(turn, x):
    two, one = (ops.map(turn, ops.tile(x[None], (n, 1))) for n in (2, 1))
    return ops.concatenate([two, one, turn(x)[None]])


def branches_in_a_turn(turn, x):
    branch = lambda: ops.stack([turn(x), turn(x)])  # noqa: E731
    chosen = lambda: ops.cond(ops.sum(x * x) > -1, branch, lambda: ops.stack([x, x]))  # noqa: E731
    return ops.concatenate([chosen(), chosen(), turn(x)[None]])


LOOPED = lambda k: [("..1", step) for step in range(k, k + 10, 3)]  # noqa: E731
BRANCHED = lambda k: [  # noqa: E731
    *((f".branch{number}{part}", k) for number in (0, 1) for part in ("", "..1")),
    ("..1", k),
]


@pytest.mark.parametrize(
    ("inner", "of_turn", "steps"),
    [(loops_in_a_turn, LOOPED, 12), (branches_in_a_turn, BRANCHED, 3)],
)
def test_steps_and_streams_are_those_of_the_specification(inner, of_turn, steps):
    """Clause RNG-8, of two calls: loops of 2 and 1 turns in one of 3 move on by 3 each turn."""
    layer = quantize_gemms(Named(inner), RECIPES[quantize_gemms], seed=3)
    for first in (0, steps + 1):
        drawn = [("", 0), *(draw for k in range(3) for draw in of_turn(k)), ("..1", steps)]
        rows = numpy(layer(ops.convert_to_tensor(ROWS[:3]), training=True))
        assert len(rows) == len(drawn)
        for row, (part, step) in zip(rows, drawn, strict=True):
            stream = q.stream_id(f"forward.input{part}", 1)
            random = q.RandomBits(3, stream, first + step)
            same(row, q.quantize(X, "fixed<8,2>", "stochastic", random=random))


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


@pytest.mark.parametrize("choose", ["cond", "switch"])
def test_delayed_scales_follow_a_branch_that_python_chooses(choose):
    """The branch is all that there is, as if it were called by itself."""

    class Chosen(layers.Layer):
        def __init__(self, choose):
            super().__init__(name="chosen")
            self.w, self.choose = self.add_weight(shape=(3, 3), name="w"), choose
            self.w.assign(np.eye(3))

        def call(self, x):
            product, other = lambda: ops.matmul(x, self.w), lambda: ops.matmul(x * 2, self.w)
            if self.choose == "cond":
                return ops.cond(True, product, other) + ops.cond(np.bool_(False), other, product)
            if self.choose == "switch":
                return ops.switch(1, [other, product]) + ops.switch(np.int32(9), [other, product])
            return product() + product()

    found = []
    for how in (choose, "neither"):
        model = keras.Sequential([layers.Input((3,)), Chosen(how)])
        quantize_gemms(model, "fp8_delayed")
        model.compile("sgd", "mse")
        model.predict(normal((2, 3)), verbose=0)
        model.fit(normal((2, 3)), normal((2, 3)), epochs=3, shuffle=False, verbose=0)
        found.append([numpy(v.value) for v in model.variables if "count" not in v.name])
    assert len(found[0]) == len(found[1]) > 4
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs)


class Refused(Looping):
    """What draws random bits where no step can be given to it beforehand."""

    def call(self, rows):
        return ops.map(lambda x: self.loop(self.turn, x, rows), rows)


def unbounded_while(turn, x, rows):
    return ops.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, turn(y)), (0, x))[1]


def in_a_branch(turn, x, rows):
    looped = lambda: ops.sum(ops.map(turn, rows), axis=0)  # noqa: E731
    return ops.cond(ops.sum(x * x) > -1, looped, lambda: x * 1.0)


@pytest.mark.parametrize("loop", [unbounded_while, in_a_branch])
def test_loops_within_loops_that_take_unknown_steps_are_refused(loop):
    layer = quantize_gemms(Refused(loop), RECIPES[quantize_gemms])
    wanted = "how many turns the inner one" if loop is unbounded_while else "in a loop within a br"
    with pytest.raises(ValueError, match=f"layer 'looping' draws random bits .*{wanted}"):
        layer(ops.convert_to_tensor(ROWS))


@pytest.mark.parametrize("loop", [unbounded_while, in_a_branch])
def test_loops_within_loops_that_draw_nothing_are_not_refused(loop):
    layer = Refused(lambda turn, x, rows: turn(loop(lambda y: y * 2.0, x, rows)))
    quantize_gemms(layer, RECIPES[quantize_gemms])
    rows = numpy(layer(ops.convert_to_tensor(ROWS)))
    assert len({row.tobytes() for row in rows}) == len(rows)


@pytest.mark.parametrize("compiled", [False, True])
def test_recurrent_layers_take_batches_of_none(compiled):
    model = keras.Sequential([layers.Input((3, 2)), layers.SimpleRNN(4)])
    quantize_gemms(model, Recipe(operands={"input": "fixed<8,2>/stochastic"}))
    model.compile("sgd", "mse", run_eagerly=not compiled)
    assert model.predict_on_batch(np.zeros((2, 3, 2), "float32")).shape == (2, 4)
    assert model.predict_on_batch(np.zeros((0, 3, 2), "float32")).shape == (0, 4)
