"""Reads jobs from files of any known format, given their paths.

Does not define the formats: each `Shape` describes its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces.files import ObjectReader, Skipped, SkippedLinesWarning, find_files
from llmsched_langgraph.traces.form import job_from_node
from llmsched_langgraph.traces.loaders import SHAPES, Shape

Paths = str | PathLike[str] | Iterable[str | PathLike[str]]

TRACE = Shape("the trace format", ("id", "app", "stages"), lambda node: iter((job_from_node(node),)))


def read_jobs(paths: Paths, *, skipped: Callable[[Skipped], object] | None = None) -> Iterator[EndedJob]:
    """Yield the jobs of a file, of the files below a folder, or of several of either.

    Files have one JSON object per line and may be gzipped. The fields of the first object identify the
    format: the trace format, which `write_jobs` writes, or one of `traces.loaders`. Files of other formats in
    a folder are skipped if another file there contains jobs.

    Torn lines are skipped: those that are not a whole JSON object, because their writer was killed or the
    file was damaged. An object with a missing or invalid field is an error: it does not come from a torn
    line, but from another program. Reading is lazy: the jobs before such an object are yielded before the
    error.

    Args:
        paths: files and folders.
        skipped: receives, after the last job of a file, what could not be read of it; None for a
            `SkippedLinesWarning`. It is called at most once per file.

    Raises:
        InvalidDataError: a file or folder contains no jobs, or an object is of unknown format or has an
            invalid field. The message names the file, and the line and the field where they apply.
    """
    tell = _warn if skipped is None else skipped
    for path in _as_paths(paths):
        found, fault = False, ""
        for file, named in find_files([path]):
            for one in _read_file(file, named=named):
                if isinstance(one, Skipped):
                    if not named or found:
                        fault = fault or one.cause
                        tell(one)
                    elif one.lines:
                        raise InvalidDataError(f"{one.cause}; the file contains no jobs")
                else:
                    found = True
                    yield one
        if not found:
            raise InvalidDataError(f"{path}: contains no jobs; {fault or _known()}")


def done_jobs(paths: Paths, *, skipped: Callable[[Skipped], object] | None = None) -> Iterator[EndedJob]:
    """Yield the jobs of `read_jobs` that completed, for learning and replay. Raises and tells as it does."""
    return (job for job in read_jobs(paths, skipped=skipped) if job.end == "done")


def _warn(skipped: Skipped) -> None:
    warnings.warn(str(skipped), SkippedLinesWarning, stacklevel=3)


def _as_paths(paths: Paths) -> list[Path]:
    if isinstance(paths, str | PathLike):
        return [Path(paths)]
    listed = [Path(path) for path in paths]
    if not listed:
        raise InvalidDataError("no path was given to read jobs from")
    return listed


def _known() -> str:
    return "known formats: " + ", ".join(shape.name for shape in (TRACE, *SHAPES))


def _shape_of(node: Field) -> Shape | None:
    return next((shape for shape in (TRACE, *SHAPES) if shape.matches(node)), None)


def _read_file(file: Path, *, named: bool) -> Iterator[EndedJob | Skipped]:
    """Yield the jobs of a file; then what was skipped, if anything was and the file is not a foreign one."""
    shape: Shape | None = None
    reader = ObjectReader(file)
    for line, node in reader.read():
        if shape is None:
            shape = _shape_of(node)
        if shape is None:
            if not named:
                return
            fields = ", ".join(node.value) or "none"
            raise InvalidDataError(
                f"{file}: line {line.number}: no known format has these fields: {fields}; {_known()}"
            )
        try:
            yield from shape.load(node)
        except InvalidDataError as error:
            if not line.doubt:
                raise InvalidDataError(f"{file}: line {line.number}: {error}") from None
            reader.skip(line, line.doubt)
    if reader.skipped is not None:
        yield reader.skipped
