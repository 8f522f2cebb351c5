"""Compiles the CPU kernels into the package, where there is a C++ compiler; without one the package
is pure Python.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILD = Path("qemu_swalp") / "kernels" / "build.py"


class KernelsHook(BuildHookInterface):  # type: ignore[misc]
    """The build hook of wheels, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this platform."""
        spec = importlib.util.spec_from_file_location("build", Path(self.root) / BUILD)
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            library = build.compile_library()
        except subprocess.CalledProcessError as error:
            self.app.display_warning(
                f"the C++ compiler failed ({error}), so no compiled kernels: arrays use the "
                "slower reference implementation"
            )
            return
        if library is None:
            self.app.display_warning(
                "no C++ compiler, so no compiled kernels: arrays use the slower reference "
                "implementation"
            )
            return
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(str(library.relative_to(self.root)))
