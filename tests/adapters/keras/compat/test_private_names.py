"""Nothing private of Keras and its backends is touched outside of `_compat`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import requires, version
from itertools import chain
from pathlib import Path

import keras
import qemu_swalp_keras
from packaging.requirements import Requirement

from tests.adapters.keras.compat.conftest import built


def test_the_pinned_range_contains_the_installed_keras() -> None:
    (pin,) = {
        str(r.specifier)
        for r in map(Requirement, requires("qemu-swalp") or ())
        if r.name == "keras"
    }
    assert Requirement(f"keras{pin}").specifier.contains(version("keras"))


PACKAGE = Path(qemu_swalp_keras.__file__).parent


TREES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")
}


FRAMEWORK_CLASSES = (
    keras.optimizers.Optimizer,
    keras.layers.Layer,
    keras.callbacks.Callback,
    keras.optimizers.schedules.LearningRateSchedule,
)


def is_private(name: str) -> bool:
    """Of named tuples `_replace` is public."""
    special = name == "_replace" or (name.startswith("__") and name.endswith("__"))
    return name.startswith("_") and not special


def defined_here(without: str = "-") -> set[str]:
    """Private names that the adapter's classes define: methods, and attributes of self."""
    names = set()
    for tree in (tree for name, tree in TREES.items() if not name.startswith(without)):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                names.add(node.name)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ):
                names.add(node.attr)
    return names


def private_uses(tree: ast.AST, ours: set[str]) -> Iterator[str]:
    """Private attributes that are not ours, and private modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (
            (is_private(node.attr) and node.attr not in ours)
            or node.attr in ("__internal__", "src")
            or (node.attr == "core" and getattr(node.value, "id", "") == "jax")
        ):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            parts = f"{node.module}.{'.'.join(alias.name for alias in node.names)}".split(".")
            if parts[0] in ("keras", "tensorflow", "jax", "torch"):
                yield from (part for part in parts if is_private(part) or part == "src")


def test_private_api_is_used_in_compat_alone() -> None:
    ours = defined_here()
    uses = {name: sorted(set(private_uses(tree, ours))) for name, tree in TREES.items()}
    in_compat = [uses.pop(name) for name in list(uses) if name.startswith("_compat/")]
    assert any(in_compat), "the search finds nothing any more"
    assert {name: found for name, found in uses.items() if found} == {}


def test_no_private_name_of_keras_is_overridden() -> None:
    theirs = {name for kind in FRAMEWORK_CLASSES for name in dir(kind) if is_private(name)}
    optimizer, _ = built()
    theirs |= {name for name in vars(optimizer) if is_private(name)}
    assert {name for name in defined_here("_compat/") if is_private(name)} & theirs == set()


def test_each_item_of_compat_has_a_docstring_and_a_test() -> None:
    tests = Path(__file__).parent.glob("test_*.py")
    tested = "\n".join(ast.unparse(ast.parse(test.read_text())) for test in tests)
    bodies = (tree.body for name, tree in TREES.items() if name.startswith("_compat/"))
    for node in chain.from_iterable(bodies):
        if isinstance(node, ast.FunctionDef):
            assert ast.get_docstring(node), node.name
            assert f"_compat.{node.name}(" in tested, node.name
