"""`qemu-swalp info`: versions, array libraries, devices, and the path that each takes.

Each library is imported in a process of its own: one that is broken, or aborts, is reported and harms nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

from .. import __version__
from ..backends import FRAMEWORKS
from ..experiments.text import table

TIMEOUT = 120
"""Seconds until an import counts as failed."""

DEVICES = {
    "numpy": "['cpu']",
    "cupy": "[m.cuda.runtime.getDeviceProperties(i)['name'].decode() for i in range(m.cuda.runtime.getDeviceCount())]",
    "torch": "['cpu'] + [m.cuda.get_device_name(i) for i in range(m.cuda.device_count())] "
             "+ ['mps'] * m.backends.mps.is_available()",
    "tensorflow": "[d.name.removeprefix('/physical_device:') for d in m.config.list_physical_devices()]",
    "jax": "[str(d) for d in m.devices()]",
}
"""Expression that lists the devices of the module `m`."""

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Environment in which asking for devices neither chatters nor takes all of a GPU's memory."""

ADAPTERS = {"torch": "qemu_swalp_torch"}


class Probe(NamedTuple):
    """What is known of an array library. `version`: "–" where it is not installed."""

    version: str
    importable: str
    devices: str
    path: str


def add_commands(commands: Any) -> None:
    """Add `info` to the subparsers."""
    command = commands.add_parser("info", help="show versions, array libraries, their devices and paths",
                                  description="Show versions, array libraries, their devices, and how each quantizes.")
    command.set_defaults(run=_info)


def _info(chosen: argparse.Namespace) -> int:
    print(table(("", "version"), [("python", platform.python_version()), ("qemu_swalp", __version__)], left=(0, 1)))
    with ThreadPoolExecutor() as pool:
        probes = pool.map(probe, FRAMEWORKS)
        lines = [(name, *found) for name, found in zip(FRAMEWORKS, probes, strict=True)]
    print("\n" + table(("arrays of", "version", "importable", "devices", "path"), lines, left=range(5)))
    adapters = [(package, framework, "yes" if find_spec(package) else "no") for framework, package in ADAPTERS.items()]
    print("\n" + table(("adapter", "for", "installed"), adapters, left=range(3)))
    return 0


def probe(framework: str) -> Probe:
    """Ask for a library in a subprocess. Never fails."""
    version = _version(framework)
    if find_spec(framework) is None:
        return Probe(version, "no: not installed", "–", "–")
    script = f"import json, {framework} as m; print(); print(json.dumps([m.__version__, {DEVICES[framework]}]))"
    try:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT,
                              env=QUIET | dict(os.environ), check=True)
        version, devices = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        return Probe(version, f"no: {reason[:100]}", "–", "–")
    except subprocess.TimeoutExpired:
        return Probe(version, f"no: nothing heard in {TIMEOUT} s", "–", "–")
    return Probe(version, "yes", ", ".join(devices) or "none", path(framework))


def path(framework: str) -> str:
    """How arrays of a library are quantized."""
    compiled = {"torch": "eager; in torch.compile by qemu_swalp_torch.quantize",
                "tensorflow": "eager or in tf.function", "jax": "eager or in jit"}.get(framework)
    return f"array program, {compiled}" if compiled else "array program"


def _version(framework: str) -> str:
    """Of the first distribution that provides the import name, which need not carry its name (tensorflow-cpu)."""
    providers = metadata.packages_distributions().get(framework)
    return metadata.version(providers[0]) if providers else "–"
