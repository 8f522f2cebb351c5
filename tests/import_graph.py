"""The imports between the project's own modules, read from the sources.

`python -m tests.import_graph` prints the counts that `spec/architecture.md` gives.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "qemu_swalp": ROOT / "qemu_swalp",
    "qemu_swalp_torch": ROOT / "adapters" / "qemu_swalp_torch",
    "qemu_swalp_keras": ROOT / "adapters" / "qemu_swalp_keras",
}

Graph = dict[str, set[str]]
"""Module → the modules of the project that it imports, at any depth of its code."""


@cache
def import_graph() -> Graph:
    """Of all three packages."""
    sources = {name: path for package in PACKAGES for name, path in _modules(package)}
    return {name: set(_imports(name, path, sources)) - {name} for name, path in sources.items()}


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    root = PACKAGES[package]
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join((package, *parts)).removesuffix(".__init__"), path


def _imports(name: str, path: Path, sources: dict[str, Path]) -> Iterator[str]:
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in sources)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            prefix = f"{base}." if node.level and node.module else base if node.level else ""
            module = prefix + (node.module or "")
            for alias in node.names:
                target = f"{module}.{alias.name}"
                if target in sources or module in sources:
                    yield target if target in sources else module


def parts_graph(graph: Graph, package: str) -> Graph:
    """The same between the parts of one package: its sub-packages and its single modules."""

    def part(module: str) -> str:
        return module.split(".")[1] if module.count(".") else "__init__"

    found: Graph = {}
    for module, imported in graph.items():
        if module.split(".")[0] == package:
            inner = {part(other) for other in imported if other.split(".")[0] == package}
            found.setdefault(part(module), set()).update(inner - {part(module)})
    return found


def floors(graph: Graph) -> dict[str, int]:
    """Each node's floor: 1 for what imports nothing, else one above the highest that it imports.

    The graph has no circles.
    """
    levels: dict[str, int] = {}

    def floor(node: str) -> int:
        if node not in levels:
            levels[node] = 1 + max(map(floor, graph.get(node, ())), default=0)
        return levels[node]

    for node in graph:
        floor(node)
    return levels


def main() -> None:
    """Print the counts that `spec/architecture.md` gives."""
    graph = import_graph()
    for package in PACKAGES:
        parts = parts_graph(graph, package)
        parts.pop("__init__", None)
        parts = {name: inner - {"__init__"} for name, inner in parts.items()}
        arrows = sum(map(len, parts.values()))
        print(
            f"{package}: {len(parts)} parts, {arrows} arrows, {max(floors(parts).values())} floors"
        )
    files = sum(map(len, graph.values()))
    print(f"files: {len(graph)}, {files} imports, longest chain {max(floors(graph).values())}")


if __name__ == "__main__":
    main()
