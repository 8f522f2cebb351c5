"""What NVIDIA's tools say of the machine code of a program, which needs no GPU: NVRTC compiles it,
cuobjdump tells the resources of each kernel, nvdisasm its instructions.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from qemu_swalp.kernels.build import CudaProgram

from . import nvrtc

_KERNEL = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_SECTION = re.compile(r"\.section\s+\.text\.(\w+)")
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
_LABEL = re.compile(r"^(\.L_\w+):")
_BRANCH = re.compile(r"\bBRA(?:\.\w+)*\s.*?`\((\.L_\w+)\)")
_LOCAL = re.compile(r"\b(LDL|STL)\b")
_STORE = re.compile(r"\bST(G|\.E)")
INTEGER = re.compile(
    r"(?:@!?U?P\d+ )?(LOP3|PLOP3|IADD3|IADD|SHF|ISETP|SEL|VIMNMX\w*|IMNMX|LEA|PRMT|FMNMX|FSETP|FSEL"
    r"|BMSK|SGXT|FLO|POPC|VIADD\w*|MOV|LOP|ISCADD)\b"
)
"""Instructions of the pipe of 64 lanes a processor and clock (compute capability 9.0)."""


class Loop(NamedTuple):
    """A loop of a kernel that stores 16 bytes by an instruction, and calls nothing."""

    instructions: int
    integer: int
    """Of the integer pipe."""
    local: int
    """Accesses to local memory."""
    stored: int
    """Bytes that a thread stores in a turn."""


class Kernel(NamedTuple):
    """Resources of a thread, and its loops."""

    registers: int
    stack: int
    local: int
    loops: tuple[Loop, ...]


@cache
def kernels(program: CudaProgram, arch: str) -> dict[str, Kernel]:
    """Of a program, compiled for an architecture such as "sm_90"."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "program.cubin"
        binary.write_bytes(nvrtc.cubin(program, arch))
        usage = _run("cuobjdump", "--dump-resource-usage", str(binary))
        code = _run("nvdisasm", "--print-code", str(binary))
    loops = {name: _loops(lines) for name, lines in _functions(code).items()}
    return {
        name: Kernel(int(registers), int(stack), int(local), tuple(loops.get(name, ())))
        for name, registers, stack, _, local in _KERNEL.findall(usage)
        if name.startswith("qs_")
    }


def missing() -> str:
    """Which of the tools is not installed; "" if none."""
    lacking = [name for name in ("cuobjdump", "nvdisasm") if not _tool(name).exists()]
    return f"not installed: {', '.join(lacking)} (nvidia-cuda-*)" if lacking else ""


def _tool(name: str) -> Path:
    spec = find_spec("nvidia.cu13")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0] if folders else "none") / "bin" / name


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run(
        [str(_tool(tool)), *arguments], check=True, capture_output=True, text=True
    ).stdout


def _functions(code: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in code.splitlines():
        if match := _SECTION.search(line):
            lines = found.setdefault(match[1], [])
        lines.append(line)
    return found


def _loops(lines: list[str]) -> list[Loop]:
    labels: dict[str, int] = {}
    code: list[str] = []
    for line in lines:
        if match := _LABEL.match(line):
            labels[match[1]] = len(code)
        if match := _INSTRUCTION.search(line):
            code.append(match[2])
    spans = [
        code[labels[match[1]] : i + 1]
        for i, text in enumerate(code)
        if (match := _BRANCH.search(text)) and labels.get(match[1], i + 1) <= i
    ]
    return [
        Loop(
            len(span),
            sum(INTEGER.match(text) is not None for text in span),
            sum(_LOCAL.search(text) is not None for text in span),
            16 * wide,
        )
        for span in spans
        if (wide := sum(map(_is_wide_store, span))) and not any("CALL" in text for text in span)
    ]


def _is_wide_store(text: str) -> bool:
    return _STORE.search(text) is not None and ".128" in text
