"""`import qemu_swalp` loads NumPy and no framework; imports run one way, without circles."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import qemu_swalp as q
from tests.import_graph import PACKAGES, ROOT, import_graph, parts_graph

HEAVY = (
    "torch",
    "tensorflow",
    "jax",
    "cupy",
    "keras",
    "ml_dtypes",
    "matplotlib",
    "sklearn",
    "tqdm",
    "safetensors",
    "qemu_swalp_torch",
    "qemu_swalp_keras",
)


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import qemu_swalp",
        "import qemu_swalp.training",
        "import qemu_swalp as q; q.quantize([0.3], 'bfp8'); q.encode([1.0], 'e4m3fn')",
        "from qemu_swalp.cli import main",
    ],
)
def test_no_framework_is_loaded(statement: str) -> None:
    assert loaded_after(statement) & set(HEAVY) == set()


def test_a_name_is_loaded_when_it_is_used() -> None:
    """`import qemu_swalp` by itself costs next to nothing; NumPy comes with the first name."""
    assert "numpy" not in loaded_after("import qemu_swalp")
    assert "numpy" in loaded_after("from qemu_swalp import quantize")


def test_editors_see_every_public_name() -> None:
    """What type checkers read and what is loaded at run time are the same names and modules."""
    tree = ast.parse(Path(q.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == q._MODULE_OF
    assert set(seen) <= set(dir(q))
    for name in seen:
        assert getattr(q, name) is not None


def test_star_import_leaves_the_builtins_alone() -> None:
    names: dict[str, object] = {}
    exec("from qemu_swalp import *", names)
    assert "quantize" in names
    del names["__builtins__"]
    assert not set(names) & set(dir(builtins))


@pytest.mark.parametrize(("old", "new"), q._RENAMED.items())
def test_renamed_names_go_on_with_a_warning(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"qemu_swalp.{old} is called {new} now"):
        assert getattr(q, old) is getattr(q, new)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'qemu_swalp' has no attribute 'quantise'"):
        q.quantise  # noqa: B018


def test_the_tests_above_can_fail() -> None:
    assert "torch" in loaded_after("import qemu_swalp, torch")


LAYERS = {
    "qemu_swalp": [
        "_typing",
        "_util",
        "arrays",
        "rounding",
        "random_bits",
        "formats",
        "reference",
        "kernels",
        "ops",
        "storage",
        "training",
        "interop",
        "experiments",
        "cli",
    ],
    "qemu_swalp_torch": [
        "_compat",
        "sections",
        "tensors",
        "ops",
        "model",
        "optim",
        "averaging",
        "emulation",
        "distributed",
        "monitoring",
        "lightning",
        "huggingface",
    ],
    "qemu_swalp_keras": [
        "_compat",
        "sections",
        "watching",
        "backend",
        "layers",
        "calls",
        "products",
        "elementwise",
        "optim",
        "averaging",
        "phases",
        "tracing",
        "monitoring",
        "exporting",
        "emulation",
    ],
}
"""The parts of each package from the ground up: each imports only those before it."""


@pytest.mark.parametrize("package", LAYERS)
def test_parts_import_only_those_below(package: str) -> None:
    layers = LAYERS[package]
    for part, imported in parts_graph(import_graph(), package).items():
        if part not in ("__init__", "__main__"):
            assert part in layers, f"{package}.{part} has no place in LAYERS"
            allowed = {"__init__", *layers[: layers.index(part)]}
            assert imported <= allowed, f"{package}.{part} imports {imported - allowed}"


@pytest.mark.parametrize("package", LAYERS)
def test_the_map_for_newcomers_names_every_part(package: str) -> None:
    """And every path on the page leads somewhere."""
    page = (ROOT / "spec" / "architecture.md").read_text()
    for part in LAYERS[package]:
        assert f"`{part}/`" in page or f"`{part}.py`" in page, f"{package}.{part}"
    places = (ROOT, *PACKAGES.values(), PACKAGES["qemu_swalp"] / "kernels")
    for path in re.findall(r"`([\w.]+/[\w./]*\.\w+)`", page):
        assert any((place / path).exists() for place in places), path


def test_no_import_circle() -> None:
    TopologicalSorter(import_graph()).prepare()


def test_the_core_knows_no_adapter_and_the_adapters_not_each_other() -> None:
    """But for the experiments, which load an adapter when they run on one."""
    for module, imported in import_graph().items():
        packages = {name.split(".")[0] for name in imported} - {"qemu_swalp", module.split(".")[0]}
        if not module.startswith("qemu_swalp.experiments."):
            assert packages == set(), module
