"""Which role of a recipe, or which layer, it is that low precision breaks training by."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._util.checks import check_int
from .._util.tables import table
from .recipe import FULL_PRECISION, Recipe
from .roles import OPERANDS, ROLES
from .seeds import fresh_seeds

NOTHING, EVERYTHING = "nothing", "everything"
"""What is in full precision under the recipe as it is, and without any rounding."""
Training = tuple[str, int | None]
"""What is in full precision, and the seed."""


@dataclass(frozen=True)
class RoleStudy:
    """Losses of trainings under a recipe, without any rounding, and with one role or layer at a
    time in full precision.

    Parameters
    ----------
    losses : {what is in full precision: one loss for each seed}. "nothing" is the recipe as it is,
        "everything" a training without rounding; the other keys are roles, operands, sums,
        elementwise operations, names of optimizer state, and patterns of names. A study that was
        interrupted has fewer losses, or none, of some.
    """

    losses: Mapping[str, Sequence[float]]

    @property
    def quantized(self) -> float:
        """Mean loss under the recipe; NaN before the first training of it."""
        return _mean(self.losses.get(NOTHING, ()))

    @property
    def full(self) -> float:
        """Mean loss without any rounding; NaN before the first training of it."""
        return _mean(self.losses.get(EVERYTHING, ()))

    @property
    def without(self) -> dict[str, float]:
        """Mean loss with a role, or a layer, in full precision."""
        return {
            name: _mean(losses)
            for name, losses in self.losses.items()
            if losses and name not in (NOTHING, EVERYTHING)
        }

    def recovered(self, name: str) -> float:
        """Share of the loss that rounding costs which goes where this role or layer stays in full
        precision.

        About 1 for the one that breaks training, about 0 for the others. Losses that are not finite
        count as infinite; the share of an infinite loss is 1 or 0. NaN where rounding costs
        nothing.
        """
        cost = _loss(self.quantized) - _loss(self.full)
        if not cost > 0:
            return math.nan
        if math.isinf(cost):
            return float(math.isfinite(self.without[name]))
        return (self.quantized - _loss(self.without[name])) / cost

    @property
    def breaking(self) -> str | None:
        """The role or layer that recovers most, if it recovers half or more.

        None where rounding costs nothing, or with several seeds no more than two standard errors of
        the cost; and where several roles break training together.
        """
        ranked = self._ranked()
        if not ranked or not _loss(self.quantized) - _loss(self.full) > self._noise():
            return None
        return ranked[0] if self.recovered(ranked[0]) >= 0.5 else None

    def __str__(self) -> str:
        """A table, the most breaking role first; mean ± standard deviation over several seeds."""
        names = [name for name in (NOTHING, *self._ranked(), EVERYTHING) if self.losses.get(name)]
        shares = {name: self.recovered(name) for name in self.without}
        lines = [
            (
                name,
                _written(self.losses[name]),
                "" if math.isnan(shares.get(name, math.nan)) else f"{shares[name]:.0%}",
            )
            for name in names
        ]
        return table(("in full precision", "loss", "recovered"), lines)

    def plot(self, axes: Any) -> None:
        """Draw mean and standard deviation of each loss on matplotlib `axes`, the worst on top."""
        names = [name for name in (EVERYTHING, *self._ranked(), NOTHING) if self.losses.get(name)]
        means = [_mean(self.losses[name]) for name in names]
        axes.errorbar(
            means, range(len(names)), xerr=[_std(self.losses[name]) for name in names], fmt="o"
        )
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="loss", ylabel="in full precision")

    def _ranked(self) -> list[str]:
        means = self.without
        return sorted(means, key=lambda name: _loss(means[name]))

    def _noise(self) -> float:
        """Two standard errors of the cost of rounding; 0 for a single seed or a diverged one."""
        pair = [self.losses.get(name, ()) for name in (NOTHING, EVERYTHING)]
        if not all(losses and math.isfinite(_mean(losses)) for losses in pair):
            return 0.0
        return 2 * math.hypot(*(_std(losses) / math.sqrt(len(losses)) for losses in pair))


def find_breaking_role(
    train: Callable[..., float],
    recipe: Recipe,
    *,
    seeds: Sequence[int] | None = None,
    patterns: Sequence[str] = (),
    path: str | Path | None = None,
    progress: bool = True,
) -> RoleStudy:
    """Train under the recipe, without rounding, and with each of its roles in full precision.
    Default seeds are the same in each training, so that no other random bits tell them apart.

    Parameters
    ----------
    train : a function recipe -> loss, or with `seeds` (recipe, seed) -> loss; less is better. It
        trains from the start, on the same data each time. Diverged trainings may return NaN or
        infinity. Entry points of the adapters accept every recipe it gets: all but the first have
        `allow_empty`, so that a section with nothing left to round is passed over.
    recipe : the recipe in question; a role goes from its overrides, too.
    seeds : one training of each kind for each, all kinds for the first first; None: one training.
    patterns : names of parameters and layers, shell style, as in `Recipe.overrides`. All that
        matches one of them stays in full precision, one pattern at a time: "fc1.*" is layer fc1.
        Like overrides, they need an optimizer that knows its parameters by name.
    path : a file that receives a JSON line for each loss as soon as it is known. A call with the
        same path and recipe repeats no training whose loss is there.
    progress : whether to show a bar on stderr, where tqdm is installed.

    Returns
    -------
    A study that prints as a table, and whose `breaking` names the role or pattern at fault. A
    KeyboardInterrupt ends the study early: it then holds the losses so far.

    Raises
    ------
    ValueError: if the recipe rounds nothing, `seeds` is empty, or a pattern is a role's name.

    A training that cannot stand a coarse momentum:

    >>> def train(recipe):
    ...     return 2.0 if recipe.momentum else 1.0 if recipe.weight else 0.9
    >>> recipe = Recipe(weight="bfp8", momentum="bfp4")
    >>> print(find_breaking_role(train, recipe, progress=False))
    in full precision  loss  recovered
    ─────────────────  ────  ─────────
    nothing               2
    momentum              1        91%
    weight                2         0%
    everything          0.9
    """
    recipes = _recipes(recipe, patterns)
    if seeds is not None and not seeds:
        raise ValueError("seeds must hold at least one seed, got none; seeds=None trains once")
    for number in seeds or ():
        check_int("each of seeds", number, 0, 2**64 - 1)
    trainings = [(name, seed) for seed in seeds or (None,) for name in recipes]
    known = {} if path is None else _read(Path(path), recipe)
    losses: dict[str, list[float]] = {name: [] for name in recipes}
    try:
        for name, seed in _with_bar(trainings, progress):
            if (name, seed) not in known:
                arguments = (recipes[name],) if seed is None else (recipes[name], seed)
                with fresh_seeds():
                    known[name, seed] = float(train(*arguments))
                if path is not None:
                    _append(Path(path), recipe, name, seed, known[name, seed])
            losses[name].append(known[name, seed])
    except KeyboardInterrupt:
        pass  # whoever stops a long study wants to see what it has found so far
    return RoleStudy({name: tuple(values) for name, values in losses.items()})


def without(recipe: Recipe, role: str) -> Recipe:
    """The recipe with a role, operand, sum, elementwise operation or optimizer state in full
    precision, in its overrides as well.

    >>> recipe = Recipe(weight="bfp8/nearest_even", operands={"error": "e5m2/nearest_even"})
    >>> without(recipe, "dgrad.error").to_dict()
    {'weight': 'bfp8/nearest_even', 'operands': {'wgrad.error': 'e5m2/nearest_even'}}
    """
    overrides = tuple(
        (pattern, override and without(override, role)) for pattern, override in recipe.overrides
    )
    operands = tuple(pair for pair in recipe.operands if pair[0] != role)
    products = {name.partition(".")[0] for name, _ in operands}
    lessened = replace(
        recipe,
        overrides=overrides,
        state=tuple(pair for pair in recipe.state if pair[0] != role),
        operands=operands,
        transforms=tuple(pair for pair in recipe.transforms if pair[0] in products),
        factors=tuple(pair for pair in recipe.factors if pair[0] != role),
        scaling=tuple(
            pair for pair in recipe.scaling if any(n.endswith(f".{pair[0]}") for n, _ in operands)
        ),
        sums=tuple(pair for pair in recipe.sums if pair[0] != role),
        elementwise=tuple(pair for pair in recipe.elementwise if pair[0] != role),
    )
    return replace(lessened, **{role: None}) if role in ROLES else lessened  # type: ignore[arg-type]


def _recipes(recipe: Recipe, patterns: Sequence[str]) -> dict[str, Recipe]:
    """What is in full precision → the recipe that leaves it there, in the order of training."""
    roles = tuple(dict.fromkeys(_roles(recipe)))
    if not roles:
        raise ValueError(f"the recipe must round something, got {recipe.to_dict()}")
    lessened = {role: without(recipe, role) for role in roles}
    for pattern in patterns:
        if pattern in (*roles, NOTHING, EVERYTHING):
            raise ValueError(
                f"patterns must differ from the names of roles, got {pattern!r}; write"
                f" {'*' + pattern!r} for parameters of that name"
            )
        lessened[pattern] = replace(recipe, overrides=((pattern, None), *recipe.overrides))
    alternatives = {EVERYTHING: FULL_PRECISION} | lessened
    return {NOTHING: recipe} | {
        name: replace(alternative, allow_empty=True) for name, alternative in alternatives.items()
    }


def _roles(recipe: Recipe) -> Iterator[str]:
    named = (*ROLES, *OPERANDS, *(name for name, _ in recipe.state))
    yield from (role for role in named if recipe.quantizer(role) is not None)
    yield from (name for name, _ in (*recipe.sums, *recipe.elementwise))
    for _, override in recipe.overrides:
        yield from _roles(override or FULL_PRECISION)


def _with_bar(trainings: list[Training], progress: bool) -> Iterable[Training]:
    """The trainings, counted by a bar on stderr where tqdm is installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return trainings
    return tqdm(trainings, desc="find_breaking_role", unit="training", disable=not progress)  # type: ignore[no-any-return]


