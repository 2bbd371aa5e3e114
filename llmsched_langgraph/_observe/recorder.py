"""Appends ended jobs to a file in the trace format while the scheduler runs.

Does not define the content of a line, or decide when a job has ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from llmsched_langgraph._background import Background
from llmsched_langgraph._fork import start_thread
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph._observe.closed import ClosedJob
from llmsched_langgraph.errors import ConfigurationError

logger = logging.getLogger("llmsched_langgraph")

VARIABLE = "LLMSCHED_RECORD"
"""Environment variable: the file to which the process-wide scheduler records."""

GATHER_S = 0.1
"""Seconds for which jobs are gathered before they are written together."""

PATIENCE_S = 10.0
"""Maximum seconds to wait for another write; a signal handler may have interrupted it in this thread."""


class Recorder:
    """Appends each finished job with calls to a file, in the background.

    Each batch is one write of whole lines at the end of the file, so several processes may share it. The file
    is opened for each batch: it may be moved, and a forked child inherits no descriptor. The first failure is
    logged. Scheduling continues; only the lines that failed are lost.

    Args:
        path: the file. The first write creates it and its folder.
        background: creates a background thread from its name and its work.

    Raises:
        ConfigurationError: the path is a folder, or names a compressed file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        background: Callable[[str, Callable[[], bool]], Background] = Background,
    ) -> None:
        self.path = recordable(path)
        if not _on_event_loop():  # `absolute` reads the working directory, which may block
            self.path = self.path.absolute()  # independent of a later chdir
        # No lock: a finaliser may call `note` during another `note`.
        self._jobs: deque[tuple[int, ClosedJob]] = deque()
        self._taken = 0  # number of the latest job written
        self._writing = threading.Lock()
        self._torn = False
        self._told = False
        self._background = background("llmsched-recording", self._work)

    def note(self, job: ClosedJob, number: int = 0) -> None:
        """Queue the job for writing, if it finished and made a call. O(1).

        Args:
            job: the closed job.
            number: the job's number, ascending. A job whose number does not exceed that of the last written
                job is ignored; 0 disables this check.
        """
        if job.informative:
            self._jobs.append((number, job))
            self._background.there_is_work()

    def forked(self) -> None:
        """Begin anew in the child of a fork: the queued jobs are the parent's to write."""
        self._jobs, self._writing = deque(), threading.Lock()

    def flush(self) -> None:
        """Write the queued jobs now."""
        self._write()

    def finish(self) -> None:
        """Write the queued jobs now; on an event loop's thread, in a new thread."""
        if _on_event_loop():
            try:
                # Not a daemon: the exit of the process waits for it.
                start_thread(threading.Thread(target=self.flush, name="llmsched-recording", daemon=False))
            except RuntimeError:
                pass  # the interpreter is shutting down and starts no threads: write in this one
            else:
                return
        self.flush()

    def _work(self) -> bool:
        self._background.stopped(GATHER_S)
        return self._write()

    def _write(self) -> bool:
        """Write the queued jobs; return False if there were none."""
        alone = self._writing.acquire(timeout=PATIENCE_S)
        try:
            found = [self._jobs.popleft() for _ in range(len(self._jobs))]
            if found:
                self._append(_lines([job.record for job in self._fresh(found)]))
        except Exception as error:
            self._tell(error)
            return True
        finally:
            if alone:
                self._writing.release()
        return bool(found)

    def _fresh(self, found: list[tuple[int, ClosedJob]]) -> Iterator[ClosedJob]:
        for number, job in found:
            if number > self._taken or not number:
                self._taken = number or self._taken
                yield job

    def _append(self, lines: bytes) -> None:
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_APPEND | os.O_CREAT | os.O_RDWR | getattr(os, "O_BINARY", 0)
        file = os.open(self.path, flags, 0o666)
        try:
            # After an incomplete line, start a new one. Readers ignore empty lines.
            if self._torn or not _ends_a_line(file):
                lines = b"\n" + lines
            self._torn = True
            written = os.write(file, lines)
            if written < len(lines):
                raise OSError(f"only {written} of {len(lines)} bytes could be written")
            self._torn = False
        finally:
            os.close(file)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "jobs could not be recorded to %s; scheduling continues without them (logged once): %r",
                self.path,
                error,
            )


def recordable(path: object) -> Path:
    """Return the path if jobs can be appended to it. On an event loop, check the name only.

    Raises:
        ConfigurationError: `path` is not a path, is a folder, or names a compressed file.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ConfigurationError(f"record must be the path of a file, e.g. 'jobs.jsonl', not {path!r}")
    file = Path(os.fspath(path))
    if file.suffix == ".gz":
        raise ConfigurationError(
            f"record: {file} cannot be compressed, because processes may append to it; name it "
            f"{file.with_suffix('')}, and gzip it afterwards"
        )
    if not _on_event_loop() and file.is_dir():
        raise ConfigurationError(f"record: {file} is a folder; name a file in it, e.g. {file / 'jobs.jsonl'}")
    return file


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _lines(records: list[EndedJob]) -> bytes:
    # Late: only recording needs it. The package first, as in `_belief/profile/serialization.py`.
    import llmsched_langgraph.traces  # noqa: F401
    from llmsched_langgraph.traces.files import line_of_job

    return "".join(map(line_of_job, records)).encode()


def _ends_a_line(file: int) -> bool:
    if not os.fstat(file).st_size:
        return True
    os.lseek(file, -1, os.SEEK_END)
    return os.read(file, 1) == b"\n"
