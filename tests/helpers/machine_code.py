"""What NVIDIA's tools say of the machine code of a program, which needs no GPU: NVRTC compiles it,
cuobjdump tells the resources of each kernel, nvdisasm its instructions.
"""

from __future__ import annotations

import heapq
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from qemu_swalp.kernels.build import CudaProgram

from . import nvrtc

_KERNEL = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_SECTION = re.compile(r"\.section\s+\.text\.(\w+)")
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
_LABEL = re.compile(r"^(\.L_\w+|\$[\w$]+):")
_BRANCH = re.compile(r"\bBRA(?:\.\w+)*\s.*?`\((\.L_\w+)\)")
_CALL = re.compile(r"\bCALL\b.*?`\(([\w$]+)\)")
_IF = re.compile(r"BRA(?:\.\w+)*\s+!?U?P\d")
WIDE_STORE = r"\bST(G|\.E).*\.128"
"""Of 16 bytes to global memory."""
_LOCAL = re.compile(r"\b(LDL|STL)\b")
_WIDE_STORE = re.compile(WIDE_STORE)
INTEGER = re.compile(
    r"(?:@!?U?P\d+ )?(LOP3|PLOP3|IADD3|IADD|SHF|ISETP|SEL|VIMNMX\w*|IMNMX|LEA|PRMT|FMNMX|FSETP|FSEL"
    r"|BMSK|SGXT|FLO|POPC|VIADD\w*|MOV|LOP|ISCADD)\b"
)
"""Instructions of the pipe of 64 lanes a processor and clock (compute capability 9.0)."""


class Loop(NamedTuple):
    """A loop of a kernel that stores 16 bytes by an instruction."""

    instructions: int
    """Of all ways through it, but not of what it calls."""
    integer: int
    """Of the integer pipe."""
    local: int
    """Accesses to local memory."""
    stored: int
    """Bytes that a thread stores in a turn."""
    calls: int


class Kernel(NamedTuple):
    """Resources of a thread, and its loops."""

    registers: int
    stack: int
    local: int
    loops: tuple[Loop, ...]
    code: tuple[str, ...]
    labels: dict[str, int]
    """What stands where in the code."""


class Way(NamedTuple):
    """A way through a loop."""

    instructions: int
    integer: int


def shortest_way(
    kernel: Kernel, needs: dict[str, int], called: str = "", innermost: bool = False
) -> Way | None:
    """The shortest way around a loop of a kernel on which so many instructions of each kind stand:
    what the loop runs where nothing is out of the ordinary. None if there is none.

    needs : pattern → count, such as {r"FADD": 48}. called : part of the name of a function that it
    may call, whose instructions count; it calls no other one. innermost : look only at the
    innermost loops that store as often as is needed: of a long kernel, all take hours.
    """
    kinds = [(re.compile(pattern), count) for pattern, count in needs.items()]
    met = [[pattern.search(text) is not None for pattern, _ in kinds] for text in kernel.code]
    full = tuple(count for _, count in kinds)
    spans = _spans(kernel.code, kernel.labels)
    if innermost:
        spans = _innermost(kernel.code, spans, needs[WIDE_STORE])
    heads = sorted({start for start, _ in spans})
    ways = [way for head in heads if (way := _around(kernel, head, met, full, called))]
    return min(ways, default=None)


def _innermost(
    code: Sequence[str], spans: list[tuple[int, int]], stores: int
) -> list[tuple[int, int]]:
    """The loops with so many stores of 16 bytes in which no other such loop lies."""
    spans = [(a, b) for a, b in spans if sum(map(_is_wide_store, code[a:b])) >= stores]
    # What begins in a loop and ends beyond it is a block out of line that goes back into the loop.
    loops = [span for span in spans if not any(a < span[0] < b < span[1] for a, b in spans)]
    return [
        (start, end)
        for start, end in loops
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in loops)
    ]


def _around(
    kernel: Kernel, head: int, met: list[list[bool]], full: tuple[int, ...], called: str
) -> Way | None:
    """The shortest way from a place in the code to itself."""
    done: set[tuple[int, tuple[int, ...], int]] = set()
    queue = [(0, 0, head, (0,) * len(full), 0)]  # the last: where a call returns to, if in one
    while queue:
        length, integer, at, counts, back = heapq.heappop(queue)
        if length and at == head:
            if counts == full:
                return Way(length, integer)
            continue
        if (at, counts, back) in done or at >= len(kernel.code):
            continue
        done.add((at, counts, back))
        text = kernel.code[at]
        if "EXIT" in text and not text.startswith("@"):
            continue
        seen = tuple(min(a + b, c) for a, b, c in zip(counts, met[at], full, strict=True))
        step = (length + 1, integer + (INTEGER.match(text) is not None))
        if "CALL" in text:
            call = _CALL.search(text)
            if called and not back and call and called in call[1]:
                heapq.heappush(queue, (*step, kernel.labels[call[1]], seen, at + 1))
            continue
        if re.search(r"\bRET\b", text):
            if back:
                heapq.heappush(queue, (*step, back, seen, 0))
            continue
        branch = _BRANCH.search(text)
        if branch and branch[1] in kernel.labels:
            heapq.heappush(queue, (*step, kernel.labels[branch[1]], seen, back))
        if not branch or text.startswith("@") or _IF.search(text):
            heapq.heappush(queue, (*step, at + 1, seen, back))
    return None


@cache
def kernels(program: CudaProgram, arch: str) -> dict[str, Kernel]:
    """Of a program, compiled for an architecture such as "sm_90"."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "program.cubin"
        binary.write_bytes(nvrtc.cubin(program, arch))
        usage = _run("cuobjdump", "--dump-resource-usage", str(binary))
        code = _run("nvdisasm", "--print-code", str(binary))
    found = {name: _parsed(lines) for name, lines in _functions(code).items()}
    return {
        name: Kernel(
            int(registers),
            int(stack),
            int(local),
            tuple(_loops(*found[name])),
            tuple(found[name][0]),
            found[name][1],
        )
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


def _parsed(lines: list[str]) -> tuple[list[str], dict[str, int]]:
    """The instructions of a function, and the places of its labels."""
    labels: dict[str, int] = {}
    code: list[str] = []
    for line in lines:
        if match := _LABEL.match(line):
            labels[match[1]] = len(code)
        if match := _INSTRUCTION.search(line):
            code.append(match[2])
    return code, labels


def _loops(code: list[str], labels: dict[str, int]) -> list[Loop]:
    spans = [code[start:end] for start, end in _spans(code, labels)]
    return [
        Loop(
            len(span),
            sum(INTEGER.match(text) is not None for text in span),
            sum(_LOCAL.search(text) is not None for text in span),
            16 * wide,
            sum("CALL" in text for text in span),
        )
        for span in spans
        if (wide := sum(map(_is_wide_store, span)))
    ]


def _spans(code: Sequence[str], labels: dict[str, int]) -> list[tuple[int, int]]:
    """Where each loop begins, and where it has ended."""
    return [
        (labels[match[1]], i + 1)
        for i, text in enumerate(code)
        if (match := _BRANCH.search(text)) and labels.get(match[1], i + 1) <= i
    ]


def _is_wide_store(text: str) -> bool:
    return _WIDE_STORE.search(text) is not None
