"""Runs programs that would stand still for ever if no call went ahead, and holds them against a limit."""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Callable
from typing import Any

from llmsched_langgraph import Scheduler
from llmsched_langgraph._core.events import Entry

LIMIT_S = 45.0
"""For a program to end. Only a test that fails reaches it, and then tells where each thread stands."""


def ends(program: Callable[[], Any], *schedulers: Scheduler) -> Any:
    """Run the program in a thread; return its result, or raise its error."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append((program(), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=run, name="program", daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    if not box:
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        now = [str(scheduler) for scheduler in schedulers]
        for scheduler in schedulers:
            scheduler.close()  # which ends the waits, and lets the threads end
        raise AssertionError(f"the program stands still: {now}; the stacks are on stderr")
    result, error = box[0]
    if error is not None:
        raise error
    return result


def went_ahead(scheduler: Scheduler) -> list[Entry]:
    """The grants that were made because a wait could never end; these, and no others, are above the slots."""
    told = [entry for entry in scheduler._driver.story() if entry.kind == "SlotGranted"]
    cycles = [entry for entry in told if entry.detail.reason == "cycle"]
    assert scheduler.statistics().over_commitments == len(cycles), (
        "a call went above the slots for another reason"
    )
    return cycles
