"""Scripts in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def run_alone(script: str, **environment: str) -> None:
    """Run a script in another process, with more environment; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=dict(os.environ) | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def leave() -> None:
    """End this process without the interpreter's own end.

    DistributedDataParallel and DTensor keep the group, and so the threads of gloo, beyond
    `destroy_process_group`. A thread that drops a tensor takes the interpreter's lock; when the
    interpreter has begun to end, Python exits the thread there, and C++ aborts the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
