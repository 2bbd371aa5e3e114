"""Finds, reads and writes files of jobs, with one JSON object per line.

`form` converts jobs to and from these objects; `loaders` reads other formats.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

from llmsched_langgraph._fields import Field, refuse_constant
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces.form import node_from_job

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
"""Suffixes of the files that are read from a folder."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines of a text file, gzipped or not, with their line numbers.

    Raises:
        InvalidDataError: the file does not exist, is damaged, or is not text; the message names it.
    """
    number = 0
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            zipped = path.suffix == ".gz" or raw.peek(2)[:2] == b"\x1f\x8b"
            data = stack.enter_context(gzip.GzipFile(fileobj=raw)) if zipped else raw
            text = stack.enter_context(io.TextIOWrapper(data, encoding="utf-8-sig"))
            for number, line in enumerate(text, 1):
                if not line.isspace():
                    yield number, line
    except EOFError:
        raise InvalidDataError(
            f"{path}: line {number + 1}: the compressed data ends in the middle; the file is truncated"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InvalidDataError(f"{path}: line {number + 1}: is not valid gzip data: {error}") from None
    except UnicodeDecodeError:
        raise InvalidDataError(f"{path}: line {number + 1}: is not UTF-8 text") from None
    except OSError as error:
        raise InvalidDataError(f"{path}: cannot be read: {error.strerror or error}") from None


def parse_line(path: Path, number: int, line: str) -> Field:
    """Parse one line as a JSON object.

    Raises:
        InvalidDataError: the line is not a JSON object; the message names file and line.
    """
    try:
        value = json.loads(line, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        end = "" if line.endswith("\n") else "; the file may be truncated"
        raise InvalidDataError(
            f"{path}: line {number}: is not a complete JSON object: {error.msg} at column {error.colno}{end}"
        ) from None
    except (InvalidDataError, RecursionError, ValueError) as error:  # ValueError: over 4,300 digits
        raise InvalidDataError(f"{path}: line {number}: {error}") from None
    if not isinstance(value, dict):
        raise InvalidDataError(f"{path}: line {number}: must be a JSON object, not {type(value).__name__}")
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
