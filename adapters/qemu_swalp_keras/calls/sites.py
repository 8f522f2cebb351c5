"""Sections of a recipe put into the dtype policies of a model's layers, and taken off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from qemu_swalp._util.checks import check_choice
from qemu_swalp.training import Phases, Recipe
from qemu_swalp.training.seeds import seed_for

from ..backend import strategy_scope
from ..layers.names import (
    LOSS,
    check_choice_of_layers,
    computes_in_float16,
    computes_itself,
    named_layers,
    placed,
    sites,
)
from ..layers.selection import Selection, chosen, patterns_in
from .losses import see_loss
from .policy import SECTIONS, RoundingPolicy, Section
from .rounding_state import loss_policy_of, policy_of, prepare
from .scales import find_scales, remove_scales
from .uncovered import POLICIES

NAMES = {
    "products": ("products", "unquantize_gemms"),
    "elementwise": ("elementwise operations", "unquantize_elementwise"),
}
"""By section: what it rounds, and what takes it off."""


def put(
    model: Any,
    section: str,
    recipe: Recipe | Phases,
    *,
    exclude: Selection,
    seed: int | None,
    uncovered: str,
    attention: bool = False,
) -> Any:
    """The model, whose layers round a section of a recipe from now on, or that of a first phase.

    Raises
    ------
    TypeError: if it is no Keras model.
    ValueError: if a layer rounds the section already, or was quantized by Keras; if a pattern
        matches nothing; for a seed or a choice that is none.
    """
    check_model(model)
    check_choice("uncovered", uncovered, POLICIES)
    check_choice_of_layers(model, "exclude", exclude)
    phases = recipe.map(lambda each: placed(model, each)) if isinstance(recipe, Phases) else None
    recipe = placed(model, recipe) if isinstance(recipe, Recipe) else recipe.at(0)
    patterns = list(patterns_in(exclude))
    left_out = [name for name, layer in named_layers(model) if chosen(name, layer, exclude)]
    excluded = tuple(dict.fromkeys((*patterns, *left_out)))
    policies, scaled = [], computes_in_float16(model)
    with seed_for(section, seed) as drawn:
        asked = Section(recipe, excluded, drawn, attention, uncovered, phases).at(0)
        for place, (path, layer) in enumerate(sites(model), start=1):
            _check(path, layer, section)
            parts = {**_sections(layer), section: asked}
            policies.append((layer, _policy(layer, path, place, parts, scaled)))
    with strategy_scope(model):
        for layer, policy in policies:
            layer.dtype_policy = policy
            prepare(layer)
            see_loss(layer)
        if any(policy.delayed for _, policy in policies):
            find_scales(model)
    return model


def go_to(model: Any, step: int) -> None:
    """Have the layers of a model round as they do from a step of the optimizer on."""
    for _, layer in sites(model):
        policy = policy_of(layer)
        if policy is not None and (then := policy.at(step)) is not policy:
            layer.dtype_policy = then


def take_off(model: Any, section: str) -> Any:
    """The model, whose layers round the section no longer."""
    for _, layer in sites(model):
        policy, parts = policy_of(layer), _sections(layer)
        if policy is not None and parts.pop(section, None) is not None:
            layer.dtype_policy = (
                _policy(layer, policy.path, policy.place, parts, policy.scaled)
                if parts
                else policy.name
            )
            if section == "products":
                remove_scales(layer)
    return model


def policies_of(model: Any) -> Iterator[tuple[str, RoundingPolicy]]:
    """(name, policy) of all that computes in a model, its loss last."""
    for path, layer in sites(model):
        policy = policy_of(layer)
        if policy is not None and computes_itself(layer):
            yield path or layer.name, policy
    if (of_loss := loss_policy_of(model)) is not None:
        yield LOSS, of_loss


def check_model(model: Any) -> None:
    """Raise TypeError unless it is a model or layer of Keras."""
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            "model must be a Keras model or layer, got "
            f"{type(model).__module__}.{type(model).__qualname__}"
        )


def _sections(layer: Any) -> dict[str, Section]:
    """What the layer rounds already."""
    policy = policy_of(layer)
    held = {name: getattr(policy, name, None) for name in SECTIONS}
    return {name: section for name, section in held.items() if section is not None}


def _policy(
    layer: Any, path: str, place: int, parts: dict[str, Section], scaled: bool
) -> RoundingPolicy:
    sections = {name: section.to_dict() for name, section in parts.items()}
    before = policy_of(layer)
    scales = before.scales if before is not None and "products" in sections else {}
    return RoundingPolicy(
        layer.dtype_policy.name, layer.name, path, place, **sections, scales=scales, scaled=scaled
    )


def _check(path: str, layer: Any, section: str) -> None:
    name = path or layer.name
    if section in _sections(layer):
        what, call = NAMES[section]
        raise ValueError(f"the {what} of {name!r} are rounded already; call {call} first")
    if layer.dtype_policy.quantization_mode is not None:
        raise ValueError(
            f"{name!r} was quantized by Keras ({layer.dtype_policy.name}); emulate a model that was"
            " not"
        )
