"""Finds, reads and writes files of jobs, with one JSON object per line. Lines that are torn are skipped.

`form` converts jobs to and from these objects; `loaders` reads other formats.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from llmsched_langgraph._fields import Field, refuse_constant
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces.form import node_from_job
from llmsched_langgraph.traces.lines import Line, read_lines, text_of

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
"""Suffixes of the files that are read from a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """What could not be read of a file.

    A line is skipped if it is not a whole JSON object: its writer was killed or had no space left, or the
    file was damaged later. `str` says so in one line.

    Attributes:
        path: the file.
        lines: number of skipped lines; 0 for an empty file. Where compressed data is damaged, the rest of its
            gzip member counts as one line.
        first: number of the first of them, from 1.
        reason: what is wrong with the first of them.
    """

    path: Path
    lines: int
    first: int
    reason: str

    @property
    def cause(self) -> str:
        """The file, the first line and what is wrong with it."""
        return (
            f"{self.path}: line {self.first}: {self.reason}" if self.first else f"{self.path}: {self.reason}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return `file`, `lines`, `first_line` (None for an empty file) and `reason`."""
        return {
            "file": str(self.path),
            "lines": self.lines,
            "first_line": self.first or None,
            "reason": self.reason,
        }

    def __str__(self) -> str:
        many = f"{self.lines:,} lines" if self.lines > 1 else "line" if self.lines else "file"
        return f"{self.cause}; {many} skipped"


class SkippedLinesWarning(UserWarning):
    """Lines of a file were skipped, because they are not whole JSON objects."""


class ObjectReader:
    """Reads the JSON objects of a file, one per line, and counts the lines that it skips.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = self._first = 0
        self._reason = ""
        self._member = 0  # the invalid gzip member of which nothing more is read
        self._empty = True

    def read(self) -> Iterator[tuple[Line, Field]]:
        """Yield the objects with their lines.

        Raises:
            InvalidDataError: the file cannot be opened or read; the message names it.
        """
        for line in read_lines(self.path):
            self._empty = False
            if line.doubt and line.member == self._member:
                continue
            try:
                found = _object(line)
            except InvalidDataError as error:
                self.skip(line, line.damage or str(error))
            else:
                yield line, found
                if line.damage:
                    self.skip(line._replace(number=line.number + 1), line.damage)

    def skip(self, line: Line, reason: str) -> None:
        """Count the line as skipped. Of an invalid gzip member, read no further line."""
        if line.doubt:
            self._member, reason = line.member, line.doubt
        self._lines, self._first = self._lines + 1, self._first or line.number
        self._reason = self._reason or reason

    @property
    def skipped(self) -> Skipped | None:
        """What was skipped so far; None if nothing was."""
        if self._lines:
            return Skipped(path=self.path, lines=self._lines, first=self._first, reason=self._reason)
        return Skipped(path=self.path, lines=0, first=0, reason="is empty") if self._empty else None


def _object(line: Line) -> Field:
    """Parse a line as a JSON object.

    Raises:
        InvalidDataError: it is not one; the message says why.
    """
    if not line.data.strip(b"\0\r\n"):
        raise InvalidDataError("is filled with NUL bytes")
    try:
        value = json.loads(text_of(line), parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        end = "" if line.data.endswith(b"\n") else "; the file may be truncated"
        raise InvalidDataError(
            f"is not a complete JSON object: {error.msg} at column {error.colno}{end}"
        ) from None
    except (RecursionError, ValueError) as error:  # ValueError: over 4,300 digits
        raise InvalidDataError(str(error)) from None
    if not isinstance(value, dict):
        raise InvalidDataError(f"must be a JSON object, not {type(value).__name__}")
    return Field(value)


def find_files(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield the files that `paths` select, and whether each was named itself, not by its folder.

    Raises:
        InvalidDataError: a folder cannot be read or contains no file with a known suffix.
    """
    for path in paths:
        try:
            if not path.is_dir():
                yield path, True
                continue
            found = [file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES)]
        except OSError as error:
            raise InvalidDataError(f"{path}: cannot be read: {error.strerror or error}") from None
        if not found:
            raise InvalidDataError(f"{path}: the folder contains no file ending in {', '.join(SUFFIXES)}")
        yield from ((file, False) for file in sorted(found))


def line_of_job(job: EndedJob) -> str:
    """Return a job's line in the trace format, with its line end."""
    return json.dumps(node_from_job(job), separators=(",", ":"), allow_nan=False) + "\n"


def write_jobs(jobs: Iterable[EndedJob], path: str | PathLike[str]) -> int:
    """Write jobs, one per line, gzipped if the name ends in `.gz`; return their number.

    The write is atomic: the file is written beside its destination and then renamed.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    beside = path.with_name(f"{path.name}.part")
    count = 0
    try:
        with ExitStack() as stack:
            data: Any = stack.enter_context(beside.open("wb"))
            if path.suffix == ".gz":  # without name and time: equal jobs give equal bytes
                data = stack.enter_context(gzip.GzipFile("", "wb", fileobj=data, mtime=0))
            text = stack.enter_context(io.TextIOWrapper(data, encoding="utf-8", newline="\n"))
            for job in jobs:
                text.write(line_of_job(job))
                count += 1
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return count
