"""Checks of a checkpoint of an average, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._util.checks import check_int


def check_state(state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """ValueError if the saved state of an average is damaged, or not of the form of the expected
    one: the policy's record as "rule", "step", "n_averaged", "score", and arrays by name as
    "values".
    """
    if set(state) != set(expected):
        raise ValueError(
            f"the averager's state must have the keys {', '.join(expected)}, "
            f"got {', '.join(map(str, state))}"
        )
    theirs = state["rule"]
    check_int("state['rule']['seed']", theirs.get("seed"), 0, 2**64 - 1)
    ours = {**expected["rule"], "seed": theirs["seed"]}  # the checkpoint's counts, as elsewhere
    for key in (*ours, *(key for key in theirs if key not in ours)):
        if theirs.get(key) != ours.get(key):
            raise ValueError(
                f"the checkpoint's average has {key}={theirs.get(key)!r}, this averager "
                f"{key}={ours.get(key)!r}; make it with the checkpoint's arguments"
            )
    check_int("step", state["step"], -1, 2**62)
    check_int("n_averaged", state["n_averaged"], 0, 2**62)
    differing = set(state["values"]) ^ set(expected["values"])
    if differing:
        raise ValueError(
            f"the checkpoint averages other parameters: {', '.join(sorted(differing))} in one only"
        )
    for key, ours in expected["values"].items():
        theirs = state["values"][key]
        if tuple(theirs.shape) != tuple(ours.shape):
            raise ValueError(
                f"{key} has shape {tuple(ours.shape)}, in the checkpoint {tuple(theirs.shape)}"
            )
