"""Where the names come from that a recipe's overrides match, and which variables are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qemu_swalp.training import Phases

from ..calls.sites import check_model
from ..layers.names import ENDS, check_choice_of_layers, is_built, named_layers, placed
from ..layers.selection import Selection, chosen

CHECKED, LEFT_OUT, AMONG = "names_checked", "left_out", "left_out_among"
KEYS = (CHECKED, LEFT_OUT, AMONG, "left_out_of")
"""Of a config; the last one's told too little, and is not read."""

Variable = tuple[str, tuple[int, ...]]
"""Its path and shape."""


@dataclass(frozen=True)
class Names:
    """What the recipe of an optimizer names."""

    model: Any = None
    """Whose layers and variables it names; without it, those that the optimizer is built with."""
    exclude: Selection = ()
    """Layers of the model whose variables are left out."""
    left_out: tuple[int, ...] = ()
    """Indices of variables that are left out; not by path, which two variables may share."""
    among: tuple[Variable, ...] = ()
    """The variables that these are some of."""
    checked: bool = False
    """Whether all patterns are known to match something."""

    @staticmethod
    def of(model: Any, exclude: Selection) -> Names:
        """From the arguments of a call.

        Raises
        ------
        TypeError: if the model is none.
        ValueError: if layers are excluded and there is no model, or not such layers in it.
        """
        if model is not None:
            check_model(model)
            check_choice_of_layers(model, "exclude", exclude)
        elif exclude != ():
            raise ValueError(
                f"exclude names layers; pass model= too. Received: exclude={exclude!r}"
            )
        return Names(model, exclude)

    def placed(self, phases: Phases) -> Phases:
        """The phases with names for positions, checked as far as the model is built."""
        return phases if self.model is None else phases.map(lambda each: placed(self.model, each))

    def settled(self, phases: Phases, variables: Sequence[Any]) -> tuple[Names, Phases]:
        """Both for the variables that the optimizer is built with; no model is needed any more.

        Raises
        ------
        ValueError: if a pattern of the overrides matches nothing, or if these are not the
            variables of which a config leaves out some.
        """
        among = tuple((_path(v), tuple(v.shape)) for v in variables)
        if self.checked:
            if self.left_out and not alike(self.among, among):
                raise ValueError(
                    f"the config leaves out variables {list(self.left_out)} of {_told(self.among)},"
                    f" and the optimizer is built with {_told(among)}, as after layers were frozen;"
                    " make the optimizer anew with model= and exclude="
                )
            return self, phases
        if self.model is not None:
            left_out = self._indices(variables)
            of = among if left_out else ()
            return Names(left_out=left_out, among=of, checked=True), self.placed(phases)
        paths = [path for path, _ in among]
        for _, recipe in phases.recipes:
            of_layers = [p for p, _ in recipe.overrides if p.rpartition("/")[2] in ENDS]
            recipe.check_patterns([*paths, *of_layers], remedy=REMEDY)
        return Names(checked=True), phases

    def _indices(self, variables: Sequence[Any]) -> tuple[int, ...]:
        named = named_layers(self.model)
        excluded = [layer for name, layer in named if chosen(name, layer, self.exclude)]
        held = {id(v) for layer in excluded for v in layer.variables}
        return tuple(i for i, v in enumerate(variables) if id(v) in held)

    def plain(self, phases: Phases) -> tuple[dict[str, Any], Phases]:
        """Both for a config: plain values, and the phases that belong to them.

        Raises
        ------
        ValueError: if layers are excluded that may have no variables yet.
        """
        names = self
        if self.model is not None and is_built(self.model):
            names, phases = self.settled(phases, self.model.trainable_variables)
        elif self.exclude not in NONE:
            raise ValueError(
                "which variables excluded layers have is not known before they are built; call"
                " model.build(input_shape), or the model, first"
            )
        among = [[path, list(shape)] for path, shape in names.among]
        return {CHECKED: names.checked, LEFT_OUT: list(names.left_out), AMONG: among}, phases

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Names:
        """Inverse of `plain`; the earliest configs were of optimizers that nothing checked.

        Raises
        ------
        ValueError: if the config leaves out variables and does not tell of which.
        """
        left_out, among = tuple(config.get(LEFT_OUT, ())), config.get(AMONG, ())
        if left_out and not among:
            raise ValueError(
                f"the config leaves out variables {list(left_out)}, and does not tell of which, as"
                " those of drafts; make the optimizer anew with model= and exclude="
            )
        among = tuple((path, tuple(shape)) for path, shape in among)
        return Names(left_out=left_out, among=among, checked=config.get(CHECKED, True))


def alike(known: Sequence[Variable], given: Sequence[Variable]) -> bool:
    """Whether variables may be those that are known, in their order: the shapes are the same, and
    so are the paths where both have them, but for the numbers at the ends of names, which Keras
    counts over all models. None stands at another one's place.

    Those of one name and shape have all moved on by the same numbers, as in a model that is made
    again: else some may be others, or swapped.
    """
    if len(known) != len(given):
        return False
    moved: dict[Variable, tuple[int, ...]] = {}
    for old, new in zip(known, given, strict=True):
        name, others, by = _compared(old[0], new[0])
        if old[1] != new[1] or name != others or (new != old and new in known):
            return False
        if moved.setdefault((name, old[1]), by) != by:
            return False
    return True


def _compared(a: str, b: str) -> tuple[str, str, tuple[int, ...]]:
    """Two paths without numbers, and by how much these differ; without the scopes of one alone: a
    layer may be built within its model's, or before.
    """
    pairs = zip(reversed(a.split("/")), reversed(b.split("/")), strict=False)
    old, new = zip(*((_numbered(x), _numbered(y)) for x, y in pairs), strict=True)
    first, second = ("/".join(name for name, _ in parts) for parts in (old, new))
    return first, second, tuple(y - x for (_, x), (_, y) in zip(old, new, strict=True))


def _numbered(name: str) -> tuple[str, int]:
    """A name and the number that Keras added to it; 0 where that is the first."""
    found = NUMBER.search(name)
    return (name[: found.start()], int(found[0][1:])) if found else (name, 0)


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def _told(variables: Sequence[Variable]) -> str:
    return ", ".join(f"{path} {shape}" for path, shape in variables)


NUMBER = re.compile(r"_\d+$")
"""That Keras adds to a name that it has given before."""


NONE: tuple[Any, ...] = ((), [])
"""Selections of nothing."""

REMEDY = "correct or remove the pattern, or pass model= if it names layers"
"""What to do about a pattern that no variable matches."""
