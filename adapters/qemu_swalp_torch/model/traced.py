"""What torch.compile traces in float though the recipe asks for rounding: found in the graph.

A graph has no first forward that could be watched (`coverage`). Instead, while it is traced, the
calls that a module has added to it are looked at when the next module begins and when it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._compat import (
    DispatchMode,
    TracedNode,
    constant,
    traced_nodes,
    transforms_are_active,
)
from .coverage import KINDS, OWN_FILES, Report, is_floating, kinds_of, tell

TRANSPARENT = frozenset(
    (
        *("wrap", "tag_activation_checkpoint", "wrap_activation_checkpoint", "invoke_subgraph"),
        *("cond", "while_loop", "map_impl", "scan", "associative_scan", "wrap_with_autocast"),
        *("wrap_with_set_grad_enabled", "hints_wrapper", "strict_mode"),
    )
)
"""Higher-order operators that compute what is in their subgraphs, and no more."""

AUTOGRAD_FUNCTION = "autograd_function_apply"


@constant
def check_untransformed(name: str) -> None:
    """RuntimeError within a transform of `torch.func`, where torch.compile cannot trace what
    rounds, or loses gradients.
    """
    if transforms_are_active():
        raise RuntimeError(
            "torch.compile cannot trace a transform of torch.func around the rounded products or"
            f" operations of {name or 'the model'!r}; call the transform without torch.compile"
        )


@constant
def check_traced(name: str, products: str, elementwise: str) -> None:
    """Tell what was traced in float since the last call; torch.compile calls this as it traces.

    `products` and `elementwise` say what to do about it in the module of that name: "raise",
    "warn", or "ignore".
    """
    check_untransformed(name)
    report = Report()
    for node in traced_nodes():
        if (products, elementwise) != ("ignore", "ignore"):
            for kind, what in _computed(node):
                if kind == "product":
                    report.uncovered[name, what] += 0  # no graph tells floating-point operations
                else:
                    report.operations[name, what] += 1
    tell(report, {"products": products, "elementwise": elementwise})


def _computed(node: TracedNode) -> Iterator[tuple[str, str]]:
    """Kind and name of what a call computes and we do not."""
    if any(f'File "{file}' in node.stack for file in OWN_FILES):
        return
    if node.operator is None:
        yield from _dispatched(node)
    elif node.operator == AUTOGRAD_FUNCTION:
        kinds = {kind for kind, _ in _within(node)}
        yield from ((kind, "an autograd.Function") for kind in KINDS if kind in kinds)
    elif node.operator in TRANSPARENT:
        for child in node.children:
            yield from _computed(child)
    else:
        yield from ((kind, node.operator) for kind in KINDS)


def _within(node: TracedNode) -> Iterator[tuple[str, str]]:
    """All that the subgraphs of a call compute, whoever's code it is."""
    for child in node.children:
        yield from _dispatched(child) if child.operator is None else _within(child)


def _dispatched(node: TracedNode) -> list[tuple[str, str]]:
    watch = _Watch()
    node.repeat(watch)
    return watch.seen


class _Watch(DispatchMode):  # type: ignore[no-untyped-call]
    """Notes the kinds and names of the operators that are dispatched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if is_floating(result):
            self.seen.extend(kinds_of(func, args, kwargs or {}).items())
        return result
