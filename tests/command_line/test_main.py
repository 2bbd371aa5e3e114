"""What all commands have in common."""

from __future__ import annotations

import subprocess
import sys


def test_whoever_reads_may_go():
    """As `head` does: no traceback, and the status that shells give a process that wrote to nobody."""
    command = [sys.executable, "-m", "llmsched_langgraph", "bench", "--workload", "chain", "--json"]
    options = ["--jobs", "10", "--seeds", "1", "--policies", "fcfs"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (141, b"")
