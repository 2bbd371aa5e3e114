"""Ends this process when a program stands still, with the stacks of its threads and tasks.

Does not judge programs that end.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

from programs.judging import Watched
from programs.stacks import stacks

STOOD_STILL = 70
"""The exit status of a process whose program stood still."""

STOOD_STILL_BARE = 71
"""The same, while the program was played bare."""

_LOOK_S = 0.25
_ANSWER_S = 2.0
_BLOCKED_S = 30.0  # more than it takes to dump the tasks


class Watchdog:
    """A thread that looks whether anything happens.

    Args:
        patience_s: how long nothing may happen, in seconds.
        longest_s: how long a program may take altogether, in seconds.
    """

    def __init__(self, patience_s: float, longest_s: float) -> None:
        self._patience_s = patience_s
        self._longest_s = longest_s
        self._watched: Watched | None = None
        threading.Thread(target=self._look, daemon=True).start()

    def watch(self, watched: Watched | None) -> None:
        """Look at this program from now on; at nothing if it is None."""
        self._watched = watched
        if watched is None:
            faulthandler.cancel_dump_traceback_later()
        else:  # for a thread that never gives the interpreter back
            faulthandler.dump_traceback_later(self._longest_s + _BLOCKED_S, exit=True)

    def _look(self) -> None:
        watched, progress, since, began = None, (0, 0), 0.0, 0.0
        while True:
            time.sleep(_LOOK_S)
            now = time.monotonic()
            if self._watched is not watched:
                watched, began, progress = self._watched, now, (-1, 0)
            if watched is None:
                continue
            if watched.progress != progress:
                progress, since = watched.progress, now
            if now - since > self._patience_s or now - began > self._longest_s:
                _end(watched)


def _end(watched: Watched) -> None:
    """Say where everything stands, and end the process."""
    sys.stderr.write(stacks())
    asking = threading.Thread(target=_tell_scheduler, args=(watched,), daemon=True)
    asking.start()
    asking.join(_ANSWER_S)  # the scheduler may be what stands still
    sys.stderr.flush()
    os._exit(STOOD_STILL_BARE if watched.bare else STOOD_STILL)


def _tell_scheduler(watched: Watched) -> None:
    stage = watched.stage
    if stage is not None:
        sys.stderr.write(f"{stage.meter.now} requests in flight, {stage.scheduler or 'no scheduler'}\n")
