"""Loops and branches of Keras within a layer that rounds: each turn has a random step of its own,
also where the backend traces one turn for all, and a branch the same bits as where it alone is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import keras
from keras import ops, tree

from .._compat import function_in_place, replace_backend_function
from ..backend import counter
from .pausing import paused
from .scope import Scope, current

Loop = Callable[..., Any]


def install() -> None:
    """Put our loops in place of the backend's."""
    replace_backend_function("rnn", _rnn)
    for make in (_scan, _map, _fori_loop, _while_loop, _vectorized_map):
        replace_backend_function(f"core.{make.__name__[1:]}", make)
    replace_backend_function("core.cond", _cond)
    replace_backend_function("core.switch", _switch)


class Turns:
    """The turns of a loop that a layer runs."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.first, self.counts = scope, scope.step, dict(scope.counts)
        first = self.first
        self.dtype = (
            "int32" if isinstance(first, int) else keras.backend.standardize_dtype(first.dtype)
        )

    def begin(self, number: Any, counts: dict[tuple[str, str], int] | None = None) -> None:
        """The turn of a number.

        counts : of what it made already; None at its start.
        """
        if current() is None:  # shapes are inferred
            return
        self.scope.step = self._step(number)
        self.scope.counts = dict(self.counts if counts is None else counts)

    def branch(self, function: Loop) -> Loop:
        """The function, one of several of which one is run, that gives its last step too."""

        @wraps(function)
        def counted(*args: Any) -> Any:
            self.begin(0)
            result = function(*args)
            with paused():
                return result, ops.convert_to_tensor(self.scope.step - self.first, self.dtype)

        return counted

    def end(self, turns: Any) -> None:
        """There were that many steps. What follows has the next one."""
        self.scope.step, self.scope.counts = self._step(turns), dict(self.counts)

    def _step(self, number: Any) -> Any:
        if isinstance(number, int):
            return self.first + number
        with paused():
            return self.first + ops.cast(number, self.dtype)


@contextmanager
def turning(scope: Scope | None) -> Iterator[Turns | None]:
    """Within it a loop is running, whose turns are to be told of: None, where nothing is drawn."""
    if scope is None:
        yield None
        return
    before, scope.turns = scope.turns, True
    try:
        yield Turns(scope) if scope.policy.stochastic else None
    finally:
        scope.turns = before


def _rnn(function: Loop) -> Loop:
    @wraps(function)
    def rnn(step_function: Any, inputs: Any, initial_states: Any, **options: Any) -> Any:
        with turning(current()) as turns:
            if turns is None:
                return function(step_function, inputs, initial_states, **options)
            time = 0 if options.get("time_major") else 1
            count = ops.shape(tree.flatten(inputs)[0])[time]
            number = ops.expand_dims(ops.arange(count, dtype="int32"), (1 - time, 2))

            def turn(numbered: Any, states: Any) -> Any:
                inputs, number = numbered
                turns.begin(number[0, 0])
                return step_function(inputs, states)

            result = function(turn, (inputs, number), initial_states, **options)
            turns.end(count)
            return result

    return rnn


def _scan(function: Loop) -> Loop:
    @wraps(function)
    def scan(f: Any, init: Any, xs: Any = None, length: Any = None, **options: Any) -> Any:
        with turning(current()) as turns:
            if turns is None:
                return function(f, init, xs, length, **options)

            def turn(carry: Any, numbered: Any) -> Any:
                x, number = numbered
                turns.begin(number)
                return f(carry, x)

            count = int(length) if xs is None else ops.shape(tree.flatten(xs)[0])[0]
            numbered = (xs, ops.arange(count, dtype=turns.dtype))
            result = function(turn, init, numbered, length, **options)
            turns.end(count)
            return result

    return scan


def _map(function: Loop) -> Loop:
    @wraps(function)
    def mapped(f: Any, xs: Any) -> Any:
        with turning(current()) as turns:
            if turns is None:
                return function(f, xs)

            def turn(numbered: Any) -> Any:
                x, number = numbered
                turns.begin(number)
                return f(x)

            count = ops.shape(tree.flatten(xs)[0])[0]
            result = function(turn, (xs, ops.arange(count, dtype=turns.dtype)))
            turns.end(count)
            return result

    return mapped


def _fori_loop(function: Loop) -> Loop:
    @wraps(function)
    def fori_loop(lower: Any, upper: Any, body_fun: Any, init_val: Any) -> Any:
        with turning(current()) as turns:
            if turns is None:
                return function(lower, upper, body_fun, init_val)

            def turn(i: Any, value: Any) -> Any:
                turns.begin(i - lower)
                return body_fun(i, value)

            result = function(lower, upper, turn, init_val)
            numbers = isinstance(lower, int) and isinstance(upper, int)
            turns.end(max(upper - lower, 0) if numbers else ops.maximum(upper - lower, 0))
            return result

    return fori_loop


def _while_loop(function: Loop) -> Loop:
    @wraps(function)
    def while_loop(cond: Any, body: Any, loop_vars: Any, maximum_iterations: Any = None) -> Any:
        with turning(current()) as turns:
            if turns is None:
                return function(cond, body, loop_vars, maximum_iterations)
            several = isinstance(loop_vars, list | tuple)
            asked = dict(turns.counts)

            def goes_on(number: Any, *values: Any) -> Any:
                turns.begin(number)
                result = cond(*values)
                asked.update(turns.scope.counts)
                return result

            def turn(number: Any, *values: Any) -> Any:
                turns.begin(number, asked)
                after = body(*values)
                return number + 1, *(after if isinstance(after, list | tuple) else (after,))

            start = (ops.zeros((), turns.dtype), *(loop_vars if several else (loop_vars,)))
            count, *values = function(goes_on, turn, start, maximum_iterations)
            turns.end(count + 1)  # the condition was asked once more
            return tuple(values) if several else values[0]

    return while_loop


@contextmanager
def branching(scope: Scope | None) -> Iterator[Turns | None]:
    """Within it one of several branches is run: None, where nothing is drawn."""
    if scope is None:
        yield None
        return
    before, scope.branches = scope.branches, True
    try:
        yield Turns(scope) if scope.policy.stochastic else None
    finally:
        scope.branches = before


def _cond(function: Loop) -> Loop:
    @wraps(function)
    def cond(pred: Any, true_fn: Any, false_fn: Any) -> Any:
        with branching(current()) as turns:
            if turns is None:
                return function(pred, true_fn, false_fn)
            result, last = function(pred, turns.branch(true_fn), turns.branch(false_fn))
            turns.end(counter(last) + 1)
            return result

    return cond


def _switch(function: Loop) -> Loop:
    @wraps(function)
    def switch(index: Any, branches: Any, *operands: Any) -> Any:
        with branching(current()) as turns:
            if turns is None:
                return function(index, branches, *operands)
            result, last = function(index, [turns.branch(f) for f in branches], *operands)
            turns.end(counter(last) + 1)
            return result

    return switch


def _vectorized_map(function: Loop) -> Loop:
    """One by one: elements of a vectorized function would share their random bits and blocks."""

    @wraps(function)
    def vectorized_map(f: Any, elements: Any) -> Any:
        scope = current()
        if scope is None:
            return function(f, elements)
        return function_in_place("core.map")(f, elements)

    return vectorized_map
