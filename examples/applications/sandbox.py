"""Knows how to run a Python program that nobody has read, within limits of time, memory and output.

It is no jail: the program may read what its user may read, and may use the network. It needs POSIX. Root may
start processes without limit, on Linux, and one that leaves its session outlives the run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 1 << 20

# Sets the limits from inside, before a line of the program is read: they can be lowered, never raised again.
_START = """
import resource, sys
limits = {"RLIMIT_CPU": %(cpu_s)d, "RLIMIT_FSIZE": %(output)d, "RLIMIT_NPROC": 0, "RLIMIT_CORE": 0}
if sys.platform != "darwin":  # there memory cannot be limited
    limits["RLIMIT_AS"] = %(memory)d
for name, limit in limits.items():
    resource.setrlimit(getattr(resource, name), (limit, limit))
for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(encoding="utf-8", errors="backslashreplace")
with open("program.py", encoding="utf-8") as file:
    program = compile(file.read(), "program.py", "exec")
exec(program, {"__name__": "__main__"})
"""


@dataclass(frozen=True)
class Limits:
    """What a program may use. `wall_s` ends one that only waits."""

    cpu_s: int = 2
    wall_s: float = 10.0
    memory_bytes: int = 256 * MEGABYTE
    output_bytes: int = MEGABYTE


@dataclass(frozen=True)
class Outcome:
    """How it ended: `fault` is empty, or says in a line or a few what went wrong."""

    output: str
    fault: str

    @property
    def passed(self) -> bool:
        """Whether it ended by itself and well."""
        return not self.fault


def run_python(program: str, limits: Limits | None = None) -> Outcome:
    """Run the program in an interpreter and an empty folder of its own."""
    limits = limits or Limits()
    start = _START % {
        "cpu_s": limits.cpu_s,
        "output": limits.output_bytes,
        "memory": limits.memory_bytes,
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        output, errors = (stack.enter_context((folder / name).open("w+b")) for name in ("output", "errors"))
        # What cannot be written (a lone surrogate, say) is for the interpreter to complain of.
        (folder / "program.py").write_bytes(program.encode("utf-8", "surrogatepass"))
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", start],
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limits.wall_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # with all that it may have started
            except (ProcessLookupError, PermissionError):
                pass  # nothing is left of it
            process.wait()
        output.seek(0)
        errors.seek(0)
        printed, complaint = (file.read().decode("utf-8", "replace") for file in (output, errors))
    return Outcome(printed, _fault(status, complaint, limits))


def _fault(status: int | None, complaint: str, limits: Limits) -> str:
    if status == 0:
        return ""
    if status is None:
        return f"stopped: it ran for {limits.wall_s:g} seconds"
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"stopped: it used {limits.cpu_s} seconds of CPU time"
    if "MemoryError" in complaint[-200:]:
        return f"MemoryError: it may use {limits.memory_bytes // MEGABYTE} megabytes"
    return complaint[-1500:].strip() or f"it ended with status {status}"
