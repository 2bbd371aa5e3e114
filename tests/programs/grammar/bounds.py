"""Statements around others, and those that end a body early.

Does not call models itself: the bodies do.
"""

from __future__ import annotations

from dataclasses import dataclass

from programs.features import Feature
from programs.grammar.page import Body, Page, Statement, Unwritable


@dataclass(frozen=True)
class Slot(Statement):
    """A body inside a `scheduler.slot()`."""

    body: Body = ()

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.SLOT)
        if page.on_loop:
            page.note(Feature.SYNC_ON_LOOP)
        with page.block(f"{'async ' if page.asynchronous else ''}with on.slot()", in_slot=True):
            page.body(self.body)


@dataclass(frozen=True)
class Timeout(Statement):
    """A body that may be timed out: what comes of it is lost either way."""

    body: Body = ()
    after_ms: int = 1

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.TIMEOUT)
        part, path = scoped(self.body, page), page.path()
        if not page.asynchronous:
            with page.block("with suppress(Exception)"):
                page.line(f'{part}(f"{path}")')
            return
        with (
            page.block("with suppress(Exception)"),
            page.block(f"async with asyncio.timeout({self.after_ms / 1000})"),
        ):
            page.line(f'await {part}(f"{path}")')


@dataclass(frozen=True)
class Scope(Statement):
    """A body in an AnyIO scope that may be cancelled: what comes of it is lost either way.

    Attributes:
        body: what is done.
        after_ms: when the scope is cancelled.
        group: whether it is the scope of a task group.
    """

    body: Body = ()
    after_ms: int = 1
    group: bool = False

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.SCOPE)
        part, path = scoped(self.body, page), page.path()
        if not page.asynchronous:
            with page.block("with suppress(Exception)"):
                page.line(f'{part}(f"{path}")')
        elif self.group:
            with page.block("async with anyio.create_task_group() as group"):
                page.line(f'group.start_soon(alone, {part}, f"{path}")')
                page.line(f"await anyio.sleep({self.after_ms / 1000})")
                page.line("group.cancel_scope.cancel()")
        else:
            with page.block(f"with suppress(Exception), anyio.move_on_after({self.after_ms / 1000})"):
                page.line(f'await {part}(f"{path}")')


def scoped(body: Body, page: Page) -> str:
    """Write a function of a body that may be cancelled; its name."""
    if page.in_scope:
        # One that fires while the other one does may leave its cancellation to LangGraph, bare as well.
        raise Unwritable("a scope that may be cancelled inside of another one")
    return page.function(body, asynchronous=page.asynchronous, on_loop=page.on_loop, in_scope=True)


@dataclass(frozen=True)
class Caught(Statement):
    """A body whose error is caught."""

    body: Body = ()

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.CAUGHT)
        with page.block("try"):
            page.body(self.body)
        with page.block("except Broken"):
            page.line('out.append("caught")')


@dataclass(frozen=True)
class Fail(Statement):
    """An error of the program's own."""

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.FAILING)
        page.line('raise Broken("a node")')


@dataclass(frozen=True)
class Interrupt(Statement):
    """An interrupt of the run, which is resumed with "go"."""

    def write(self, page: Page) -> None:
        """Write it."""
        if not page.in_node:
            raise Unwritable("an interrupt inside of what catches errors, or outside of a node's function")
        page.note(Feature.INTERRUPT)
        page.interrupts = True
        page.line('out.append(interrupt("?"))')


@dataclass(frozen=True)
class Pause(Statement):
    """A short sleep."""

    ms: int = 1

    def write(self, page: Page) -> None:
        """Write it."""
        page.line(f"{'await asyncio' if page.asynchronous else 'time'}.sleep({self.ms / 1000})")
