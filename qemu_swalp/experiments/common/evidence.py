"""Runs as JSON lines: collected from where they were made, and shown again without being made
anew. A line has the run's experiment, settings, seed, figures, duration and command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .html import read
from .report import RUNS, Outcome, Row, publish, read_lines
from .settings import Settings, choose

SUFFIX = ".jsonl"
Show = Callable[[Any, Sequence[Row]], Outcome]
"""(settings, lines) → what a call that made all these runs would have shown."""
Load = Callable[[str], tuple[type[Settings], Show]]
"""The settings of an experiment, and how its lines are shown."""


def collect(places: Iterable[Path], load: Load) -> list[Row]:
    """The lines of every run in or below the folders, of unfinished calls too, and of files of
    lines; each run once.

    FileNotFoundError if a place holds none.
    """
    found: dict[str, Row] = {}
    for place in places:
        lines = read_lines(place) if place.suffix == SUFFIX else list(_made_in(place, load))
        if not lines:
            raise FileNotFoundError(f"{place} holds no {RUNS}, and no results.json with seeds")
        found |= {_name(line): line for line in lines}
    return sorted(found.values(), key=lambda line: (line["experiment"], line["seed"]))


def _made_in(folder: Path, load: Load) -> Iterator[Row]:
    """The lines of a folder, each with the command that makes it on any machine: of its own, or of
    the call that made all its seeds at once.
    """
    for file in sorted(folder.rglob(RUNS)):
        for line in read_lines(file):
            kind, _ = load(line["experiment"])
            yield line | {"command": _command(line, _settings(kind, [line]))}
    results = read([folder]) if any(folder.rglob("results.json")) else []
    for file, content in results:
        if not file.with_name(RUNS).exists():
            kind, _ = load(content["experiment"])
            call = _made(kind, content["settings"])
            yield from _lines_of(content | {"command": _command(content, call)})


def _command(line: Row, settings: Settings) -> str:
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
        kind, _ = load(line["experiment"])
        rest = {k: v for k, v in line["settings"].items() if k not in kind.chosen}
        key = [line["experiment"], rest, line.get("corpus", {}).get("sha256")]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(line)
    results = []
    for group in groups.values():
        kind, show = load(group[0]["experiment"])
        settings = _settings(kind, group)
        seconds = sum(line["seconds"] for line in group)
        results.append((group[0]["experiment"], settings, show(settings, group), seconds))
    return results


def _settings(kind: type[Settings], lines: Sequence[Row]) -> Settings:
    """Of a call that makes all these runs."""
    values = dict(lines[0]["settings"])
    for name in kind.chosen:
        if isinstance(values[name], list):
            union = [one for line in lines for one in line["settings"][name]]
            values[name] = list(dict.fromkeys(union))
    seeds = {line["seed"] for line in lines}
    values["seeds"] = len(seeds)
    if "seed" in kind.chosen:
        values["seed"] = min(seeds)
    return _made(kind, values)


def _made(kind: type[Settings], values: Row) -> Settings:
    """Of what results.json or a line has kept; what is no option any more is left out."""
    known = {item.name for item in fields(kind)}
    kept = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    settings: Settings = choose(kind, kept, quick=False)
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
