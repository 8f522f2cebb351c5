"""`qemu-swalp info`: versions, array libraries, devices, and the path that each takes.

Each library is imported in a process of its own: one that is broken, or aborts, is reported and
harms nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

from .. import __version__, kernels
from .._util.tables import TERMINAL, table
from ..arrays import FRAMEWORKS
from ..kernels import cpu
from ..kernels.gpu.availability import refusal
from ..ops.kernel_paths import WITHOUT_KERNELS
from .output import add_json, asks_for_json, print_json

TIMEOUT = 120
"""Seconds until an import counts as failed."""

DEVICES = {
    "numpy": "['cpu']",
    "cupy": (
        "[m.cuda.runtime.getDeviceProperties(i)['name'].decode() for i in"
        " range(m.cuda.runtime.getDeviceCount())]"
    ),
    "torch": (
        "['cpu'] + [m.cuda.get_device_name(i) for i in range(m.cuda.device_count())] "
        "+ ['mps'] * m.backends.mps.is_available()"
    ),
    "tensorflow": (
        "[d.name.removeprefix('/physical_device:') for d in m.config.list_physical_devices()]"
    ),
    "jax": "[str(d) for d in m.devices()]",
}
"""Expression that lists the devices of the module `m`."""

GENERATORS = {
    "tensorflow": (
        "[generator_agrees(namespace_of(m.zeros(1)), d.name) for d in"
        " m.config.list_logical_devices()]"
    ),
}
"""Expression that tells, for each device, whether the module's own Philox generator gives our
random words.
"""

REFUSALS = {
    name: (
        f"__import__('qemu_swalp.kernels.backends.{name}', fromlist=['BACKEND']).BACKEND.refusals()"
    )
    for name in ("tensorflow", "jax")
}
"""Expression for the ways in which programs of the module call the kernels, and why they do not."""

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Environment in which asking for devices neither chatters nor takes all of a GPU's memory."""

ADAPTERS = {
    "qemu_swalp_torch": ("torch", "f'PyTorch {m._torch.__version__}'"),
    "qemu_swalp_keras": ("keras", "f'Keras {m._keras.__version__} on {m._backend()}'"),
}
"""Adapter → framework, and expression for what the module `m` runs on."""

ABSENT = "no: not installed"
LIBRARY_COLUMNS = ("arrays of", "version", "importable", "devices", "path")
WITHOUT_COLUMNS = ("in the reference implementation", "where")
ADAPTER_COLUMNS = ("adapter", "importable", "runs on")


class Probe(NamedTuple):
    """What is known of an array library. `version`: "–" where it is not installed."""

    version: str
    importable: str
    devices: str
    path: str


def add_commands(commands: Any) -> None:
    """Add `info` to the subparsers."""
    command = commands.add_parser(
        "info",
        help="show versions, array libraries, their devices and paths",
        description="Show versions, array libraries, their devices, and how each quantizes.",
    )
    add_json(command)
    command.set_defaults(run=_info)


def _info(chosen: argparse.Namespace) -> int:
    versions = {"python": platform.python_version(), "qemu_swalp": __version__}
    if not asks_for_json(chosen):
        print(table(("", "version"), versions.items(), left=(0, 1)))
    with ThreadPoolExecutor() as pool:
        asked, found = pool.map(probe, FRAMEWORKS), pool.map(probe_adapter, ADAPTERS)
        probes, adapters = dict(zip(FRAMEWORKS, asked, strict=True)), list(found)
    if asks_for_json(chosen):
        print_json(
            {
                "versions": versions,
                "libraries": {name: each._asdict() for name, each in probes.items()},
                "adapters": {
                    name: {"importable": importable, "runs_on": on}
                    for name, importable, on in adapters
                },
                "without_kernels": dict(WITHOUT_KERNELS),
            }
        )
        return 0
    lines = [(name, *each) for name, each in probes.items()]
    print("\n" + table(LIBRARY_COLUMNS, lines, left=range(5), width=TERMINAL))
    print("\n" + table(ADAPTER_COLUMNS, adapters, left=range(3), width=TERMINAL))
    print("\n" + table(WITHOUT_COLUMNS, WITHOUT_KERNELS, left=range(2), width=TERMINAL))
    return 0


