"""Writes a program's tree as Python source, and notes which ingredients it has.

Does not know the ingredients: each is a class with a `write(page)` of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from programs.features import Feature

IMPORTS = {
    "asyncio": "import asyncio",
    "time": "import time",
    "anyio": "import anyio",
    "aclosing": "from contextlib import aclosing",
    "closing": "from contextlib import closing",
    "suppress": "from contextlib import suppress",
    "AIMessage": "from langchain_core.messages import AIMessage",
    "RunnableLambda": "from langchain_core.runnables import RunnableLambda",
    "RunnableParallel": "from langchain_core.runnables import RunnableParallel",
    "StructuredTool": "from langchain_core.tools import StructuredTool",
    "InMemorySaver": "from langgraph.checkpoint.memory import InMemorySaver",
    "START": "from langgraph.graph import START, StateGraph",
    "ToolNode": "from langgraph.prebuilt import ToolNode",
    "Send": "from langgraph.types import Send",
    "interrupt": "from langgraph.types import interrupt",
    "testing": "from llmsched_langgraph import testing",
}
"""What a written program imports if it uses the name; `programs.stage` is imported by every one."""


def with_imports(source: str) -> str:
    """The source below the imports that it needs."""
    used = set(re.findall(r"\w+", source))
    lines = [line for name, line in IMPORTS.items() if name in used]
    return "\n".join([*lines, "from programs.stage import *", "", "", source])


class Unwritable(Exception):
    """The program makes no sense, such as a model without a synchronous call in synchronous code."""


class Statement:
    """A part of a function's body: a frozen dataclass."""

    def write(self, page: Page) -> None:
        """Write it at the page's end, where `path` and `out` are in scope."""
        raise NotImplementedError


Body = tuple[Statement, ...]
"""Statements, one after the other."""


class Page:
    """The source of one program while it is written.

    Attributes:
        features: the ingredients so far.
        interrupts: whether a node interrupts its run.
        asynchronous: whether the code being written is a coroutine's.
        on_loop: whether it is synchronous code on the thread of a running loop.
        in_slot: whether it runs inside a slot: within a `slot()` block, or within a model.
        in_scope: whether its task may be cancelled by a block around it.
        in_background: whether nobody awaits it.
        in_node: whether it stands in a node's function itself, where errors are the run's.
    """

    def __init__(self) -> None:
        self.features: set[Feature] = set()
        self.interrupts = False
        self.asynchronous = False
        self.on_loop = False
        self.in_slot = False
        self.in_scope = False
        self.in_background = False
        self.in_node = False
        self._top: list[str] = []
        self._lines: list[str] = []
        self._depth = 0
        self._scope = ""
        self._sites = 0
        self._names: Counter[str] = Counter()
        self._defined: dict[object, str] = {}

    def definitions(self) -> str:
        """What was written apart, in order."""
        return "\n".join(self._top)

    # -- lines -------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """Write one line."""
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str, **where: bool) -> Iterator[None]:
        """Write a block; `where` are attributes of this page that hold inside of it."""
        self.line(f"{head}:")
        before = {name: getattr(self, name) for name in where}
        vars(self).update(where)
        self._depth += 1
        lines, written = self._lines, len(self._lines)
        try:
            yield
            if len(lines) == written:
                self.line("pass")
        finally:
            self._depth -= 1
            vars(self).update(before)

    def body(self, body: Body) -> None:
        """Write statements."""
        for statement in body:
            statement.write(self)

    # -- names -------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        """A name that is not used yet."""
        self._names[stem] += 1
        return f"{stem}{self._names[stem]}"

    def path(self) -> str:
        """A prompt or a path that is not used yet, without its quotes."""
        self._sites += 1
        return f"{{path}}.{self._scope}.{self._sites}"

    def twice(self, write: Callable[[], None]) -> None:
        """Write something once more, with the same prompts and paths."""
        sites = self._sites
        write()
        self._sites = sites

    def await_(self, name: str, arguments: str) -> str:
        """A call of a method that is asynchronous in a coroutine: `x.invoke` or `(await x.ainvoke)`."""
        owner, _, method = name.rpartition(".")
        if self.asynchronous:
            return f"(await {owner}.a{method}({arguments}))"
        return f"{owner}.{method}({arguments})"

    # -- definitions -------------------------------------------------------------------

    def apart(self, define: Callable[[Page], str]) -> str:
        """Let a definition be written at the top of `build`, after those that it needs; its name."""
        inside = ("_lines", "_depth", "_scope", "_sites", "asynchronous", "on_loop", "in_scope", "in_node")
        around = {name: getattr(self, name) for name in inside}
        self._lines, self._depth, self._scope, self._sites = [], 1, self.name("g"), 0
        self.asynchronous = self.on_loop = self.in_scope = self.in_node = False
        name = define(self)
        self._top += self._lines
        vars(self).update(around)
        return name

    def defined(self, thing: Any) -> str:
        """The name of a model or a graph; it is written if it was not yet."""
        key = (thing, self.in_slot)  # what it holds may be an ingredient inside a slot alone
        if key not in self._defined:
            self._defined[key] = self.apart(thing.define)
        return self._defined[key]

    def used(self, thing: Any) -> str:
        """The same for what is called here, synchronously or not."""
        if thing.async_only and not self.asynchronous:
            raise Unwritable("what is asynchronous only is called in synchronous code")
        if self.in_background and _runs_graph(thing):
            self.note(Feature.BACKGROUND_GRAPH)
        if self.on_loop:
            self.note(Feature.SYNC_ON_LOOP)
            if thing.fans_out:
                self.at_once()
        return self.defined(thing)

    def function(self, body: Body, *, asynchronous: bool, **where: bool) -> str:
        """Write a function of a path here; its name. `where`: attributes of this page that hold inside."""
        name = self.name("part")
        where = {"on_loop": False, "in_node": False, **where}
        head = f"{'async ' if asynchronous else ''}def {name}(path)"
        with self.block(head, asynchronous=asynchronous, **where):
            self.line("out = []")
            self.body(body)
            self.line("return out")
        return name

    # -- ingredients -------------------------------------------------------------------

    def note(self, *features: Feature) -> None:
        """The program has these ingredients."""
        self.features.update(features)

    def at_once(self) -> None:
        """What is written next makes calls at the same time."""
        if self.in_slot:
            self.note(Feature.PARALLEL_IN_SLOT)
        if self.on_loop:
            self.note(Feature.FAN_OUT_ON_LOOP)


def _runs_graph(thing: Any) -> bool:
    """Whether it is a graph, or a model that runs one."""
    return (
        hasattr(thing, "layers")
        or hasattr(thing, "graph")
        or (hasattr(thing, "of") and _runs_graph(thing.of))
    )


def as_code(thing: Any) -> str:
    """A frozen dataclass, or a tuple of some, in source; fields with their defaults are left out."""
    if isinstance(thing, tuple):
        return f"({', '.join(map(as_code, thing))}{',' * (len(thing) == 1)})"
    if not is_dataclass(thing):
        return repr(thing)
    given = {field.name: getattr(thing, field.name) for field in fields(thing)}
    defaults = {field.name: field.default for field in fields(thing)}
    parts = [f"{name}={as_code(value)}" for name, value in given.items() if value != defaults[name]]
    return f"{type(thing).__name__}({', '.join(parts)})"


def listed(items: Sequence[str]) -> str:
    """A list in source."""
    return f"[{', '.join(items)}]"
