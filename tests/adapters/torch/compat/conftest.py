"""What contract tests of PyTorch's private API say when one fails."""

from __future__ import annotations

import torch


def changed(item: str) -> str:
    return f"PyTorch {torch.__version__} changed what qemu_swalp_torch._compat.{item} relies on"
