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
"""For how long both may differ while no thread that could change it runs or waits for a processor.

A slot is taken before its request is built, sent and read, and given back after its answer was written, read
and parsed. That takes milliseconds of work, which a busy machine spreads over seconds. A slot that is held
while its library sleeps takes time and no work.
"""
_LOOK_AGAIN_S = 0.05


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
        self._scene = threading.get_native_id()

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
        bystanders = {self._scene, threading.get_native_id()}
        above, below = self._apart
        while not self._over.wait(SAMPLE_S):
            before = self._server.in_flight
            held = self._scheduler.statistics().holding
            after = self._server.in_flight
            above.see(held > max(before, after), bystanders)
            below.see(held < min(before, after), bystanders)


class _Apart:
    """One sign of the difference."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._since_s = math.inf
        self._look_s = math.inf  # when to compare with the work of the threads
        self.most_s = 0.0
        self.wrong = ""

    def see(self, differs: bool, bystanders: set[int]) -> None:
        """Take one sample."""
        now_s = time.monotonic()
        if not differs:
            self._since_s = math.inf
        elif self._since_s == math.inf:
            self._since_s, self._look_s, self._work = now_s, now_s + APART_S, _work_s(bystanders)
        self.most_s = max(self.most_s, now_s - self._since_s)
        if differs and now_s > self._look_s:
            self._look_s = now_s + _LOOK_AGAIN_S
            idle_s = now_s - self._since_s - _more(self._work, _work_s(bystanders))
            if idle_s > APART_S:
                self.wrong = f"{self._what} for {now_s - self._since_s:.2f} s, {idle_s:.2f} s of it idle"


def _work_s(bystanders: set[int]) -> dict[str, float]:
    """Return for how long each other thread has run or waited for a processor, where the system tells."""
    work = {}
    for task in Path("/proc/self/task").glob("*"):
        try:
            if int(task.name) not in bystanders:
                ran_ns, waited_ns, _ = (task / "schedstat").read_text().split()
                work[task.name] = (int(ran_ns) + int(waited_ns)) / 1e9
        except OSError:
            pass  # the thread has ended, or this is not Linux
    return work


def _more(before: dict[str, float], after: dict[str, float]) -> float:
    return sum(work_s - before.get(task, 0.0) for task, work_s in after.items())
