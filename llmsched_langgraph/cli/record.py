"""Defines `llmsched record`: runs a program whose scheduler records, and sums up the recording.

Does not record anything itself: an environment variable turns recording on in the program.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmsched_langgraph.cli.complaints import written
from llmsched_langgraph.errors import ConfigurationError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched record` to the parser."""
    parser = subparsers.add_parser(
        "record",
        usage="llmsched record [-h] FILE -- COMMAND [ARGUMENT ...]",
        help="run a program whose scheduler records every run, for `llmsched replay`",
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

    Raises:
        ConfigurationError: the program cannot be started, or the file cannot be written.
    """
    from llmsched_langgraph._observe.recorder import VARIABLE, recordable

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise ConfigurationError(
            f"record: name the program, too: llmsched record {options.file} -- python app.py"
        )
    file = recordable(options.file).absolute()
    new = not file.exists()
    with written("record:", file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):
            before = file.stat().st_size
    try:
        status = _run(command, {**os.environ, VARIABLE: str(file)})
    finally:
        if new and not _size(file):
            file.unlink(missing_ok=True)
    print(f"llmsched: {_summary(file, before)}", file=sys.stderr)
    return status


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise ConfigurationError(
            f"record: {command[0]!r} cannot be started: {error.strerror or error}"
        ) from None
    with _handed_on(process):
        while True:
            try:
                status = process.wait()
            except KeyboardInterrupt:
                continue  # the terminal interrupts the program, too; the program decides what follows
            # A program ended by signal N has the status 128 + N, as in shells.
            return 128 - status if status < 0 else status


@contextmanager
def _handed_on(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Pass SIGTERM on to the program while the block runs."""
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    if not (size := _size(file)):
        return apps
    with written("record:", file), file.open("rb") as lines:
        lines.seek(before if before <= size else 0)  # a shorter file is a new one: the old one was moved
        for line in lines:
            try:
                apps[str(json.loads(line)["app"])] += 1
            except (ValueError, LookupError, TypeError):
                continue  # a line that is not a recorded job
    return apps


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
