"""`import qemu_swalp` loads NumPy and no framework; the layers import only downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import qemu_swalp

PACKAGE = Path(qemu_swalp.__file__).parent
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


def test_the_test_above_can_fail() -> None:
    assert "torch" in loaded_after("import qemu_swalp, torch")


LAYERS = [
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
]


def imports_of(path: Path) -> set[str]:
    """Top-level parts of the package that a file imports, at any depth of its code."""
    parts = path.relative_to(PACKAGE).parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            target = [*base, *(node.module or "").split(".")] if node.module else list(base)
            names = [target[0]] if target and target[0] else [alias.name for alias in node.names]
            found |= set(names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qemu_swalp."):
            found.add(node.module.split(".")[1])  # type: ignore[union-attr]
    return found


def test_layers_import_only_those_below() -> None:
    for path in PACKAGE.rglob("*.py"):
        layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if layer in ("__init__", "__main__"):
            continue
        allowed = set(LAYERS[: LAYERS.index(layer) + 1])
        assert imports_of(path) & set(LAYERS) <= allowed, path
