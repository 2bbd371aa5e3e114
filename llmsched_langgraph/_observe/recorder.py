"""Knows how ended jobs get into a file of the trace format, line by line, while the scheduler runs.

Does not know what a job looks like there, nor when a job has ended.
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
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph._observe.closed import ClosedJob
from llmsched_langgraph.errors import ConfigurationError

logger = logging.getLogger("llmsched_langgraph")

VARIABLE = "LLMSCHED_RECORD"
"""In the environment: the file that the process-wide scheduler records to."""

PATIENCE_S = 10.0
"""Seconds to wait for lines that are being written; a fork may have taken them for ever."""


class Recorder:
    """Appends each job that went to its end to a file, in the background.

    Whole lines go into the file at once and at its end, so that several processes may share it. It is opened
    for each batch: it may be moved away, and a fork takes nothing with it. Whatever goes wrong with it is
    said once, and costs nothing but the lines.

    Args:
        path: the file. It and its folder are made with the first line.
        background: makes what works in the background.

    Raises:
        ConfigurationError: the path is a folder, or names a compressed file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        background: Callable[[str, Callable[[], bool]], Background] = Background,
    ) -> None:
        self.path = recordable(path)
        if not _on_event_loop():  # which nobody may hold up by asking where it is
            self.path = self.path.absolute()  # wherever the program goes from here
        # Without a lock: a finaliser may bring a job in the middle of the bringing of one.
        self._jobs: deque[tuple[int, int, ClosedJob]] = deque()
        self._taken = 0  # the number of the last one
        self._writing = threading.Lock()
        self._torn = False
        self._told = False
        self._background = background("llmsched-recording", self._write)

    def note(self, job: ClosedJob, number: int = 0) -> None:
        """Write the job down when there is time, if it made a call and went to its end. O(1).

        Args:
            job: it.
            number: of the news of it, ascending; the same number is the same news. 0 is always news.
        """
        if job.informative:
            # What a process has not written when it forks is its own to write.
            self._jobs.append((os.getpid(), number, job))
            self._background.there_is_work()

    def flush(self) -> None:
        """Write what is left, here and now."""
        self._write()

    def finish(self) -> None:
        """Write what is left: before this returns, or right after it if an event loop would wait for it."""
        if _on_event_loop():
            try:
                # The end of the process waits for this one.
                threading.Thread(target=self.flush, name="llmsched-recording", daemon=False).start()
            except RuntimeError:
                pass  # the interpreter is going down and gives no threads any more: written in place
            else:
                return
        self.flush()

    def _write(self) -> bool:
        """Write all that is there; whether there was any."""
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

    def _fresh(self, found: list[tuple[int, int, ClosedJob]]) -> Iterator[ClosedJob]:
        for process, number, job in found:
            if process == os.getpid() and (number > self._taken or not number):
                self._taken = number or self._taken
                yield job

    def _append(self, lines: bytes) -> None:
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_APPEND | os.O_CREAT | os.O_RDWR | getattr(os, "O_BINARY", 0)
        file = os.open(self.path, flags, 0o666)
        try:
            # Behind a line that somebody could not finish, a new one begins; empty lines are no matter.
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
                "jobs could not be recorded to %s, and scheduling goes on without that (said once): %r",
                self.path,
                error,
            )


def recordable(path: object) -> Path:
    """The path, if jobs can be appended to a file there; on an event loop, as far as its name tells.

    Raises:
        ConfigurationError: it is none, is a folder, or names a compressed file.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ConfigurationError(f"record must be the path of a file, e.g. 'jobs.jsonl', not {path!r}")
    file = Path(os.fspath(path))
    if file.suffix == ".gz":
        raise ConfigurationError(
            f"record: {file} cannot be compressed, for several processes may append to it; name it "
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
    from llmsched_langgraph.traces.files import line_of_job  # late: only those who record need it

    return "".join(map(line_of_job, records)).encode()


def _ends_a_line(file: int) -> bool:
    if not os.fstat(file).st_size:
        return True
    os.lseek(file, -1, os.SEEK_END)
    return os.read(file, 1) == b"\n"
