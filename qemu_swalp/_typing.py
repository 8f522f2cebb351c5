"""Types that public functions show."""

from __future__ import annotations

from typing import Any, TypeVar

ArrayT = TypeVar("ArrayT")
"""An array of any supported library; the result is one of the same type."""

Numbers = float | list[Any] | tuple[Any, ...]
"""Python numbers, and lists of them at any depth: they are NumPy float64."""
