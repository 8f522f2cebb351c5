"""Checks of a checkpoint of an average, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._util.checks import check_int


def check_state(state: Mapping[str, Any], expected: Mapping[str, Any], kind: type[Any]) -> None:
    """ValueError if the saved state of an average is damaged, or not of the form of the expected
    one: the policy's record as "rule", "step", "n_averaged", "score", and arrays of a kind by name
    as "values".
    """
    _check_mapping("the averager's state", state)
    if set(state) != set(expected):
        raise ValueError(
            f"the averager's state must have the keys {', '.join(expected)}, "
            f"got {', '.join(map(str, state))}"
        )
    theirs = state["rule"]
    _check_mapping("state['rule']", theirs)
    _check_number("state['rule']['seed']", theirs.get("seed"), 0, 2**64 - 1)
    ours = {**expected["rule"], "seed": theirs["seed"]}  # the checkpoint's counts, as elsewhere
    for key in (*ours, *(key for key in theirs if key not in ours)):
        if theirs.get(key) != ours.get(key):
            raise ValueError(
                f"the checkpoint's average has {key}={theirs.get(key)!r}, this averager "
                f"{key}={ours.get(key)!r}; make it with the checkpoint's arguments"
            )
    _check_number("state['step']", state["step"], -1, 2**62)
    # Steps are counted from 0, and each iterate once.
    name = f"state['n_averaged'] at step {state['step']}"
    _check_number(name, state["n_averaged"], 0, state["step"] + 1)
    score = state["score"]
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise ValueError(f"state['score'] must be a number or None, got {score!r}")
    _check_mapping("state['values']", state["values"])
    differing = set(state["values"]) ^ set(expected["values"])
    if differing:
        raise ValueError(
            "the checkpoint averages other parameters: "
            f"{', '.join(sorted(map(str, differing)))} in one only"
        )
    for key, ours in expected["values"].items():
        theirs = state["values"][key]
        if not isinstance(theirs, kind):
            raise ValueError(
                f"state['values'][{key!r}] must be a {kind.__name__}, got {theirs!r}; the"
                " checkpoint is damaged"
            )
        if tuple(theirs.shape) != tuple(ours.shape):
            raise ValueError(
                f"{key} has shape {tuple(ours.shape)}, in the checkpoint {tuple(theirs.shape)}"
            )


def _check_mapping(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a dict, got {value!r}; the checkpoint is damaged")


def _check_number(name: str, value: object, low: int, high: int) -> None:
    try:
        check_int(name, value, low, high)
    except TypeError as error:  # of a file it is the value that is wrong
        raise ValueError(f"{error}; the checkpoint is damaged") from None