def probe(framework: str) -> Probe:
    """Ask for a library in a subprocess. Never fails."""
    answer, importable = _ask(
        framework,
        "from qemu_swalp.arrays import namespace_of; "
        "from qemu_swalp.random_bits import generator_agrees",
        f"[m.__version__, {DEVICES[framework]}, all({GENERATORS.get(framework, [])}),"
        f" {REFUSALS.get(framework, {})}]",
    )
    if answer is None:
        return Probe(_version(framework), importable, "–", "–")
    version, devices, generator, refusals = answer
    how = path(framework, generator, refusals)
    return Probe(version, importable, ", ".join(devices) or "none", how)


def probe_adapter(package: str) -> tuple[str, str, str]:
    """(package, whether it can be imported, what it runs on). Never fails."""
    framework, expression = ADAPTERS[package]
    answer, importable = (
        (None, ABSENT) if find_spec(framework) is None else _ask(package, "pass", expression)
    )
    return package, importable, answer or "–"


def _ask(module: str, first: str, expression: str) -> tuple[Any, str]:
    """(the expression's value after a statement, in a process that has the module as `m`; "yes");
    or (None, why).
    """
    if find_spec(module) is None:
        return None, ABSENT
    script = f"import json, {module} as m; {first}; print(); print(json.dumps({expression}))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=QUIET | dict(os.environ),
            check=True,
        )
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        return None, f"no: {reason[:100]}"
    except subprocess.TimeoutExpired:
        return None, f"no: nothing heard in {TIMEOUT} s"
    return json.loads(done.stdout.splitlines()[-1]), "yes"


def path(framework: str, generator: bool, refusals: Mapping[str, str] | None = None) -> str:
    """How arrays of a library are quantized. `generator`: whether its own makes the random words
    where it has one. `refusals`: see `REFUSALS`.
    """
    if framework == "torch":
        cuda = _cuda_path()
        return f"{_host_path()}; on CUDA {cuda}; in torch.compile by qemu_swalp_torch.quantize"
    if framework == "cupy":
        return _cuda_path()
    if framework == "numpy" or not kernels.enabled() or cpu.library() is None:
        return _host_path()
    ways = [
        f"{way}: reference implementation, since {reason}" if reason else f"{way}: {_host_path()}"
        for way, reason in (refusals or {}).items()
    ]
    words = "its own generator outside XLA" if generator else "the reference implementation"
    if framework in GENERATORS:
        ways.append(f"random words without kernels by {words}")
    return "; ".join(ways)


def _host_path() -> str:
    """How arrays in the host's memory are quantized."""
    instructions = cpu.instruction_set()
    if not kernels.enabled():
        return "reference implementation, since QEMU_SWALP_KERNELS is off"
    if instructions is None:
        return (
            f"reference implementation: {cpu.refusal()}; install from source with a C++ compiler"
            " for the fast path"
        )
    return f"compiled kernels ({instructions}, up to {kernels.get_num_threads()} threads)"


def _cuda_path() -> str:
    """How arrays in a GPU's memory are quantized."""
    if not kernels.enabled():
        return "the reference implementation, since QEMU_SWALP_KERNELS is off"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reason stands in the table
        reason = refusal()
    if reason is None:
        return "kernels that CuPy compiles at their first use"
    return f"the reference implementation, since {reason}"


def _version(framework: str) -> str:
    """Of the first distribution that provides the import name, which need not carry its name
    (tensorflow-cpu).
    """
    providers = metadata.packages_distributions().get(framework)
    return metadata.version(providers[0]) if providers else "–"
