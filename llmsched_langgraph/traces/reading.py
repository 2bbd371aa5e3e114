"""Reads jobs from files of any known format, given their paths.

Does not define the formats: each `Shape` describes its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces.files import find_files, parse_line, read_lines
from llmsched_langgraph.traces.form import job_from_node
from llmsched_langgraph.traces.loaders import SHAPES, Shape

Paths = str | PathLike[str] | Iterable[str | PathLike[str]]

TRACE = Shape("the trace format", ("id", "app", "stages"), lambda node: iter((job_from_node(node),)))


def read_jobs(paths: Paths) -> Iterator[EndedJob]:
    """Yield the jobs of a file, of the files below a folder, or of several of either.

    Files have one JSON object per line and may be gzipped. The fields of the first line identify the format:
    the trace format, which `write_jobs` writes, or one of `traces.loaders`. Files of other formats in a
    folder are skipped if another file there contains jobs. Reading is lazy: the jobs before an invalid line
    are yielded before the error.

    Raises:
        InvalidDataError: there are no jobs, or a file is damaged or of unknown format. The message names the
            file, and the line and the field where they apply.
    """
    for path in _as_paths(paths):
        found = False
        for file, named in find_files([path]):
            for job in _read_file(file, named=named):
                found = True
                yield job
        if not found:
            raise InvalidDataError(f"{path}: contains no jobs; {_known()}")


def done_jobs(paths: Paths) -> Iterator[EndedJob]:
    """Yield the jobs of `read_jobs` that completed, for learning and replay. Raises as it does."""
    return (job for job in read_jobs(paths) if job.end == "done")


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


def _read_file(file: Path, *, named: bool) -> Iterator[EndedJob]:
    shape: Shape | None = None
    for number, line in read_lines(file):
        node = parse_line(file, number, line)
        if shape is None:
            shape = _shape_of(node)
        if shape is None:
            if not named:
                return
            fields = ", ".join(node.value) or "none"
            raise InvalidDataError(
                f"{file}: line {number}: no known format has these fields: {fields}; {_known()}"
            )
        try:
            yield from shape.load(node)
        except InvalidDataError as error:
            raise InvalidDataError(f"{file}: line {number}: {error}") from None
