"""Plays written programs in subprocesses, so that one that stands still ends nothing but its own process.

Does not judge: the worker does, and a worker that died has a verdict of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from programs.judging import Verdict
from programs.watchdog import STOOD_STILL, STOOD_STILL_BARE
from programs.worker import SPOILS

PATIENCE_S = 20.0
"""How long nothing may happen in a program before it stands still, in seconds."""

_TESTS = Path(__file__).parent.parent
_DIED = {STOOD_STILL: "stands still", STOOD_STILL_BARE: "bare"}
_TOLD = 40_000  # characters of what a worker that died said


class Player:
    """A worker process, and another one whenever it dies.

    Args:
        patience_s: how long nothing may happen in a program, in seconds.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._worker: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None

    def play(self, name: str, source: str) -> Verdict:
        """Play one program."""
        worker = self._running()
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps({"name": name, "source": source}) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
        if answer:
            verdict = Verdict(**json.loads(answer))
            if verdict.kind in SPOILS:
                self.close()
            return verdict
        status = worker.wait()
        assert self._said is not None
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")[-_TOLD:]
        self.close()
        kind: Any = _DIED.get(status, "crash")
        return Verdict(kind, f"exit status {status}\n{said}")

    def close(self) -> None:
        """End the worker."""
        worker, self._worker = self._worker, None
        if worker is not None:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.kill()
            worker.wait()
            worker.stdin.close()
            worker.stdout.close()
        if self._said is not None:
            self._said.close()
            self._said = None

    def _running(self) -> subprocess.Popen[str]:
        if self._worker is None:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the worker runs)
            paths = [str(_TESTS), str(_TESTS.parent), os.environ.get("PYTHONPATH", "")]
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "programs.worker", str(self._patience_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            )
        return self._worker

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
