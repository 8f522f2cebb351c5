"""Branches of Keras within a layer that rounds: each draws the bits that it draws alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from keras import ops

from .._compat import replace_backend_function
from ..backend import counter
from .loops import Turns
from .pausing import paused
from .scope import Scope, current

Function = Callable[..., Any]


def install() -> None:
    """Put our branches in place of the backend's."""
    replace_backend_function("core.cond", _cond)
    replace_backend_function("core.switch", _switch)


def _is_known(x: Any) -> bool:
    """Whether a predicate or an index is Python's or NumPy's."""
    return isinstance(x, int | float | np.generic | np.ndarray) and np.ndim(x) == 0


def _cond(function: Function) -> Function:
    @wraps(function)
    def cond(pred: Any, true_fn: Any, false_fn: Any) -> Any:
        scope = current()
        if scope is None:
            return function(pred, true_fn, false_fn)
        if scope.policy.delayed and _is_known(pred):  # no other branch is there to have a scale
            return true_fn() if pred else false_fn()
        return _one_of(scope, lambda branches: function(pred, *branches), (true_fn, false_fn))

    return cond


def _switch(function: Function) -> Function:
    @wraps(function)
    def switch(index: Any, branches: Any, *operands: Any) -> Any:
        scope = current()
        if scope is None:
            return function(index, branches, *operands)
        if scope.policy.delayed and _is_known(index):
            return branches[min(max(int(index), 0), len(branches) - 1)](*operands)
        return _one_of(scope, lambda made: function(index, made, *operands), branches)

    return switch


def _one_of(scope: Scope, run: Function, branches: Sequence[Function]) -> Any:
    """run(branches), which runs one of them, each with the bits that it draws where it alone is
    traced (clause RNG-8).
    """
    before, scope.branches = scope.branches, True
    try:
        if not scope.policy.stochastic:
            return run(branches)
        return (_in_turn if scope.loop is not None else _in_layer)(scope, run, branches)
    finally:
        scope.branches = before


def _in_layer(scope: Scope, run: Function, branches: Sequence[Function]) -> Any:
    """Outside of loops: what follows has the step after the branch's last."""
    turns = Turns(scope, 1)

    def counted(function: Function) -> Function:
        @wraps(function)
        def branch(*args: Any) -> Any:
            scope.step, scope.counts = turns.first, dict(turns.counts)
            result = function(*args)
            with paused():
                return result, ops.convert_to_tensor(scope.step - turns.first, turns.dtype)

        return branch

    result, last = run([counted(function) for function in branches])
    turns.end(counter(last) + 1)
    return result


def _in_turn(scope: Scope, run: Function, branches: Sequence[Function]) -> Any:
    """In a turn of a loop, whose step it shares: streams of its own."""
    step, moved, around = scope.step, scope.moved, scope.branch
    scope.loop.drawn = True
    name, counts = scope.name_of_branch(), dict(scope.counts)

    def named(function: Function) -> Function:
        @wraps(function)
        def branch(*args: Any) -> Any:
            scope.branch, scope.counts, scope.step = name, {}, step
            result = function(*args)
            if scope.moved != moved:
                raise ValueError(_LOOP_IN_BRANCH.format(name=scope.layer_name))
            return result

        return branch

    try:
        return run([named(function) for function in branches])
    finally:
        scope.branch, scope.counts, scope.step = around, counts, step


_LOOP_IN_BRANCH = (
    "layer {name!r} draws random bits in a loop within a branch within a loop, of which only one"
    " branch takes steps; choose by ops.where, round to nearest, or exclude the layer"
)
