"""Defines `llmsched record`: runs a program whose scheduler records, and sums up the recording.

Does not record anything itself: an environment variable turns recording on in the program.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from llmsched_langgraph.cli.complaints import written
from llmsched_langgraph.cli.program import run_program
from llmsched_langgraph.errors import ConfigurationError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched record` to the parser."""
    parser = subparsers.add_parser(
        "record",
        usage="llmsched record [-h] FILE -- COMMAND [ARGUMENT ...]",
        help="run a program whose scheduler records every run, for `llmsched report` and `replay`",
        description=(
            "Runs a program. The process-wide scheduler in each of its processes appends every run to the "
            "file that called a model and went to its end. An environment variable turns this on."
        ),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the file to append to")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="program and arguments")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the program, print what was recorded, and return the program's exit status.

    Returns:
        The program's status, whatever becomes of the recording; 128 + n if signal n ended it, 127 if it does
        not exist, 126 if it cannot be executed.

    Raises:
        ConfigurationError: no program is named, or the file cannot be written. Nothing was run.
    """
    from llmsched_langgraph._observe.recorder import VARIABLE, recordable

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise ConfigurationError(
            f"record: name the program, too: llmsched record {options.file} -- python app.py"
        )
    with written("record:", options.file):
        file = recordable(options.file).absolute()
        before = _check(file)
    try:
        return run_program(command, {**os.environ, VARIABLE: str(file)}, lambda: _sum_up(file, before))
    except OSError as error:
        _say(f"llmsched: record: {command[0]!r} cannot be started: {error.strerror or error}")
        return 127 if isinstance(error, FileNotFoundError) else 126


def _check(file: Path) -> int:
    """Return the size of the file. It is not created: a process may start to write to it at any time.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        opened = os.open(file, os.O_RDWR | os.O_APPEND)
    except FileNotFoundError:
        with TemporaryFile(dir=file.parent):
            return 0
    try:
        return os.fstat(opened).st_size
    finally:
        os.close(opened)


def _sum_up(file: Path, before: int) -> None:
    """Print what was recorded. Never raises an exception, so that the program's status is returned."""
    try:
        summary = _summary(file, before)
    except OSError as error:
        summary = f"{file}: what was recorded cannot be read: {error.strerror or error}"
    _say(f"llmsched: {summary}")


def _say(text: str) -> None:
    """Print a line to standard error, ignoring errors."""
    if sys.stderr is None:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        # Python's flush at exit must not fail on it again, which would change the exit status.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _summary(file: Path, before: int) -> str:
    apps = _recorded(file, before)
    jobs = sum(apps.values())
    if not jobs:
        return (
            f"nothing was recorded in {file}: did a run that called a model go to its end, and is "
            f"schedule(graph) used with the default scheduler, or Scheduler(record=...)?"
        )
    each = ", ".join(f"{app} {count}" for app, count in apps.most_common())
    return f"{jobs} {'job' if jobs == 1 else 'jobs'} recorded in {file}: {each}"


def _recorded(file: Path, before: int) -> Counter[str]:
    """Count the jobs of each application in the file from byte `before` on."""
    apps: Counter[str] = Counter()
    try:
        lines = file.open("rb")
    except FileNotFoundError:
        return apps
    with lines:
        size = lines.seek(0, os.SEEK_END)
        lines.seek(before if before <= size else 0)  # a shorter file is a new one: the old one was moved
        for line in lines:
            try:
                apps[str(json.loads(line)["app"])] += 1
            except (ValueError, LookupError, TypeError, RecursionError):
                continue  # a line that is not a recorded job
    return apps
