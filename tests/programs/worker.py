"""Plays programs in this process, one after the other: a JSON object a line from stdin, a verdict to stdout.

Does not draw programs, or outlive one that leaves something behind.
"""

from __future__ import annotations

import gc
import json
import linecache
import logging
import os
import sys
import threading
import warnings
from dataclasses import asdict
from typing import Any

from llmsched_langgraph.testing import PlainModel
from programs.judging import Verdict, Watched, judge
from programs.stage.runs import Program
from programs.watchdog import Watchdog

LONGEST_S = 120.0
"""How long one program may take, in seconds, even if something happens all the time."""

SPOILS = ("not idle", "fault")
"""What a program may leave behind that spoils the next one."""


def loaded(name: str, source: str) -> Program:
    """Execute a written program; what it is."""
    filename = f"<program {name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    space: dict[str, Any] = {"__name__": "program"}
    exec(compile(source, filename, "exec"), space)
    program: Program = space["PROGRAM"]
    return program


def main(patience_s: float) -> None:
    """Play what stdin gives until it is closed, or until a program fails."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.disable(logging.WARNING)  # what the package says once is not what is looked at
    warnings.simplefilter("ignore")
    threading.excepthook = lambda _: None  # what fails in the background is nobody's, unless `judge` looks
    watchdog = Watchdog(patience_s, LONGEST_S)
    PlainModel().invoke("")  # imports all that a model call does: in a child forked meanwhile it never ends
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        given = json.loads(line)
        verdict = play_one(given["name"], given["source"], watchdog)
        answers.write(json.dumps(asdict(verdict)) + "\n")
        answers.flush()
        if verdict.kind in SPOILS:
            os._exit(0)


def play_one(name: str, source: str, watchdog: Watchdog) -> Verdict:
    """Play one program under the watchdog."""
    watched = Watched()
    watchdog.watch(watched)
    try:
        return judge(loaded(name, source), watched)
    finally:
        watchdog.watch(None)
        linecache.cache.pop(f"<program {name}>", None)


if __name__ == "__main__":
    main(float(sys.argv[1]))
