"""What a first contact with a GPU should run: `python -m tests.gpu`, in less than ten minutes.

Bits beside NumPy, captures and streams, then speed as ratios in one run; tables are printed, and
all goes to a JSON file. A failure stops nothing: where an error leaves a process without a GPU, as
an illegal address does, where it crashes, and where it hangs, another process goes on. The exit
status is 0 if all is well, 1 after failures, 2 without a GPU. `--stand-in` runs the same on what
stands in for one (`tests/stand_in`): this shows that the command runs, and nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.gpu.sections import SECTIONS
from tests.gpu.supervisor import Supervisor
from tests.stand_in import NAME


def missing() -> str:
    """Why there is no GPU here; "" if there is one."""
    try:
        import torch
    except ImportError as error:
        return f"PyTorch cannot be imported: {error}"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no GPU"
    from qemu_swalp.kernels.gpu.availability import refusal

    return refusal() or ""


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stand-in", action="store_true", help="without a GPU: see above")
    parser.add_argument("--only", nargs="+", default=[], help="sections, by their first words")
    parser.add_argument("--seconds", type=float, default=570, help="begin nothing after so long")
    parser.add_argument("--json", default="gpu.json", help='where figures go; "" for nowhere')
    chosen = parser.parse_args(arguments)
    if not chosen.stand_in and (reason := missing()):
        print(f"no GPU to test: {reason}. On the {NAME}: python -m tests.gpu --stand-in")
        return 2
    unknown = [o for o in chosen.only if not any(name.startswith(o) for name in SECTIONS)]
    if unknown:
        parser.error(f"--only knows {', '.join(SECTIONS)}; got {', '.join(unknown)}")
    return _run(chosen)


def _run(chosen: argparse.Namespace) -> int:
    names = [name for name in SECTIONS if not chosen.only or any(map(name.startswith, chosen.only))]
    if chosen.stand_in:
        print(f"{NAME.upper()}: no GPU is tested, and no time below is one of a GPU", flush=True)
    supervisor = Supervisor(chosen.stand_in, time.monotonic() + chosen.seconds)
    outcomes = supervisor.run(names)
    about = {"stand_in": chosen.stand_in, **supervisor.about}
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()))
    if chosen.json:
        found = {**about, "sections": outcomes}
        Path(chosen.json).write_text(json.dumps(found, indent=1, default=str))
    for status in ("skipped", "left out"):
        reasons = [f"{o['name']} ({o['error']})" for o in outcomes if o["status"] == status]
        if reasons:
            print(f"\n{status}: {', '.join(reasons)}")
    failed = [outcome["name"] for outcome in outcomes if outcome["status"] == "failed"]
    print(f"\n{'failed: ' + ', '.join(failed) if failed else 'all is well'}", flush=True)
    if chosen.stand_in:
        print(f"This ran on the {NAME}.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
