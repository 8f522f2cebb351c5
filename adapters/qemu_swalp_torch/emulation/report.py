"""The lines of the table of an emulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from qemu_swalp import Accumulation
from qemu_swalp.training import ELEMENTWISE, Quantizer
from qemu_swalp.training.roles import SECTIONS

from ..model.coverage import Report, share
from ..model.interception import scope_of

Line = tuple[str, str, str, str, str, str]


def lines_of(emulation: Any) -> Iterator[Line]:
    """(place, role, format, rounding, runs, share) of all that is rounded, and of what is not."""
    scope = scope_of(emulation.model)
    report = None if scope is None else scope.report
    for section, handle in emulation.handles.items():
        for site in handle.sites:
            flops = report.rounded[site.name] if report and section == "products" else 0
            part = share(flops, report.total) if flops and report else ""
            factors = site.factors if section == "products" else {}
            for names, text in _grouped(_rules(section, site), factors).items():
                yield (site.name or "(model)", names, *_parts(text), str(_runs(site)), part)
                part = ""
            for names, text in _grouped(_transforms(section, site)).items():
                yield (site.name or "(model)", names, text, "", "", "")
    if emulation.quantized:
        roles: dict[str, Any] = {
            role: emulation.recipe.quantizer(role) for role in SECTIONS["optimizer"]
        }
        roles |= dict(emulation.recipe.state)
        for names, text in _grouped({k: str(q) for k, q in roles.items() if q}).items():
            yield ("optimizer", names, *_parts(text), "", "")
    if emulation.averager is not None:
        average = emulation.recipe.average
        parts = ("float", "") if average is None else _parts(str(average))
        yield ("average", "average", *parts, str(emulation.averager.n_averaged), "")
    backward = None if scope is None else scope.backward
    for when, found in (("", report), (" in the backward", backward)):
        if found is not None:
            yield from _left_out(found, when)
    if emulation.recipe.elementwise_rule("backward.add") is not None:
        yield ("(autograd)", "sums of gradients of what is used twice", "float", "", "", "")


def _left_out(report: Report, when: str) -> Iterator[Line]:
    """What stays in float of a forward or a backward, with its share of that."""
    for kind, left in (("excluded", report.excluded), ("uncovered", report.uncovered)):
        for (name, what), flops in left.items():
            words = f"{kind}{when}: {what}"
            yield (name or "(model)", words, "float", "", "", share(flops, report.total))
    for (name, what), count in report.operations.items():
        yield (name or "(model)", f"uncovered{when}: {what}", "float", "", str(count), "")


def _rules(section: str, site: Any) -> dict[str, str]:
    if section == "activations":
        pairs = {"activation": site.activation, "error": site.error}
    elif section == "products":
        pairs = site.quantizers
    else:
        pairs = dict(zip(ELEMENTWISE, site.quantizers, strict=True))
    return {name: text for name, text in pairs.items() if text is not None}


def _transforms(section: str, site: Any) -> dict[str, str]:
    if section != "products":
        return {}
    return {
        **{f"scale of {name}": str(rule) for name, rule in site.scaling.items()},
        **{f"{name}.transform": str(rule) for name, rule in site.transforms.items()},
    }


def _grouped(
    rules: Mapping[str, str], factors: Mapping[str, float] = MappingProxyType({})
) -> dict[str, str]:
    """Roles that are rounded alike together, those with a factor apart."""
    alike: dict[tuple[str, float | None], list[str]] = {}
    for name, text in rules.items():
        alike.setdefault((text, factors.get(name)), []).append(name)
    return {
        _joined(names) + ("" if factor is None else f" (factor={factor:.6g})"): text
        for (text, factor), names in alike.items()
    }


def _joined(names: list[str]) -> str:
    """ "forward" for all operands of the forward product, "dgrad.error" for one."""
    found = []
    for prefix in ("forward", "dgrad", "wgrad"):
        own = [name for name in names if name.startswith(prefix + ".")]
        if len(own) == 2 and not any(name.endswith(".sum") for name in own):
            found.append(prefix)
        elif own:
            found += own
    return ", ".join([*(n for n in names if "." not in n), *found])


def _parts(text: str) -> tuple[str, str]:
    """Format and rounding of a rule."""
    try:
        quantizer = Quantizer.parse(text)
    except ValueError:
        quantizer = Accumulation.parse(text).parts()[0][1]
    return str(quantizer.format), str(quantizer.rounding)


def _runs(site: Any) -> int:
    return int(site.runs)
