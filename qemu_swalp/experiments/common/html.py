"""Results of any experiments as one HTML page that needs nothing else: tables, pictures, commands,
environments. Its markup is in `html_report.jinja`, which escapes whatever results say.
"""

from __future__ import annotations

import base64
import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..._util.extras import EXPERIMENTS, require
from .report import RUNS, Row, over, read_lines, spread

TEMPLATE = Path(__file__).with_name("html_report.jinja")
RUN_COLUMNS = ("kind", "word", "seed", "seconds", "device", "processor", "command")
LABELS = {"test_error": "test error, %", "distance": "‖w − w*‖²"}
"""Column of a summary → its header, where that is not its name in words."""
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Header and rows, whose first cell names the row."""


def read(places: Iterable[Path]) -> list[tuple[Path, Row]]:
    """(file, content) of each results.json: the files themselves, and those in or below folders.

    FileNotFoundError if a place holds none; ValueError if a file was not written by `qemu-swalp
    reproduce`.
    """
    results = []
    for place in places:
        files = sorted(place.rglob("results.json")) if place.is_dir() else [place]
        if not files or not files[0].is_file():
            raise FileNotFoundError(
                f"{place} holds no results.json; give the file, or the folder that "
                "`qemu-swalp reproduce --out` named"
            )
        for file in files:
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{file} is not a results.json: {error}") from error
            keys = {
                "experiment",
                "command",
                "settings",
                "environment",
                "seconds",
                "text",
                "summary",
            }
            if not isinstance(content, dict) or not keys <= set(content):
                raise ValueError(
                    f"{file} is not a results.json of this version, with {', '.join(sorted(keys))};"
                    " run `qemu-swalp reproduce` again"
                )
            results.append((file, content))
    return results


def page(results: Sequence[tuple[Path, Row]], title: str = "qemu-swalp: results") -> str:
    """The page of all results, in the order given. ImportError without Jinja2."""
    jinja2 = require("jinja2", EXPERIMENTS)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.tests["number_like"] = lambda cell: cell[:1].isdigit() or cell[:1] in ("(", "-")
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    sections = [_section(file, content) for file, content in results]
    return str(template.render(title=title, results=sections)) + "\n"


def _section(file: Path, content: Row) -> dict[str, Any]:
    """What the template shows of one results.json: strings, and tables of strings."""
    name = str(content["experiment"])
    pictures = [
        f"data:image/svg+xml;base64,{base64.b64encode(panel.read_bytes()).decode()}"
        for panel in sorted(file.parent.glob(f"{glob.escape(name)}-*.svg"), key=_number)
    ]
    environment = dict(content["environment"])
    environment |= environment.pop("versions", {})
    return {
        "name": name,
        "command": content["command"],
        "seconds": f"{content['seconds']:,.0f}",
        "summaries": list(_summaries(content["summary"], content["settings"].get("seeds", 2))),
        "pictures": pictures,
        "text": content["text"],
        "settings": [(key, _written(value)) for key, value in content["settings"].items()],
        "environment": [(key, str(value)) for key, value in environment.items()],
        "runs": _runs(read_lines(file.with_name(RUNS))),
    }


def _number(panel: Path) -> int:
    """Of a panel among those of its picture."""
    return int(panel.stem.rpartition("-")[2])


def _summaries(rows: Sequence[Row], seeds: int) -> Iterator[tuple[str, Table]]:
    """(what the table shows, the table) of each part of an experiment."""
    for part in dict.fromkeys(row.get("part_is", "") for row in rows):
        of_part = [row for row in rows if row.get("part_is", "") == part]
        yield f"{part}: {over(seeds)}" if part else over(seeds), _summary(of_part, seeds)


def _summary(rows: Sequence[Row], seeds: int) -> Table:
    """Every row of the summary; columns that are empty throughout are left out."""
    columns = [
        column
        for column in dict.fromkeys(key for row in rows for key in row)
        if column not in ("key", "part", "part_is")
        and any(row.get(column) not in (None, "") for row in rows)
    ]
    body = [[_cell(column, row.get(column), seeds) for column in columns] for row in rows]
    return [LABELS.get(column, column.replace("_", " ")) for column in columns], body


def _runs(lines: Sequence[Row]) -> Table | None:
    """Where and how each single run was made: it may have been another day, on another machine."""
    body = [
        [
            _written(line.get(column, line["environment"].get(column))) or "float32"
            for column in RUN_COLUMNS
        ]
        for line in lines
    ]
    return (RUN_COLUMNS, body) if body else None


def _cell(column: str, value: Any, seeds: int) -> str:
    if not isinstance(value, dict):
        return _written(value)
    if value["mean"] is None or value["std"] is None:
        return "diverged"
    return spread(value, 2 if column == "test_error" else 4, seeds)


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_written, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
