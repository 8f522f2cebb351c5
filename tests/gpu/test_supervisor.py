"""`python -m tests.gpu` goes on after a process that hangs, crashes or has lost the GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.gpu.report import Outcome
from tests.gpu.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
CHILD = """
import json, os, subprocess, sys, time
file, seconds, *names = sys.argv[1:]
out = open(file, "a")
def write(**line): print(json.dumps(line), file=out, flush=True)
write(about={"device": "none"})
for name in names:
    write(begun=name)
    write(row={"of": name, "ok": True})
    if name == "hangs":
        beside = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(os.environ["BESIDE"], "w").write(str(beside.pid))
        time.sleep(600)
    if name == "crashes":
        os.abort()
    if name == "cut off":
        out.write("{"); out.flush(); os._exit(7)
    if name == "slow":
        for _ in range(15): time.sleep(0.2); write(row={"of": name})
    failed = name in ("lost", "lost and silent")
    write(outcome={"name": name, "status": "failed" if failed else "ok", "seconds": 0.0,
                   "rows": [], "error": ""})
    if name == "lost": sys.exit(1)
    if name == "lost and silent": time.sleep(600)
"""


def supervisor(seconds: float = 60, patience: float = 1.5, grace: float = 20) -> Supervisor:
    command = (sys.executable, "-c", CHILD)
    return Supervisor(False, time.monotonic() + seconds, command, patience, grace)


def test_it_goes_on_whatever_becomes_of_a_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = tmp_path / "pid"
    monkeypatch.setenv("BESIDE", str(beside))
    names = ["a", "hangs", "lost", "crashes", "b", "lost and silent", "cut off", "slow"]
    watched = supervisor()
    outcomes = watched.run(names)
    assert [o["name"] for o in outcomes] == names
    errors = {o["name"]: (o["status"], o["error"]) for o in outcomes}
    assert errors == {
        "a": ("ok", ""),
        "hangs": ("failed", "hung: no row in 1.5 s, so its process was stopped"),
        "lost": ("failed", ""),
        "crashes": ("failed", "its process ended by SIGABRT"),
        "b": ("ok", ""),
        "lost and silent": ("failed", ""),
        "cut off": ("failed", "its process ended in status 7"),
        "slow": ("ok", ""),
    }
    assert watched.about == {"device": "none"}
    assert outcomes[1]["rows"] == [{"of": "hangs", "ok": True}]
    shown = capsys.readouterr().out
    assert "failed: hangs: hung: no row in 1.5 s" in shown
    assert shown.count("the GPU answers its process no more") == 2
    stat = Path(f"/proc/{beside.read_text()}/stat")
    assert not stat.exists() or stat.read_text().split(")")[1].split()[0] == "Z"


def test_the_time_holds_though_a_process_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESIDE", str(tmp_path / "pid"))
    began = time.monotonic()
    outcomes = supervisor(seconds=1, patience=60, grace=1).run(["hangs", "a"])
    assert time.monotonic() - began < 10
    (first, second) = outcomes
    assert first["error"] == "hung: no row in 1 s after the time was over; stopped"
    assert (second["status"], second["error"]) == ("left out", "the time is over")


def test_a_process_that_does_not_begin_is_told_for_each_section() -> None:
    watched = Supervisor(False, time.monotonic() + 60, (sys.executable, "-c", "import nothing_"))
    outcomes = watched.run(["a", "b"])
    assert {o["error"] for o in outcomes} == {"its process ended in status 1"}


def test_a_process_ends_where_the_gpu_is_lost(tmp_path: Path) -> None:
    found = tmp_path / "shown.jsonl"
    program = (
        "import sys; from tests.gpu import child, exactness, report\n"
        "def lost(settings): raise RuntimeError('cudaErrorIllegalAddress'); yield\n"
        "exactness.streams, report.alive = lost, lambda: False\n"
        f"sys.exit(child.main([{str(found)!r}, '60', 'streams and threads',\n"
        "                      'subnormal numbers', '--stand-in']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [json.loads(line) for line in found.read_text().splitlines()]
    assert [next(iter(line)) for line in lines] == ["about", "begun", "outcome"]
    outcome = Outcome(**lines[-1]["outcome"])
    assert (outcome.status, outcome.rows) == ("failed", [])
    assert "cudaErrorIllegalAddress" in outcome.error
