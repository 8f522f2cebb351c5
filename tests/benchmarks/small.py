"""What does not grow with the array: a call on 16 elements, and importing the package."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from qemu_swalp._util.tables import table
from tests.benchmarks.libraries import Numpy
from tests.benchmarks.ours import candidates
from tests.benchmarks.timing import alternate

ELEMENTS = 16


def calls(
    libraries: Sequence[Numpy], cases: Sequence[str], roundings: Sequence[str], seconds: float
) -> list[dict[str, Any]]:
    """Microseconds of a call on 16 elements."""
    found = []
    host = np.linspace(-2, 2, ELEMENTS, dtype=np.float32).reshape(1, -1)
    for library in libraries:
        x = library.array(host)
        for case in cases:
            for rounding in roundings:
                for name, call in candidates(library, case, rounding, x).items():
                    figure = alternate(library.clock, library.copy(x), call, seconds)
                    found.append(
                        {
                            "library": library.name,
                            "case": case,
                            "rounding": rounding,
                            "candidate": name,
                            "microseconds": figure.least * 1e6,
                            "copy_microseconds": figure.copy_least * 1e6,
                        }
                    )
    return found


def calls_table(found: Sequence[dict[str, Any]]) -> str:
    """A line for each case and rounding, a column for each library and candidate."""
    columns = list(dict.fromkeys((entry["library"], entry["candidate"]) for entry in found))
    lines: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for entry in found:
        line = lines.setdefault((entry["case"], entry["rounding"]), {})
        line[entry["library"], entry["candidate"]] = f"{entry['microseconds']:.1f}"
    return table(
        ("format", "rounding", *(f"{library}, {name}" for library, name in columns)),
        [(*key, *(line[column] for column in columns)) for key, line in lines.items()],
        left=(0, 1),
    )


SCRIPT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def import_seconds(module: str, bytecode: str) -> float:
    """Seconds that a fresh interpreter takes to import it, with bytecode in that folder, as after
    an installation.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(module)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return float(done.stdout)


def imports(repeats: int) -> dict[str, float]:
    """Seconds of `import numpy` and of `import qemu_swalp`, each the least of so many, taken in
    turn.
    """
    times: dict[str, list[float]] = {"numpy": [], "qemu_swalp": []}
    with tempfile.TemporaryDirectory() as bytecode:
        for _ in range(repeats + 1):  # the first compiles and reads the files
            for module, seconds in times.items():
                seconds.append(import_seconds(module, bytecode))
    return {module: min(seconds[1:]) for module, seconds in times.items()}


def imports_text(found: dict[str, float]) -> str:
    """One sentence."""
    return (
        f"import numpy {found['numpy'] * 1e3:.1f} ms, import qemu_swalp"
        f" {found['qemu_swalp'] * 1e3:.1f} ms, NumPy included:"
        f" {found['qemu_swalp'] / found['numpy']:.2f} × NumPy"
    )
