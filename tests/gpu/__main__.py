"""What a first contact with a GPU should run: `python -m tests.gpu`, in less than ten minutes.

Bits beside NumPy, captures and streams, then speed as ratios in one run; tables are printed, and
all goes to a JSON file. A failure stops nothing: where an error leaves the process without a GPU,
as an illegal address does, another process goes on. The exit status is 0 if all is well, 1 after
failures, 2 without a GPU. `--stand-in` runs the same on what stands in for one
(`tests/stand_in`): this shows that the command runs, and nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.gpu import report
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
    if chosen.stand_in:
        from tests.stand_in import cupy_module, torch_cuda

        cupy_module.install()
        torch_cuda.install()
    elif reason := missing():
        print(f"no GPU to test: {reason}. On the {NAME}: python -m tests.gpu --stand-in")
        return 2
    return _run(chosen)


def _run(chosen: argparse.Namespace) -> int:
    import cupy
    import torch

    from tests.gpu import exactness, speed
    from tests.helpers.samples import FEW_FORMATS, formats

    sections = {
        "bits beside NumPy": exactness.bits_of_numpy,
        "memory: strides and offsets": exactness.memory,
        "streams and threads": exactness.streams,
        "steps of SGD": exactness.steps,
        "captures and replays": exactness.captures,
        "subnormal numbers": exactness.subnormals,
        "resources of kernels": speed.resources,
        "bandwidth": speed.bandwidth,
        "host time": speed.host,
        "optimizer step": speed.optimizer_step,
        "training step": speed.training_step,
        "sanitizers": speed.sanitizers,
    }
    unknown = [o for o in chosen.only if not any(name.startswith(o) for name in sections)]
    if unknown:
        sys.exit(f"--only knows {', '.join(sections)}; got {', '.join(unknown)}")
    settings = report.Settings(
        chosen.stand_in,
        FEW_FORMATS[:5] if chosen.stand_in else (*formats(), *FEW_FORMATS),
        time.monotonic() + chosen.seconds,
    )
    about = {
        "device": torch.cuda.get_device_name(),
        "stand_in": chosen.stand_in,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "torch": torch.__version__,
        "cupy": cupy.__version__,
    }
    if chosen.stand_in:
        print(f"{NAME.upper()}: no GPU is tested, and no time below is one of a GPU")
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    names = [name for name in sections if not chosen.only or any(map(name.startswith, chosen.only))]
    outcomes: list[dict[str, Any]] = []
    while names:
        name = names.pop(0)
        outcomes.append(asdict(report.run(name, sections[name], settings)))
        if outcomes[-1]["status"] == "failed" and names and not report.alive():
            outcomes += _in_a_new_process(names, settings)
            names = []
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


def _in_a_new_process(names: list[str], settings: report.Settings) -> list[dict[str, Any]]:
    """Outcomes of sections, where an error has left this process without a GPU."""
    print("\nthe GPU answers this process no more; a new one goes on", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "rest.json"
        command = [sys.executable, "-m", "tests.gpu", "--only", *names, "--json", str(found),
                   "--seconds", str(settings.until - time.monotonic())]  # fmt: skip
        subprocess.run(command + ["--stand-in"] * settings.stand_in)
        if found.exists():
            sections: list[dict[str, Any]] = json.loads(found.read_text())["sections"]
            return sections
    lost = {"seconds": 0.0, "rows": [], "error": "its process ended"}
    return [{"name": name, "status": "failed", **lost} for name in names]


if __name__ == "__main__":
    sys.exit(main())
