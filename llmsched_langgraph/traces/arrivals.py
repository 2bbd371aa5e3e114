"""Reads interarrival times from a recorded trace.

Reads only the times, not what arrives.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from math import isfinite
from os import PathLike
from pathlib import Path

from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces.lines import read_lines, text_of

_COLUMNS = {"t_s": 1.0, "t_ms": 0.001, "gmt_create": None, "timestamp": None}
"""Arrival time columns, each with its unit in seconds; None for ISO 8601 dates."""


def read_gaps(path: str | PathLike[str]) -> tuple[float, ...]:
    """Return the interarrival times in seconds, in order, from a CSV file that may be gzipped.

    The time is in a column `t_s` (seconds), `t_ms` (milliseconds), `gmt_create` or `timestamp` (ISO 8601 date
    and time). An optional column `win` numbers the sampled time windows: an interval that spans omitted
    windows is skipped.

    Raises:
        InvalidDataError: the file cannot be read or has no time column; a time is invalid or earlier than the
            one before; or all arrivals have one time. The message names file, line and field.
    """
    path = Path(path)
    gaps: list[float] = []
    before: tuple[float, int] | None = None
    for number, at_s, window in _times(path):
        if before is not None:
            if at_s < before[0]:
                raise InvalidDataError(
                    f"{path}: line {number}: the time goes back, from {before[0]} s to {at_s} s"
                )
            if window - before[1] <= 1:
                gaps.append(at_s - before[0])
        before = at_s, window
    if not sum(gaps):
        raise InvalidDataError(f"{path}: needs at least two arrivals at different times")
    return tuple(gaps)


def _times(path: Path) -> Iterator[tuple[int, float, int]]:
    lines = _lines(path)
    header = _fields(next(lines, (1, ""))[1])
    column = next((name for name in _COLUMNS if name in header), None)
    if column is None:
        raise InvalidDataError(
            f"{path}: line 1: needs one of the columns {', '.join(_COLUMNS)}; has {', '.join(header)}"
        )
    place, unit_s = header.index(column), _COLUMNS[column]
    window_at = header.index("win") if "win" in header else None
    for number, line in lines:
        try:
            fields = _fields(line)
            at_s = _since_epoch_s(fields[place]) if unit_s is None else float(fields[place]) * unit_s
            window = 0 if window_at is None else int(fields[window_at])
            if not isfinite(at_s):
                raise ValueError
        except (ValueError, IndexError, OverflowError):
            wanted = column if window_at is None else f"{column} or win"
            shown = line.strip()[:60]
            raise InvalidDataError(f"{path}: line {number}: {wanted}: is not valid: {shown}") from None
        yield number, at_s, window


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines. None may be damaged: a truncated number would be a wrong time."""
    for line in read_lines(path):
        try:
            if line.damage:
                raise InvalidDataError(line.damage)
            yield line.number, text_of(line)
        except InvalidDataError as error:
            raise InvalidDataError(f"{path}: line {line.number}: {error}") from None


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _since_epoch_s(text: str) -> float:
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
