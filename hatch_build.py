"""Compiles the CPU kernels into the package, where there is a C++ compiler; without one, or with
QEMU_SWALP_KERNELS=off, the package is pure Python.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILD = Path("qemu_swalp") / "kernels" / "build.py"
SLOWER = "so arrays use the slower reference implementation"


class KernelsHook(BuildHookInterface):  # type: ignore[misc]
    """The build hook of wheels, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless an earlier build left what is current, and mark the wheel as one for this
        platform.

        `linux_x86_64` is what a local build may claim. Wheels for an index are built in manylinux's
        containers, where auditwheel gives them its tag (`.github/workflows/wheels.yml`).
        """
        if os.environ.get("QEMU_SWALP_KERNELS") == "off":
            self.app.display_info(f"QEMU_SWALP_KERNELS is off, {SLOWER}")
            return
        spec = importlib.util.spec_from_file_location("build", Path(self.root) / BUILD)
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            current = build.is_current(build.LIBRARY)
            library = build.LIBRARY if current else build.compile_library()
        except subprocess.CalledProcessError as error:
            self.app.display_warning(f"the C++ compiler failed ({error}), {SLOWER}")
            return
        if library is None:
            self.app.display_warning(f"no C++ compiler for the kernels, {SLOWER}")
            return
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(str(library.relative_to(self.root)))
