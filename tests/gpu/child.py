"""The process that works on the GPU: `python -m tests.gpu.child FILE SECONDS SECTION...
[--stand-in]`.

It writes a line of JSON for what it runs on, each row, and the begin and end of each section, so
that whoever waits for it sees where it stands. It ends early where an error has left it without a
GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.gpu import report
from tests.gpu.sections import section
from tests.stand_in import NAME


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.child", description=__doc__)
    parser.add_argument("file")
    parser.add_argument("seconds", type=float)
    parser.add_argument("sections", nargs="+")
    parser.add_argument("--stand-in", action="store_true")
    chosen = parser.parse_args(arguments)
    until = time.monotonic() + chosen.seconds
    if chosen.stand_in:
        from tests.stand_in import cupy_module, torch_cuda

        cupy_module.install()
        torch_cuda.install()
    from tests.helpers.samples import FEW_FORMATS, formats

    known = FEW_FORMATS[:5] if chosen.stand_in else (*formats(), *FEW_FORMATS)
    settings = report.Settings(chosen.stand_in, known, until)
    failed = False
    with Path(chosen.file).open("a", encoding="utf-8") as file:

        def write(line: dict[str, Any]) -> None:
            print(json.dumps(line, default=str), file=file, flush=True)

        write({"about": about()})
        for name in chosen.sections:
            write({"begun": name})
            outcome = report.run(name, section(name), settings, lambda row: write({"row": row}))
            write({"outcome": asdict(outcome)})
            if outcome.status == "failed":
                failed = True
                if not report.alive():
                    break
    return int(failed)


def about() -> dict[str, str]:
    """What this process runs on."""
    import cupy
    import torch

    device, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return {
        "device": device,
        "capability": "" if device == NAME else ".".join(map(str, capability)),
        "torch": torch.__version__,
        "cupy": cupy.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
