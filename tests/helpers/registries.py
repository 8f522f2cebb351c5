"""What a test registers is gone after it, so that no test depends on those before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qemu_swalp import rounding
from qemu_swalp.formats import base, parser, scale_rules

REGISTRIES = (base.FAMILIES, parser.REGISTERED, rounding.REGISTERED, scale_rules.OWN_RULES)


@contextmanager
def left_as_found() -> Iterator[None]:
    """Restore the families, names, rounding modes and scale rules that were known before."""
    before = [dict(registry) for registry in REGISTRIES]
    yield
    if before != [dict(registry) for registry in REGISTRIES]:
        for registry, entries in zip(REGISTRIES, before, strict=True):
            registry.clear()
            registry.update(entries)
        base.forget_strings()
