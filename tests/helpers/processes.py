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
