"""Loops of Keras within a layer that rounds: each turn has random steps of its own, also where the
backend traces one turn for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from math import prod
from typing import Any

import keras
from keras import ops, tree

from .._compat import function_in_place, replace_backend_function
from .pausing import paused
from .scope import Scope, current

Loop = Callable[..., Any]


def install() -> None:
    """Put our loops in place of the backend's."""
    replace_backend_function("rnn", _rnn)
    for make in (_scan, _map, _fori_loop, _while_loop, _vectorized_map):
        replace_backend_function(f"core.{make.__name__[1:]}", make)


class Turns:
    """The turns of a loop that a layer runs (clause RNG-8)."""

    def __init__(self, scope: Scope, count: Any) -> None:
        """A loop of so many turns, None where that is not known before it runs."""
        self.scope, self.count, self.around = scope, count, scope.loop
        self.first, self.counts = scope.step, dict(scope.counts)
        self.unit, self.moved = scope.unit, scope.moved
        self.most = 0
        """The greatest `scope.moved` of a turn."""
        self.drawn = False
        """Whether a turn rounds anything, or chooses a branch."""
        self.begun = False
        first = self.first
        self.dtype = (
            "int32" if isinstance(first, int) else keras.backend.standardize_dtype(first.dtype)
        )

    def begin(
        self, number: Any, counts: dict[tuple[str, str], int] | None = None, moved: int = 0
    ) -> None:
        """The turn of a number.

        counts, moved : of what it made already; None and 0 at its start.
        """
        self.begun = True
        if current() is None:  # shapes are inferred
            return
        scope = self.scope
        known = self.unit is not None and self.count is not None
        scope.unit = self._times(self.unit, self.count) if known else None
        scope.step = self._after(number)
        if moved and known:
            with paused():
                scope.step = scope.step + self._times(scope.unit, moved)
        scope.moved = moved
        scope.counts = dict(self.counts if counts is None else counts)

    def end(self, turns: Any) -> None:
        """There were that many turns. What follows has the next step.

        Raises
        ------
        ValueError: if the loop is in a turn of another, rounds, and takes an unknown number of
            steps.
        """
        scope, around = self.scope, self.around
        scope.loop, scope.unit, scope.moved = around, self.unit, self.moved
        scope.step, scope.counts = self.first, dict(self.counts)
        if around is None:
            scope.step = self._after(self._times(self.count, 1 + self.most) if self.most else turns)
        elif self.drawn:
            steps = None if self.count is None else self._times(self.count, 1 + self.most)
            if not isinstance(steps, int) or self.unit is None:
                which = "the outer" if self.unit is None else "the inner"
                raise ValueError(_NESTED.format(name=scope.layer_name, which=which))
            scope.step = self._after(steps)
            scope.moved += steps
            around.drawn, around.most = True, max(around.most, scope.moved)

    def _after(self, turns: Any) -> Any:
        """The step after so many turns."""
        with paused():
            return self.first + self._times(1 if self.unit is None else self.unit, turns)

    def _times(self, *factors: Any) -> Any:
        with paused():
            return prod(x if isinstance(x, int) else ops.cast(x, self.dtype) for x in factors)


_NESTED = (
    "layer {name!r} draws random bits in a loop within another, and it is not known before it runs"
    " how many turns {which} one has; give it a length that is a Python number, as"
    " maximum_iterations of ops.while_loop, round to nearest, or exclude the layer"
)


@contextmanager
def turning(scope: Scope | None, count: Callable[[], Any]) -> Iterator[Turns | None]:
    """Within it a loop is running, whose turns are to be told of: None, where nothing is drawn.

    count : gives how many there are, see `Turns`.
    """
    if scope is None or (scope.loop is not None and not scope.loop.begun):
        yield None  # of the latter the backend makes the loop, as PyTorch's map of its scan
        return
    before, scope.turns = (scope.turns, scope.loop), True
    try:
        if not scope.policy.stochastic:
            yield None
            return
        with paused():
            number = count()
        scope.loop = Turns(scope, number)
        yield scope.loop
    finally:
        scope.turns, scope.loop = before


def _length(xs: Any, axis: int = 0) -> Any:
    """Of the axis of the first of nested tensors."""
    return ops.shape(tree.flatten(xs)[0])[axis]


