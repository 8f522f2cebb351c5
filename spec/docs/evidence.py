"""Tables and plots of the page of results, from `data/evidence.jsonl`: every run's settings, seed,
figures and duration, as `qemu-swalp report … --lines` collects them.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from qemu_swalp.experiments import load_lines
from qemu_swalp.experiments.common.evidence import shown
from qemu_swalp.experiments.common.figure import save_panels
from qemu_swalp.experiments.common.report import read_lines, spread
from qemu_swalp.experiments.language_model.tables import METHODS
from qemu_swalp.experiments.vision.paper_results import PUBLISHED
from qemu_swalp.experiments.vision.presets import PRESETS, settings_of

FILE = Path(__file__).parent / "data" / "evidence.jsonl"
NOT_A_LINE = ("method", "part", "part_is", "key", "point", "epoch", "published")
NAMES = {method: name for method, (name, *_) in METHODS.items()}
PUBLISHED_METHODS = {"sgd": "SGD", "decayed": "decayed SGD", "swa": "SWA(LP)"}


@lru_cache
def _lines() -> tuple[dict[str, Any], ...]:
    return tuple(read_lines(FILE))


@lru_cache
def _results(experiment: str) -> tuple[Any, ...]:
    """(experiment, settings, outcome, seconds) of each setting that was run."""
    return tuple(shown([line for line in _lines() if line["experiment"] == experiment], load_lines))


def table_of(experiment: str, value: str, part: str = "") -> tuple[list[str], list[list[str]]]:
    """Header and lines of one value: methods in columns, mean ± deviation over the seeds."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    keys: list[str] = []
    for _, settings, outcome, _ in _results(experiment):
        for row in outcome.summary:
            if part in (row.get("part", ""), row.get("point", "")):
                keys = [k for k in row if k not in NOT_A_LINE and not isinstance(row[k], dict)]
                name = tuple(str(row[k]) for k in keys)
                cell = spread(row[value], 2 if value != "rounded" else 3, settings.seeds)
                lines.setdefault(name, {})[row["method"]] = cell
    methods = list(dict.fromkeys(method for row in lines.values() for method in row))
    used = [i for i in range(max(map(len, lines), default=0)) if any(name[i] for name in lines)]
    header = [*(keys[i] for i in used), *(NAMES.get(method, method) for method in methods)]
    body = [
        [*(_code(name[i]) for i in used), *(row.get(method, "") for method in methods)]
        for name, row in lines.items()
    ]
    return header, body


def networks(experiment: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of test errors in %: numbers and their blocks, by how the run ends."""
    cells = _errors(experiment)
    columns = {
        "last iterate at START": ("sgd", "start"),
        "last iterate": ("sgd", "end"),
        "decayed rate": ("decayed", "end"),
        "average": ("swa", "end"),
    }
    body = [
        [numbers, *(row.get(column, "") for column in columns.values())]
        for numbers, row in cells.items()
    ]
    return ["numbers", *columns], body


def averages(experiment: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of test errors in %: how often and in how many bits one run's iterates were
    averaged.
    """
    body = [
        [numbers, *_average(key), cell]
        for numbers, row in _errors(experiment).items()
        if any(key.startswith("swa ") for key, _ in row)
        for (key, point), cell in row.items()
        if key.startswith("swa") and point == "end"
    ]
    return ["numbers", "averaged", "average in", "test error"], body


def _average(key: str) -> tuple[str, str]:
    """How often, and in what, of the name that `average_name` gives."""
    every, bits = re.search(r"every (\d+)", key), re.search(r"(\d+) bits", key)
    often = f"every {every[1]} steps" if every and every[1] != "1" else "each step"
    return often if every else "each epoch", bits[0] if bits else "float32"


def _errors(experiment: str) -> dict[str, dict[tuple[str, str], str]]:
    """Numbers and their blocks → (method, point) → mean ± deviation of the test error."""
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for _, settings, outcome, _ in _results(experiment):
        for row in outcome.summary:
            low = row["numbers"] != "float32"
            numbers = f"{row['numbers']}, {settings.block} blocks" if low else row["numbers"]
            cell = spread(row["test_error"], 2, settings.seeds)
            cells.setdefault(numbers, {})[row["key"], row["point"]] = cell
    return cells


def _code(name: str) -> str:
    """A format or a rounding as code, words as they are."""
    return f"`{name}`" if "<" in name else name


def plots(experiment: str) -> str:
    """All panels of an experiment, as pictures within the page."""
    images = []
    for name, _, outcome, _ in _results(experiment):
        with tempfile.TemporaryDirectory() as folder:
            for panel in save_panels(outcome.draw, Path(folder) / f"{name}.png"):
                data = base64.b64encode(panel.read_bytes()).decode()
                source = f"data:image/svg+xml;base64,{data}"
                images.append(f'<img class="panel" alt="{name}" src="{source}">')
    return "\n".join(images)


def made_by(experiment: str) -> str:
    """Command, number of runs, their time, and where they were made."""
    parts = []
    for _, settings, _, seconds in _results(experiment):
        record = json.loads(json.dumps(settings.record()))
        rest = {key: value for key, value in record.items() if key not in settings.chosen}
        runs = [
            line
            for line in _lines()
            if line["experiment"] == experiment and rest.items() <= line["settings"].items()
        ]
        processors = sorted({line["environment"]["processor"] for line in runs})
        pythons = sorted({line["environment"]["versions"]["python"] for line in runs})
        command = settings.command(experiment, everywhere=True)
        parts.append(
            f"`{command}`: {len(runs)} runs, {seconds / 60:.0f} minutes in all beside other work,"
            f" {', '.join(processors)}, Python {', '.join(pythons)}."
        )
    return "\n\n".join(parts)


def published() -> tuple[list[str], list[list[str]]]:
    """Header and lines: each published error, and what became of it here."""
    body = [
        [
            name,
            numbers,
            f"{PUBLISHED_METHODS[method]} at the {point}",
            f"{error} %",
            _here(name, numbers, method, point, error),
        ]
        for name, errors in PUBLISHED.items()
        for (numbers, method, point), error in errors.items()
    ]
    return ["experiment", "numbers", "what", "published", "here"], body


def _here(name: str, numbers: str, method: str, point: str, error: str) -> str:
    """Met, missed and by how much, or not attempted and why: of runs by the paper's own recipe."""
    default = settings_of(name)()
    rest = [key for key in default.record() if key not in default.chosen]
    for _, settings, outcome, _ in _results(name) if name in PRESETS else ():
        if any(settings.record()[key] != default.record()[key] for key in rest):
            continue
        for row in outcome.summary:
            if (row["numbers"], row["key"], row["point"]) == (numbers, method, point):
                over = row["test_error"]["mean"] - float(re.split(" ±", error)[0])
                ours = spread(row["test_error"], 2, settings.seeds)
                return f"met: {ours}" if over <= 0 else f"missed by {over:.2f}: {ours}"
    return "not attempted: the network at full width needs a GPU"
