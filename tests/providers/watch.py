"""Watches that as many slots are held as requests are in flight; tells a busy machine from an idle slot.

Does not know what a scene expects.
"""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Self

from llmsched_langgraph import Scheduler

from .server import Server

SAMPLE_S = 0.001
APART_S = 0.2
"""For how long both may differ while no thread of the process runs or waits for a processor.

A slot is taken before its request is built, sent and read, and given back after its answer was written, read
and parsed. That takes milliseconds of work, which a busy machine spreads over seconds. A slot that is held
while its library sleeps takes time and no work.
"""
GAP_S = 0.01
"""What counts at most between two samples: in a longer gap the whole process stood still."""


class Watch:
    """Compares the slots held with the requests in flight, again and again, in a thread.

    Attributes:
        most_s: for how long both differed at most, from one sample to another and with the same sign.
        wrong: what differed for too long, in words.
    """

    def __init__(self, scheduler: Scheduler, server: Server) -> None:
        self._scheduler = scheduler
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch")
        self._apart = (_Apart("a slot was held without a request in flight"), _Apart("a request had no slot"))

    @property
    def most_s(self) -> float:
        return max(apart.most_s for apart in self._apart)

    @property
    def wrong(self) -> list[str]:
        return [apart.wrong for apart in self._apart if apart.wrong]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        above, below = self._apart
        while not self._over.wait(SAMPLE_S):
            before = self._server.in_flight
            held = self._scheduler.statistics().holding
            after = self._server.in_flight
            above.see(held > max(before, after))
            below.see(held < min(before, after))
        above.end()
        below.end()


class _Apart:
    """One sign of the difference."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._since_s = self._last_s = math.inf
        self.most_s = 0.0
        self.wrong = ""

    def see(self, differs: bool) -> None:
        """Take one sample."""
        now_s = time.monotonic()
        if not differs:
            self.end()
        elif self._since_s == math.inf:
            self._since_s, self._seen_s, self._work = now_s, 0.0, _work_s()
        else:
            self._seen_s += min(now_s - self._last_s, GAP_S)
        self._last_s = now_s

    def end(self) -> None:
        """End the difference, if there is one, and judge it: a wait counts only when it is over."""
        if self._since_s == math.inf:
            return
        apart_s = self._last_s - self._since_s
        self.most_s = max(self.most_s, apart_s)
        if self._seen_s > APART_S:
            idle_s = self._seen_s - _more(self._work, _work_s())
            if idle_s > APART_S:
                self.wrong = f"{self._what} for {apart_s:.2f} s, {idle_s:.2f} s of it idle"
        self._since_s = math.inf


def _work_s() -> dict[str, float]:
    """Return for how long each thread has run, or has waited for a processor, up to when it ran last.

    Every thread counts: one that waits for a processor may hold the interpreter's lock. Where the system does
    not tell, no thread counts.
    """
    work = {}
    for task in Path("/proc/self/task").glob("*"):
        try:
            ran_ns, waited_ns, _ = (task / "schedstat").read_text().split()
            work[task.name] = (int(ran_ns) + int(waited_ns)) / 1e9
        except OSError:
            pass  # the thread has ended, or this is not Linux
    return work


def _more(before: dict[str, float], after: dict[str, float]) -> float:
    return sum(work_s - before.get(task, 0.0) for task, work_s in after.items())
