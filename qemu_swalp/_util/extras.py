"""Modules that are not the core's own, imported when they are first needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

EXPERIMENTS = "experiments"
"""The extra that installs what experiments and pictures need."""
FILES = "files"
"""The extra that installs what files of tensors need."""
TORCH = "torch"
"""The extra that installs PyTorch, which reads .pt files."""
GGUF = "gguf"
"""The extra that installs what reads GGUF files."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module that an extra of the package installs. ImportError that names the extra."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"this needs {package}, which cannot be imported ({error}); "
            f"pip install 'qemu-swalp[{extra}]'"
        ) from error
