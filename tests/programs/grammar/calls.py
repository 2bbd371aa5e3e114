"""Statements that call a model, a tool or a graph where they stand.

Does not start tasks or threads: `spreading` does, and what LangChain does itself in `batch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from programs.features import Feature
from programs.grammar.page import Body, Page, Statement, listed


@dataclass(frozen=True)
class Call(Statement):
    """One call; `guard` wraps the model in retries, or gives it a model to fall back on."""

    model: Any
    guard: Literal["", "retries", "falls back"] = ""

    def write(self, page: Page) -> None:
        """Write it."""
        model = page.used(self.model)
        if self.guard == "retries":
            page.note(Feature.RETRIES)
            model += ".with_retry(stop_after_attempt=3, wait_exponential_jitter=False)"
        elif self.guard == "falls back":
            page.note(Feature.FALLBACKS)
            model += ".with_fallbacks([Plain(on=on)])"
        answer = page.await_(f"{model}.invoke", f'f"{page.path()}"')
        page.line(f"out.append({answer}.text)")


@dataclass(frozen=True)
class Batch(Statement):
    """Several calls of one model at once, with LangChain's `batch`."""

    model: Any
    width: int = 2

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.BATCH)
        page.at_once()
        path = page.path()
        prompts = listed([f'f"{path}.{index}"' for index in range(self.width)])
        answers = page.await_(f"{page.used(self.model)}.batch", prompts)
        page.line(f"out += [answer.text for answer in {answers}]")


@dataclass(frozen=True)
class Parallel(Statement):
    """Calls of two models at once, with LangChain's `RunnableParallel`."""

    first: Any
    second: Any

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.PARALLEL)
        page.at_once()
        both = f"RunnableParallel(a={page.used(self.first)}, b={page.used(self.second)})"
        answers = page.await_(f"{both}.invoke", f'f"{page.path()}"')
        page.line(f"out += [answer.text for answer in {answers}.values()]")


@dataclass(frozen=True)
class Stream(Statement):
    """A stream, and what is done with each piece while it is open.

    Attributes:
        model: whose stream.
        read: to its end; its first piece, with a `break` out of the loop; or its first piece, and then it is
            closed, left open until the function ends, or kept beyond the run.
        body: what is done with each piece that is read.
    """

    model: Any
    read: Literal["all", "first", "closed", "left open", "kept open"] = "all"
    body: Body = ()

    def write(self, page: Page) -> None:
        """Write it."""
        model, path = page.used(self.model), page.path()
        if self.body:
            page.note(Feature.READ_AND_ASK)
        if self.read == "first" and page.asynchronous:
            page.note(Feature.DROPPED)  # the loop closes it, some turns later
        if page.in_slot and self._outlives(page.asynchronous):
            page.note(Feature.OUTLIVES_SLOT)
        stream = f'{model}.{"astream" if page.asynchronous else "stream"}(f"{path}")'
        wait = "await " if page.asynchronous else ""
        each = ""
        if self.body:
            each = wait + page.function(self.body, asynchronous=page.asynchronous, on_loop=page.on_loop)
        if self.read in ("all", "first"):
            pieces = page.name("pieces")
            page.line(f"{pieces} = []")
            with page.block(f"{'async ' if wait else ''}for piece in {stream}"):
                page.line(f"{pieces}.append(piece.text)")
                if each:
                    page.line(f'out += {each}(f"{path}.{{len({pieces})}}")')
                if self.read == "first":
                    page.line("break")
            page.line(f'out.append("".join({pieces}))')
            return
        name = page.name("stream")
        if self.read == "closed":
            with page.block(f"{'async with aclosing' if wait else 'with closing'}({stream}) as {name}"):
                self._read_one(page, name, path, wait, each)
            return
        page.line(f"{name} = {stream}")
        self._read_one(page, name, path, wait, each)
        page.note(Feature.LEFT_OPEN if self.read == "left open" else Feature.KEPT_OPEN)
        if self.read == "kept open":
            page.line(f"on.keep_stream({name})")

    def _outlives(self, asynchronous: bool) -> bool:
        """Whether the stream may be open a little longer than the block that it stands in."""
        if self.read == "all":
            return asynchronous and bool(self.body)  # which may fail: then the loop closes the stream later
        return self.read != "closed" and (asynchronous or self.read != "first")

    def _read_one(self, page: Page, name: str, path: str, wait: str, each: str) -> None:
        page.line(f"out.append(({'await anext' if wait else 'next'}({name})).text)")
        if each:
            page.line(f'out += {each}(f"{path}.1")')


@dataclass(frozen=True)
class Pumped(Statement):
    """A stream that a helper task or thread reads, and what is done with each piece meanwhile."""

    model: Any
    body: Body = ()

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.PUMPED)
        page.at_once()
        model, path, pieces = page.used(self.model), page.path(), page.name("pieces")
        each = page.function(self.body, asynchronous=page.asynchronous, on_loop=page.on_loop)
        page.line(f"{pieces} = []")
        if page.asynchronous:
            with (
                page.block(f'async with aclosing(apumped({model}.astream(f"{path}"))) as stream'),
                page.block("async for piece in stream"),
            ):
                page.line(f"{pieces}.append(piece.text)")
                page.line(f'out += await {each}(f"{path}.{{len({pieces})}}")')
        else:
            with (
                page.block(f'with closing(pumped({model}.stream, f"{path}")) as stream'),
                page.block("for piece in stream"),
            ):
                page.line(f"{pieces}.append(piece.text)")
                page.line(f'out += {each}(f"{path}.{{len({pieces})}}")')
        page.line(f'out.append("".join({pieces}))')


@dataclass(frozen=True)
class Tool(Statement):
    """A tool that is called directly, and what it does."""

    body: Body = ()

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.TOOL)
        function = page.function(self.body, asynchronous=page.asynchronous, on_loop=page.on_loop)
        tool = page.name("tool")
        kind = "coroutine" if page.asynchronous else "func"
        page.line(f'{tool} = StructuredTool.from_function({kind}={function}, name="{tool}", description="?")')
        answer = page.await_(f"{tool}.invoke", f'{{"path": f"{page.path()}"}}')
        page.line(f"out += {answer}")


@dataclass(frozen=True)
class Nested(Statement):
    """A graph that is run inside a node."""

    graph: Any

    def write(self, page: Page) -> None:
        """Write it."""
        page.note(Feature.NESTED)
        output = page.await_(f"{page.used(self.graph)}.invoke", f'{{"path": f"{page.path()}"}}')
        page.line(f'out += {output}["out"]')
