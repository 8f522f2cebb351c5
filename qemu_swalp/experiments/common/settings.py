"""Settings of an experiment: a frozen dataclass whose fields carry their help, limits and `--quick`
values.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, ClassVar


def option(
    default: Any,
    help: str,
    *,
    quick: Any = None,
    above: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    recorded: bool = True,
    metavar: str = "DIR",
) -> Any:
    """A field of `Settings`.

    default : an int, float, bool, string, or tuple of ints or strings; its type is the option's.
        quick : another, for `--quick`.
    above, most : numbers must exceed the one, not the other. choices : the strings allowed.
    recorded : whether results.json repeats it. metavar : what the help calls a string.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "quick": quick,
            "above": above,
            "most": most,
            "choices": choices,
            "recorded": recorded,
            "metavar": metavar,
        },
    )


@dataclass(frozen=True)
class Settings:
    """What every experiment lets a user choose."""

    chosen: ClassVar[tuple[str, ...]] = ("seed", "seeds")
    """Options that say which runs are made, and nothing about any of them."""

    seed: int = option(
        0,
        "first seed; of the data order, the initial weights and the rounding",
        above=-1,
        most=2**32 - 1,
    )
    seeds: int = option(5, "number of runs, with seeds SEED, SEED + 1, …", quick=2, above=0)
    out: str = option("", "where to write", recorded=False)

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item, getattr(self, item.name))

    @property
    def run_seeds(self) -> tuple[int, ...]:
        """The seed of each run."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def command(self, name: str, everywhere: bool = False) -> str:
        """The command line that makes these settings for the experiment of that name; `everywhere`
        leaves out what holds on this machine alone: where files lie, threads.
        """
        words = ["qemu-swalp", "reproduce", name]
        for item in fields(self):
            value = getattr(self, item.name)
            if everywhere and not item.metadata["recorded"]:
                continue
            if isinstance(value, bool):
                words += (
                    [flag(item) if value else flag(item, "no-")] if value != item.default else []
                )
            elif value != item.default:
                words += [flag(item), *map(str, value if isinstance(value, tuple) else (value,))]
        return shlex.join(words)

    def record(self) -> dict[str, Any]:
        """The settings as plain values, for results.json."""
        values = asdict(self)
        return {item.name: values[item.name] for item in fields(self) if item.metadata["recorded"]}


@dataclass(frozen=True)
class RunSettings(Settings):
    """Options of an experiment whose runs are long, each kept in a journal."""

    device: str = option(
        "cpu", "where to train: cpu, cuda, cuda:1, …", recorded=False, metavar="NAME"
    )
    threads: int = option(1, "threads of PyTorch on a CPU", above=0, recorded=False)
    resume: bool = option(
        False,
        "go on where an interrupted call left off, on a CPU to the same bits; what is "
        "finished is taken as it is",
        recorded=False,
    )


def choose(kind: type[Settings], values: Mapping[str, Any], quick: bool) -> Any:
    """Settings of that kind from these values; the others have their default, or quick value."""
    small = {
        item.name: item.metadata["quick"]
        for item in fields(kind)
        if item.metadata["quick"] is not None
    }
    return kind(**((small if quick else {}) | dict(values)))


def flag(item: Field[Any], no: str = "") -> str:
    """The command line option of a field; with "no-", that which switches it off."""
    return f"--{no}" + item.name.replace("_", "-")


def _check(item: Field[Any], value: Any) -> None:
    above, most, choices = (item.metadata[key] for key in ("above", "most", "choices"))
    if isinstance(value, tuple) and not value:
        raise ValueError(f"{flag(item)} needs at least one value")
    for one in value if isinstance(value, tuple) else (value,):
        if above is not None and not one > above:
            raise ValueError(f"{flag(item)} must be above {above}, got {one}")
        if most is not None and not one <= most:
            raise ValueError(f"{flag(item)} must be at most {most}, got {one}")
        if choices and one not in choices:
            raise ValueError(f"{flag(item)} must be of {', '.join(choices)}, got {one!r}")