def _rnn(function: Loop) -> Loop:
    @wraps(function)
    def rnn(step_function: Any, inputs: Any, initial_states: Any, **options: Any) -> Any:
        time = 0 if options.get("time_major") else 1
        with turning(current(), lambda: _length(inputs, time)) as turns:
            if turns is None:
                return function(step_function, inputs, initial_states, **options)
            number = ops.expand_dims(ops.arange(turns.count, dtype="int32"), (1 - time, 2))

            def turn(numbered: Any, states: Any) -> Any:
                inputs, number = numbered
                turns.begin(number[0, 0])
                return step_function(inputs, states)

            result = function(turn, (inputs, number), initial_states, **options)
            turns.end(turns.count)
            return result

    return rnn


def _scan(function: Loop) -> Loop:
    @wraps(function)
    def scan(f: Any, init: Any, xs: Any = None, length: Any = None, **options: Any) -> Any:
        count = lambda: int(length) if xs is None else _length(xs)  # noqa: E731
        with turning(current(), count) as turns:
            if turns is None:
                return function(f, init, xs, length, **options)

            def turn(carry: Any, numbered: Any) -> Any:
                x, number = numbered
                turns.begin(number)
                return f(carry, x)

            numbered = (xs, ops.arange(turns.count, dtype=turns.dtype))
            result = function(turn, init, numbered, length, **options)
            turns.end(turns.count)
            return result

    return scan


def _map(function: Loop) -> Loop:
    @wraps(function)
    def mapped(f: Any, xs: Any) -> Any:
        with turning(current(), lambda: _length(xs)) as turns:
            if turns is None:
                return function(f, xs)

            def turn(numbered: Any) -> Any:
                x, number = numbered
                turns.begin(number)
                return f(x)

            result = function(turn, (xs, ops.arange(turns.count, dtype=turns.dtype)))
            turns.end(turns.count)
            return result

    return mapped


def _fori_loop(function: Loop) -> Loop:
    @wraps(function)
    def fori_loop(lower: Any, upper: Any, body_fun: Any, init_val: Any) -> Any:
        def count() -> Any:
            numbers = isinstance(lower, int) and isinstance(upper, int)
            return max(upper - lower, 0) if numbers else ops.maximum(upper - lower, 0)

        with turning(current(), count) as turns:
            if turns is None:
                return function(lower, upper, body_fun, init_val)

            def turn(i: Any, value: Any) -> Any:
                turns.begin(i - lower)
                return body_fun(i, value)

            result = function(lower, upper, turn, init_val)
            turns.end(turns.count)
            return result

    return fori_loop


def _while_loop(function: Loop) -> Loop:
    @wraps(function)
    def while_loop(cond: Any, body: Any, loop_vars: Any, maximum_iterations: Any = None) -> Any:
        # The condition is asked once more than the body runs.
        most = None if maximum_iterations is None else maximum_iterations + 1
        with turning(current(), lambda: most) as turns:
            if turns is None:
                return function(cond, body, loop_vars, maximum_iterations)
            several = isinstance(loop_vars, list | tuple)
            scope, asked, moved = turns.scope, dict(turns.counts), 0

            def goes_on(number: Any, *values: Any) -> Any:
                nonlocal moved
                turns.begin(number)
                result = cond(*values)
                asked.update(scope.counts)
                moved = max(moved, scope.moved)
                return result

            def turn(number: Any, *values: Any) -> Any:
                turns.begin(number, asked, moved)
                after = body(*values)
                return number + 1, *(after if isinstance(after, list | tuple) else (after,))

            start = (ops.zeros((), turns.dtype), *(loop_vars if several else (loop_vars,)))
            count, *values = function(goes_on, turn, start, maximum_iterations)
            turns.end(count + 1)
            return tuple(values) if several else values[0]

    return while_loop


def _vectorized_map(function: Loop) -> Loop:
    """One by one: elements of a vectorized function would share their random bits and blocks."""

    @wraps(function)
    def vectorized_map(f: Any, elements: Any) -> Any:
        scope = current()
        if scope is None:
            return function(f, elements)
        return function_in_place("core.map")(f, elements)

    return vectorized_map
