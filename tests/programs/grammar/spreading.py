"""Statements that start tasks, threads, loops and processes.

Does not call models itself: the bodies do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from programs.features import Feature
from programs.grammar.page import Body, Page, Statement, Unwritable, listed


@dataclass(frozen=True)
class Gather(Statement):
    """Bodies at once: tasks of the loop; in synchronous code, threads with the context."""

    bodies: tuple[Body, ...]

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.GATHER)
        page.at_once()
        parts = [page.function(body, asynchronous=page.asynchronous) for body in self.bodies]
        path = page.path()
        if page.asynchronous:
            coroutines = ", ".join(f'{part}(f"{path}")' for part in parts)
            page.line(f"out += sum(await asyncio.gather({coroutines}), [])")
        else:
            paths = listed([f'f"{path}"'] * len(parts))
            page.line(f'out += in_threads("marked", {listed(parts)}, {paths})')


@dataclass(frozen=True)
class Threads(Statement):
    """A body in several threads at once.

    Attributes:
        kind: with the context ("marked"), in an executor's threads, or in threads of its own.
        width: how many.
        body: what each does.
    """

    kind: Literal["marked", "pool", "bare"] = "marked"
    width: int = 2
    body: Body = ()

    def write(self, page: Page) -> None:
        """Write it."""
        marked = self.kind == "marked"
        page.note(Feature.MARKED_THREADS if marked else Feature.UNMARKED_THREADS)
        page.at_once()
        part = page.function(self.body, asynchronous=False)
        path = page.path()
        paths = listed([f'f"{path}.{index}"' for index in range(self.width)])
        start = "await on_loop_threads" if page.asynchronous else "in_threads"
        page.line(f"out += {start}({self.kind!r}, {listed([part] * self.width)}, {paths})")


@dataclass(frozen=True)
class OwnLoop(Statement):
    """A body on an event loop of its own."""

    body: Body = ()

    def write(self, page: Page) -> None:
        """Write it."""
        if page.on_loop:
            raise Unwritable("asyncio.run() under a running loop")
        page.note(Feature.OWN_LOOP)
        page.at_once()
        part, path = page.function(self.body, asynchronous=True), page.path()
        if page.asynchronous:
            page.line(f'out += await asyncio.to_thread(lambda: asyncio.run({part}(f"{path}")))')
        else:
            page.line(f'out += asyncio.run({part}(f"{path}"))')


@dataclass(frozen=True)
class Background(Statement):
    """A body that nobody awaits: a task, or in synchronous code a thread; `marked`: with the context."""

    body: Body = ()
    marked: bool = True

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.BACKGROUND)
        page.at_once()
        task = page.asynchronous and self.marked
        part, path = page.function(self.body, asynchronous=task, in_background=True), page.path()
        if task:
            page.line(f'on.keep_task(asyncio.ensure_future({part}(f"{path}")))')
            return
        if not self.marked:
            page.note(Feature.UNMARKED_THREADS)
        page.line(f'on.start_thread({part}, f"{path}", marked={self.marked})')


@dataclass(frozen=True)
class Fork(Statement):
    """A call in a forked child."""

    model: Any

    def write(self, page: Page) -> None:
        """Write it."""
        if self.model.async_only:
            raise Unwritable("the child calls synchronously")
        page.note(Feature.FORK)
        fork = "await on.afork" if page.asynchronous else "on.fork"
        page.line(f'out.append({fork}({page.defined(self.model)}, f"{page.path()}"))')


@dataclass(frozen=True)
class Blocking(Statement):
    """A body in its synchronous form, which in a coroutine blocks the loop."""

    body: Body = ()

    def write(self, page: Page) -> None:
        """Write it."""
        if not page.asynchronous:
            page.body(self.body)
            return
        page.asynchronous, page.on_loop = False, True
        try:
            page.body(self.body)
        finally:
            page.asynchronous, page.on_loop = True, False
