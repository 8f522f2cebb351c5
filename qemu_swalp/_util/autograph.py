"""TensorFlow's AutoGraph, which rewrites the Python code that a `tf.function` calls."""

from __future__ import annotations

from typing import TypeVar

F = TypeVar("F")


def no_autograph(function: F) -> F:
    """Mark a function as one that AutoGraph calls as it is: its control flow is on the host.

    What `tf.autograph.experimental.do_not_convert` does, without an import of TensorFlow: AutoGraph
    looks for this attribute.
    """
    function.autograph_info__ = None  # type: ignore[attr-defined]
    return function