def _read(path: Path, recipe: Recipe) -> dict[Training, float]:
    """The losses that the file has of this recipe; a line that was cut off is passed over."""
    losses: dict[Training, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["recipe"] == recipe.to_dict():
            losses[record["in full precision"], record["seed"]] = record["loss"]
    return losses


def _append(path: Path, recipe: Recipe, name: str, seed: int | None, loss: float) -> None:
    record = {"in full precision": name, "seed": seed, "loss": loss, "recipe": recipe.to_dict()}
    cut_off = path.is_file() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut_off + json.dumps(record) + "\n")


def _loss(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _mean(losses: Sequence[float]) -> float:
    """Infinite where one of them is not finite; NaN of none."""
    return math.fsum(map(_loss, losses)) / len(losses) if losses else math.nan


def _std(losses: Sequence[float]) -> float:
    """Sample standard deviation; 0 for a single loss, infinite where one of them is not finite."""
    if not all(map(math.isfinite, losses)):
        return math.inf
    mean = _mean(losses)
    squares = math.fsum((loss - mean) ** 2 for loss in losses)
    return math.sqrt(squares / max(len(losses) - 1, 1))


def _written(losses: Sequence[float]) -> str:
    if len(losses) == 1:
        return f"{losses[0]:.6g}"
    diverged = sum(not math.isfinite(loss) for loss in losses)
    if diverged:
        return f"{diverged} of {len(losses)} diverged"
    return f"{_mean(losses):.6g} ± {_std(losses):.2g}"
