"""Knows how to read jobs from files of any shape that it recognises, from a path alone.

Does not know the shapes: they describe themselves.
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
    """The jobs in a file, in the files of a folder and those below it, or in several of either.

    Files hold one JSON object a line and may be gzipped. What shape they have is seen from the fields of
    their first line: the trace format (`write_jobs` writes it), or one of those in `traces.loaders`. Files
    in a folder that hold something else, such as inputs, are passed over if another one there holds jobs.
    Jobs come as they are read: an error in a later line comes after the jobs before it.

    Raises:
        InvalidDataError: There is nothing to read, or what there is is damaged or unknown. The message
            names the file, and the line and the field if it is about one.
    """
    for path in _as_paths(paths):
        found = False
        for file, named in find_files([path]):
            for job in _read_file(file, named=named):
                found = True
                yield job
        if not found:
            raise InvalidDataError(f"{path}: holds no jobs; {_known()}")


def done_jobs(paths: Paths) -> Iterator[EndedJob]:
    """The jobs of `read_jobs` that went to their end: for learning and replay. Raises as it does."""
    return (job for job in read_jobs(paths) if job.end == "done")


def _as_paths(paths: Paths) -> list[Path]:
    if isinstance(paths, str | PathLike):
        return [Path(paths)]
    listed = [Path(path) for path in paths]
    if not listed:
        raise InvalidDataError("no path was given to read jobs from")
    return listed


def _known() -> str:
    return "known are " + ", ".join(shape.name for shape in (TRACE, *SHAPES))


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
                f"{file}: line {number}: has the fields of no known record of jobs: {fields}; {_known()}"
            )
        try:
            yield from shape.load(node)
        except InvalidDataError as error:
            raise InvalidDataError(f"{file}: line {number}: {error}") from None
