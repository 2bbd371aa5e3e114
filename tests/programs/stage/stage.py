"""Holds what the parts of one playing of a program share: the backend, the scheduler, what outlives a run.

Does not run graphs, or judge: `programs.stage.runs` and `programs.judging` do.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Self

from llmsched_langgraph import Scheduler, schedule
from llmsched_langgraph.testing import Meter

CHILD_PATIENCE_S = 5.0
"""How long a forked child may take before it counts as standing still, in seconds."""


class Broken(Exception):
    """The only error that programs raise: which of several parallel failures comes first is not fixed."""


class Backend(Meter):
    """Counts requests in flight, and tells the stage of each that begins and ends.

    Attributes:
        abandoned: how many requests were in flight on a loop that was closed under them. Each gives its slot
            back, and counts as in flight until its coroutine is collected. That of an asynchronous generator
            counts for ever: it is collected without its `finally`.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self._on_loops: Counter[asyncio.AbstractEventLoop | None] = Counter()
        self._loops: dict[int, list[asyncio.AbstractEventLoop | None]] = {}  # by the frames of `with` blocks
        self.abandoned = 0

    def abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count the requests of a loop that is about to be closed."""
        with self._lock:
            self.abandoned += self._on_loops.pop(loop, 0)

    def __enter__(self) -> Self:
        self._stage.step()
        loop = asyncio._get_running_loop()
        with self._lock:
            self._loops.setdefault(id(sys._getframe(1)), []).append(loop)
            self._on_loops[loop] += 1
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        with self._lock:
            # A coroutine that is collected may end in the thread of another loop.
            loop = self._loops[id(sys._getframe(1))].pop()
            if loop in self._on_loops:
                self._on_loops[loop] -= 1
        self._stage.step()


class Stage:
    """One playing of a program, bare or with a scheduler.

    Attributes:
        scheduler: the scheduler of all its graphs; None if they are played bare.
        meter: the backend that all models ask.
        steps: grows whenever anything happens: a request begins or ends, a run yields.
    """

    def __init__(self, scheduler: Scheduler | None) -> None:
        self.scheduler = scheduler
        self.meter = Backend(self)
        self.steps = 0
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._tasks: list[asyncio.Future[Any]] = []
        self._threads: list[threading.Thread] = []
        self._streams: list[Any] = []
        self._finished = False

    def step(self) -> None:
        """Something happened."""
        self.steps += 1  # may lose a count; what matters is that it changes

    def first(self, model: str, prompt: str) -> bool:
        """Whether this is the first attempt of this model at this prompt."""
        with self._lock:
            self._attempts[model, prompt] += 1
            return self._attempts[model, prompt] == 1

    # -- what a program does with the scheduler ----------------------------------------

    def scheduled(self, graph: Any) -> Any:
        """The graph, scheduled if there is a scheduler."""
        return graph if self.scheduler is None else schedule(graph, self.scheduler)

    def slot(self) -> Any:
        """A slot around a block; nothing if there is no scheduler."""
        return nullcontext() if self.scheduler is None else self.scheduler.slot()

    # -- what outlives the code that starts it -----------------------------------------

    def keep_task(self, task: asyncio.Future[Any]) -> None:
        """Keep a task beyond the run that started it."""
        self._tasks.append(task)

    def keep_stream(self, stream: Any) -> None:
        """Keep an open stream beyond the run that opened it, at most until `finish`."""
        self._streams.append(stream)
        if self._finished:  # a thread that outlives its loop opened it
            self._streams.clear()

    def start_thread(self, function: Callable[[str], Any], path: str, *, marked: bool) -> None:
        """Start a thread that nobody in the program joins; `marked` copies the caller's context."""
        given = (contextvars.copy_context().run, function, path) if marked else (function, path)
        thread = threading.Thread(target=given[0], args=given[1:], daemon=True)
        self._threads.append(thread)
        thread.start()

    async def finish_tasks(self) -> None:
        """Await the kept tasks of this loop."""
        loop = asyncio.get_running_loop()
        while mine := [task for task in self._tasks if not task.done() and task.get_loop() is loop]:
            await asyncio.gather(*mine, return_exceptions=True)

    def forget_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drop the kept tasks of a loop that ends: they are collected, wherever they stand."""
        self.meter.abandon(loop)
        self._tasks = [task for task in self._tasks if task.get_loop() is not loop]

    def finish(self) -> None:
        """Join the kept threads, and drop the kept streams and tasks, also those that come later."""
        self._finished = True
        for thread in self._threads:  # may grow meanwhile
            while thread.ident is None:  # it is about to start
                time.sleep(0.001)
            thread.join()
        self._streams.clear()
        self._tasks.clear()

    # -- processes ---------------------------------------------------------------------

    def fork(self, model: Any, prompt: str) -> str:
        """Ask the model in a forked child; how the child ended."""
        child = self._forked(model, prompt)
        deadline = time.monotonic() + CHILD_PATIENCE_S
        while (ended := self._ended(child, deadline)) is None:
            time.sleep(0.001)
        return ended

    async def afork(self, model: Any, prompt: str) -> str:
        """Do the same without blocking the loop."""
        child = self._forked(model, prompt)
        deadline = time.monotonic() + CHILD_PATIENCE_S
        while (ended := self._ended(child, deadline)) is None:
            await asyncio.sleep(0.001)
        return ended

    def _forked(self, model: Any, prompt: str) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            self.meter = Backend(self)  # a thread of the parent may have held the old one's lock
            self._lock = threading.Lock()
            faulthandler.register(signal.SIGUSR1)
            model.invoke(prompt)
            code = 0
        finally:
            os._exit(code)

    def _ended(self, child: int, deadline: float) -> str | None:
        self.step()
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return f"child {os.waitstatus_to_exitcode(status)}"
        if time.monotonic() < deadline:
            return None
        os.kill(child, signal.SIGUSR1)  # it says where it stands still
        time.sleep(0.2)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "the child stood still"
