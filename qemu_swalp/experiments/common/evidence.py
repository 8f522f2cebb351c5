"""Runs as JSON lines: collected from where they were made, and shown again without being made
anew. A line has the run's experiment, settings, seed, figures, duration and command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .html import read
from .report import RUNS, Outcome, Row, publish, read_lines
from .settings import Settings, choose

SUFFIX = ".jsonl"
Show = Callable[[Any, Sequence[Row]], Outcome]
"""(settings, lines) → what a call that made all these runs would have shown."""
Load = Callable[[str], tuple[type[Settings], Show | None]]
"""The settings of an experiment, and how its lines are shown; None: it has no lines."""


def collect(places: Iterable[Path], load: Load) -> list[Row]:
    """The lines of every run in or below the folders, each run once: of unfinished calls too.

    FileNotFoundError if a folder holds none.
    """
    found: dict[str, Row] = {}
    for place in places:
        lines = [line for file in sorted(place.rglob(RUNS)) for line in read_lines(file)]
        results = read([place]) if any(place.rglob("results.json")) else []
        for file, content in results:
            if not file.with_name(RUNS).exists() and load(content["experiment"])[1]:
                lines += _lines_of(content)
        if not lines:
            raise FileNotFoundError(f"{place} holds no {RUNS}, and no results.json with seeds")
        found |= {_name(line): line for line in lines}
    ordered = sorted(found.values(), key=lambda line: (line["experiment"], line["seed"]))
    return [line | {"command": _command(line, load)} for line in ordered]


def _command(line: Row, load: Load) -> str:
    """What makes the run on any machine."""
    settings = _settings(load(line["experiment"])[0], [line])
    return settings.command(line["experiment"], everywhere=True)


def _lines_of(content: Row) -> list[Row]:
    """A line for each seed of a results.json."""
    seeds = list(dict.fromkeys(row["seed"] for row in content["rows"]))
    common = {key: content[key] for key in ("experiment", "settings", "command", "environment")}
    return [
        {
            "seed": seed,
            "rows": [row for row in content["rows"] if row["seed"] == seed],
            "seconds": round(content["seconds"] / len(seeds), 1),
        }
        | common
        for seed in seeds
    ]


def _name(line: Row) -> str:
    """Of a run, whose numbers another line of that name repeats."""
    return str(line.get("key") or json.dumps([line["settings"], line["seed"]], sort_keys=True))


def write(lines: Iterable[Row], file: Path) -> None:
    """One line each."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    file.write_text(text, encoding="utf-8")


def shown(lines: Sequence[Row], load: Load) -> list[tuple[str, Settings, Outcome, float]]:
    """(experiment, settings, outcome, duration of its runs) of lines that belong together: those
    whose settings differ in nothing but which runs were asked for.
    """
    groups: dict[str, list[Row]] = {}
    for line in lines:
        kind, _ = _shown_by(line["experiment"], load)
        rest = {k: v for k, v in line["settings"].items() if k not in kind.chosen}
        key = [line["experiment"], rest, line.get("corpus", {}).get("sha256")]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(line)
    results = []
    for group in groups.values():
        kind, show = _shown_by(group[0]["experiment"], load)
        settings = _settings(kind, group)
        seconds = sum(line["seconds"] for line in group)
        results.append((group[0]["experiment"], settings, show(settings, group), seconds))
    return results


def _shown_by(experiment: str, load: Load) -> tuple[type[Settings], Show]:
    kind, show = load(experiment)
    if show is None:
        raise ValueError(f"{experiment} is not shown from lines; give its results.json")
    return kind, show


def _settings(kind: type[Settings], lines: Sequence[Row]) -> Settings:
    """Of a call that makes all these runs."""
    known = {item.name for item in fields(kind)}
    values: dict[str, Any] = {k: v for k, v in lines[0]["settings"].items() if k in known}
    for name in kind.chosen:
        if isinstance(values[name], list):
            union = [one for line in lines for one in line["settings"][name]]
            values[name] = list(dict.fromkeys(union))
    seeds = {line["seed"] for line in lines}
    values |= {"seed": min(seeds), "seeds": len(seeds)}
    chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    settings: Settings = choose(kind, chosen, quick=False)
    return settings


def republish(lines: Sequence[Row], folder: Path, load: Load) -> list[Path]:
    """Write results.json and pictures of all lines, a folder for each table; returns these."""
    made = []
    for number, (name, settings, outcome, seconds) in enumerate(shown(lines, load), 1):
        out = folder / f"{number:02}-{name}"
        asked = {"command": settings.command(name, everywhere=True), "settings": settings.record()}
        publish(name, asked, outcome, seconds, out)
        made.append(out)
    return made
