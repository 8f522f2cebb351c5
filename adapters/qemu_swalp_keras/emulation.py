"""One call for all sections of a recipe, and a report of what is rounded where."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from qemu_swalp._util.checks import check_bool, check_choice, checked_options
from qemu_swalp._util.tables import table
from qemu_swalp.training import ELEMENTWISE, Phases, Recipe

from ._compat import flat_layers
from .backend import strategy_scope
from .calls.operands import described
from .calls.sites import policies_of, put
from .calls.uncovered import POLICIES
from .elementwise.quantize import unquantize_elementwise
from .layers.names import check_choice_of_layers, placed
from .layers.quantize import Quantize
from .layers.rebuild import is_graph
from .layers.rewrite import in_phases
from .layers.selection import COMPUTING_LAYERS, Selection
from .optim.wrap import QuantizedOptimizer, unquantize_optimizer
from .products.gemms import unquantize_gemms
from .sections import phases_of, recipe_of


@dataclass(frozen=True)
class Emulation:
    """What `emulate` made; `model, optimizer = emulation` unpacks it, `print(emulation)` shows it.

    Products are listed once the model was called: then it is known which it makes.
    """

    model: Any
    optimizer: Any
    phases: Phases
    """What was asked for: one recipe from step 0 on, or several."""
    uncovered: tuple[str, ...]
    """What the recipe could not be applied to."""
    given: Any
    """The model that `emulate` was called with."""

    @property
    def recipe(self) -> Recipe:
        """The recipe, under phases the present one."""
        since = self.optimizer.phase.since if self.phases.several else 0
        return self.phases.at(since)

    def remove(self) -> tuple[Any, Any]:
        """Undo everything: weights, the optimizer's state and its iterations keep their values.

        Returns
        -------
        (model, optimizer) : the model that `emulate` was called with, and the optimizer within the
            quantized one, see `unquantize_optimizer`; compile the one with the other to train on.
        """
        unquantize_gemms(self.given)
        unquantize_elementwise(self.given)
        if not isinstance(self.optimizer, QuantizedOptimizer):
            return self.given, self.optimizer
        return self.given, unquantize_optimizer(self.optimizer)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.optimizer))

    def __str__(self) -> str:
        lines = [*self._optimizer_lines(), *self._activation_lines(), *self._product_lines()]
        lines += self._elementwise_lines()
        if self.phases.several:
            now = f"now from step {self.optimizer.phase.since} on"
            lines += [("phases", f"{self.phases!r}".removeprefix("Phases "), now, "", "")]
        lines += [("", f"uncovered: {what}", "", "", "") for what in self.uncovered]
        return table(("place", "role", "format", "rounding", "FLOPs"), lines, left=range(4))

    def _optimizer_lines(self) -> Iterator[tuple[str, ...]]:
        if self.optimizer is None:
            return
        roles = ("weight", "gradient", "momentum", "accumulator")
        for role, q in (*((r, getattr(self.recipe, r)) for r in roles), *self.recipe.state):
            if q is not None:
                yield "optimizer", role, str(q.format), str(q.rounding), ""

    def _activation_lines(self) -> Iterator[tuple[str, ...]]:
        for layer in flat_layers(self.model):
            if isinstance(layer, Quantize):
                for role, q in (("activation", layer.activation), ("error", layer.error)):
                    if q is not None:
                        yield layer.name, role, str(q.format), str(q.rounding), ""

    def _product_lines(self) -> Iterator[tuple[str, ...]]:
        products = [p for _, policy in policies_of(self.model) for p in policy.seen]
        total = sum(p.flops for p in products) or 1
        for product in products:
            share = f"{100 * product.flops / total:.1f} %"
            if product.operands is None:
                kind = "two activations" if product.activations else "excluded"
                yield product.name, f"{kind}: {product.operation}", "float", "", share
                continue
            for role, form, rounding in described(product.operands):
                yield product.name, f"{product.operation} {role}", form, rounding, share
                share = ""

    def _elementwise_lines(self) -> Iterator[tuple[str, ...]]:
        for place, policy in policies_of(self.model):
            rules = policy.functions(place)
            for name, rule in zip(ELEMENTWISE, rules.quantizers if rules else (), strict=False):
                if rule is not None:
                    form, _, rounding = str(rule).partition("/")
                    yield place, name, form, rounding, ""


def emulate(
    model: Any,
    optimizer: keras.optimizers.Optimizer | str | None,
    recipe: Recipe | str | Phases,
    *,
    exclude: Selection = (),
    average: bool | Mapping[str, Any] = False,
    attention: bool = True,
    uncovered: str = "raise",
    seed: int | None = None,
) -> Emulation:
    """Apply all that a recipe says: to activations and errors, operands and sums of all products,
    elementwise operations, the optimizer's tensors, and, if asked, the average.

    Parameters
    ----------
    model : a Keras model; its layers are shared with the result, whose products and elementwise
        operations they round.
    optimizer : a Keras optimizer that is not built yet, or its name; None if the recipe rounds
        nothing in an optimizer.
    recipe : `qemu_swalp.training.Recipe`, or the name of a preset such as "swalp8"; or `Phases`,
        whose recipes follow each other by the optimizer's `iterations`. At each change weights are
        rounded anew, from the accumulator where the recipe before had one. Seeds, numbers of calls
        and the average go on. `fit` and `train_on_batch` trace and compile the step anew then. A
        loop of your own whose step is compiled calls `optimizer.change_phase()`.
    exclude : layers that stay in float with their parameters: a pattern of names, a layer type, a
        predicate (name, layer) -> bool, or a sequence of these.
    average : True to average the weights from the first update on; or {"start": …, "cycle": …}, as
        swa_start and swa_cycle of `QuantizedOptimizer`.
    attention : whether products of two activations are rounded; see `quantize_gemms`.
    uncovered : what to do about what the recipe cannot be applied to, here or in a first call:
        "raise", "warn" or "ignore".
    seed : of the random bits. None: another one for each model that is given none in this process,
        the same in the next run.

    Returns
    -------
    `Emulation`: the model and the optimizer for `compile`, and a report. A model that was compiled
    with another optimizer than one that rounds has to be compiled again.

    Raises
    ------
    TypeError: for arguments of other types.
    ValueError: if the recipe is empty; if it rounds the optimizer's tensors, or there are phases,
        and there is no optimizer; if a phase has delayed scaling; if something could not be
        applied; if a pattern of `exclude` or of the recipe's `overrides` matches nothing. The model
        is then as before.

    >>> import keras, numpy as np
    >>> model = keras.Sequential(
    ...     [keras.layers.Input((64,)), keras.layers.Dense(32, name="fc"), keras.layers.Dense(10)]
    ... )
    >>> recipe = Recipe(weight="bfp8", operands={"input": "e4m3fn", "error": "e5m2"})
    >>> emulation = emulate(model, "sgd", recipe, exclude=model.layers[-1].name)
    >>> model, optimizer = emulation
    >>> model.compile(optimizer, "mse")
    >>> model(np.ones((1, 64), "float32")).shape[1], str(emulation).count("e5m2")
    (10, 2)
    """
    phases = _phases(recipe)
    check_choice("uncovered", uncovered, POLICIES)
    check_bool("attention", attention)
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            f"model must be a Keras model, got {type(model).__module__}.{type(model).__qualname__}"
        )
    sections = {section for _, each in phases.recipes for section in each.sections}
    if not sections and not phases.at(0).allow_empty:
        raise ValueError("nothing to round: the recipe is empty")
    if "optimizer" in sections and optimizer is None:
        raise ValueError("the recipe rounds the optimizer's tensors; pass the optimizer")
    if phases.several and optimizer is None:
        raise ValueError("phases count the optimizer's steps; pass the optimizer")
    check_choice_of_layers(model, "exclude", exclude)
    phases = phases.map(lambda each: placed(model, each))
    missing: list[str] = []
    rounded = model
    if "activations" in sections:
        if is_graph(model):
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                rounded = in_phases(model, phases, COMPUTING_LAYERS, exclude, seed)
            missing += [str(warning.message) for warning in seen]
        else:
            missing.append(_SUBCLASSED.format(name=model.name))
    for what in missing if uncovered != "ignore" else ():
        if uncovered == "raise":
            raise ValueError(f"{what}; or pass uncovered='warn' or 'ignore'")
        warnings.warn(what, stacklevel=2)
    with strategy_scope(model):
        wrapped = _optimizer(optimizer, phases, rounded, exclude, average, seed)
    # Last what changes the model that was given.
    own: dict[str, dict[str, Any]] = {"products": {"attention": attention}, "elementwise": {}}
    for section, options in own.items():
        if section in sections:
            options |= {"exclude": exclude, "seed": seed, "uncovered": uncovered}
            put(rounded, section, phases if phases.several else phases.at(0), **options)
    if phases.several:
        wrapped.phase.models.update((model, rounded))
    if wrapped is not optimizer and getattr(rounded, "compiled", False):
        rounded.compiled = False  # `fit` would go on with the optimizer that it has
    return Emulation(rounded, wrapped, phases, tuple(missing), model)


def _phases(given: Any) -> Phases:
    """What was asked for, without steps at which nothing changes.

    Raises
    ------
    TypeError, ValueError: if it is no recipe and no phases; if a phase has delayed scaling.
    """
    phases = phases_of(given)
    if phases is None:
        return Phases({0: recipe_of(given)})
    found: dict[int, Recipe] = {}
    for step, recipe in phases.recipes:
        recipe_of(recipe)
        if any(part and part.scaling for part in (recipe, *dict(recipe.overrides).values())):
            raise ValueError(
                f"{phases!r}: the recipe from step {step} on has delayed scaling, whose scales are"
                " variables that the optimizer has from its beginning; take scales of present"
                " numbers, as 'fp8_hybrid' has, or one recipe for the whole training"
            )
        if not found or recipe != list(found.values())[-1]:
            found[step] = replace(recipe, allow_empty=True)
    return Phases(found)


_SUBCLASSED = (
    "activations and errors of the subclassed model {name!r} are not rounded; make"
    " Quantize(activation, error, place=...) layers in its __init__ and call them in call"
)


def _optimizer(
    optimizer: Any,
    phases: Phases,
    model: Any,
    exclude: Selection,
    average: bool | Mapping[str, Any],
    seed: int | None,
) -> Any:
    """The optimizer wrapped, where there is something for it to round or average."""
    recipes = [recipe for _, recipe in phases.recipes]
    asked = checked_options("average", average)
    averages = asked is not None
    if averages and optimizer is None:
        raise ValueError("an average counts the optimizer's updates; pass the optimizer")
    wraps = averages or phases.several or "optimizer" in recipes[0].sections
    if optimizer is None or not wraps:
        return optimizer
    options = {} if asked is None else {"start": 0, **asked}
    unknown = set(options) - {"start", "cycle", "include_start", "finalize", "nonfinite"}
    if unknown:
        raise ValueError(
            "average takes start, cycle, include_start, finalize and nonfinite, got"
            f" {', '.join(sorted(unknown))}"
        )

    phases = phases.map(lambda recipe: replace(recipe, allow_empty=recipe.allow_empty or averages))
    swa: dict[str, Any] = {f"swa_{key}": value for key, value in options.items()}
    given = phases if phases.several else phases.at(0)
    return QuantizedOptimizer(optimizer, given, seed=seed, model=model, exclude=exclude, **swa)
