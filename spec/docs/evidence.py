"""Tables and plots of the page of results, from `data/evidence.jsonl`: every run's settings, seed,
figures and duration, as `qemu-swalp report … --lines` collects them.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from qemu_swalp.experiments import load_lines
from qemu_swalp.experiments.common.evidence import shown
from qemu_swalp.experiments.common.figure import save_panels
from qemu_swalp.experiments.common.report import COLUMNS, read_lines, spread
from qemu_swalp.experiments.language_model.tables import METHODS
from qemu_swalp.experiments.vision.paper_results import PUBLISHED
from qemu_swalp.experiments.vision.presets import PRESETS, settings_of

FILE = Path(__file__).parent / "data" / "evidence.jsonl"
NOT_A_LINE = ("method", "part", "part_is", "key", "point", "epoch", "published", "bits")
NAMES = {method: name for method, (name, *_) in METHODS.items()}
PUBLISHED_METHODS = {"sgd": "SGD", "decayed": "decayed SGD", "swa": "SWA(LP)"}
DIGITS = {"rounded": 3, "in_float": 3, "gradient_norm": 4}
"""Decimals of a value, where they are not two."""


@lru_cache
def _lines(runs: str) -> tuple[dict[str, Any], ...]:
    """`EXPERIMENT`, or `EXPERIMENT[setting=value,…]` for those of its runs that have these."""
    experiment, _, settings = runs.rstrip("]").partition("[")
    asked = dict(one.split("=") for one in settings.split(",") if one)
    return tuple(
        line
        for line in read_lines(FILE)
        if line["experiment"] == experiment
        and all(str(line["settings"][key]) == value for key, value in asked.items())
    )


@lru_cache
def results(runs: str) -> tuple[Any, ...]:
    """(experiment, settings, outcome, seconds) of each setting that was run."""
    return tuple(shown(_lines(runs), load_lines))


def table_of(runs: str, value: str, part: str = "") -> tuple[list[str], list[list[str]]]:
    """Header and lines of one value: methods in columns, mean ± deviation over the seeds.

    part : of the experiment, a point in training, or a framework; empty: all.
    """
    rows = [
        (row, settings.seeds)
        for _, settings, outcome, _ in results(runs)
        for row in outcome.summary
        if not part or part in (str(row.get(key)) for key in ("part", "point", "framework"))
    ]
    column = _columns([row["method"] for row, _ in rows])
    keys = [k for k, v in rows[0][0].items() if k not in NOT_A_LINE and not isinstance(v, dict)]
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row, seeds in rows:
        cell = spread(row[value], DIGITS.get(value, 2), seeds)
        lines.setdefault(tuple(str(row[k]) for k in keys), {})[column[row["method"]]] = cell
    names = list(lines)
    used = [i for i in range(len(keys)) if len({name[i] for name in names}) > 1]
    columns = list(dict.fromkeys(column.values()))
    body = [[*(_code(n[i]) for i in used), *(lines[n].get(c, "") for c in columns)] for n in names]
    return [*(keys[i] for i in used), *columns], body


def _columns(methods: Sequence[str]) -> dict[str, str]:
    """Method → its column: one for SGD and SGD-LP, if a table has both."""
    named = dict.fromkeys(methods)
    both = Counter(COLUMNS.get(method, method) for method in named)
    return {
        method: column if both[column] > 1 else NAMES.get(method, method)
        for method, column in ((method, COLUMNS.get(method, method)) for method in named)
    }


def limits(runs: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines: the floor and the bound of each format of weights."""
    ((*_, outcome, _),) = results(runs)
    body = [
        [f"`{row['format']}`", f"{row['floor']:.2e}", f"{row['bound']:.2e}"]
        for row in outcome.curves["limits"]
    ]
    return ["weights", "floor ‖Q(w\\*) − w\\*‖²", "bound on SWALP"], body


def networks(runs: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of test errors in %: numbers and their blocks, by how the run ends."""
    cells = _errors(runs)
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


def averages(runs: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of test errors in %: how often and in how many bits one run's iterates were
    averaged.
    """
    body = [
        [numbers, *_average(key), cell]
        for numbers, row in _errors(runs).items()
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


def _errors(runs: str) -> dict[str, dict[tuple[str, str], str]]:
    """Numbers and their blocks → (method, point) → mean ± deviation of the test error."""
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for _, settings, outcome, _ in results(runs):
        for row in outcome.summary:
            low = row["numbers"] != "float32"
            numbers = f"{row['numbers']}, {settings.block} blocks" if low else row["numbers"]
            cell = spread(row["test_error"], 2, settings.seeds)
            cells.setdefault(numbers, {})[row["key"], row["point"]] = cell
    return cells


def _code(name: str) -> str:
    """A format or a rounding as code, words as they are."""
    return f"`{name}`" if "<" in name else name


def plots(runs: str) -> str:
    """All panels of an experiment, as pictures within the page."""
    images = []
    for name, _, outcome, _ in results(runs):
        with tempfile.TemporaryDirectory() as folder:
            for panel in save_panels(outcome.draw, Path(folder) / f"{name}.png"):
                data = base64.b64encode(panel.read_bytes()).decode()
                source = f"data:image/svg+xml;base64,{data}"
                images.append(f'<img class="panel" alt="{name}" src="{source}">')
    return "\n".join(images)


def made_by(runs: str) -> str:
    """Command, number of runs, their time, and where they were made."""
    parts = []
    for name, settings, _, seconds in results(runs):
        record = json.loads(json.dumps(settings.record()))
        rest = {key: value for key, value in record.items() if key not in settings.chosen}
        made = [line for line in _lines(runs) if rest.items() <= line["settings"].items()]
        processors = sorted({line["environment"]["processor"] for line in made})
        pythons = sorted({line["environment"]["versions"]["python"] for line in made})
        command = settings.command(name, everywhere=True)
        parts.append(
            f"`{command}`: {len(made)} runs, {seconds / 60:.0f} minutes in all beside other work,"
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
    for _, settings, outcome, _ in results(name) if name in PRESETS else ():
        if any(settings.record()[key] != default.record()[key] for key in rest):
            continue
        for row in outcome.summary:
            if (row["numbers"], row["key"], row["point"]) == (numbers, method, point):
                over = row["test_error"]["mean"] - float(re.split(" ±", error)[0])
                ours = spread(row["test_error"], 2, settings.seeds)
                return f"met: {ours}" if over <= 0 else f"missed by {over:.2f}: {ours}"
    return "not attempted: the network at full width needs a GPU"
