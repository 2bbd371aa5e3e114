"""Graphs and whole programs, as ingredients.

Does not run them: `programs.stage.runs` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from programs.features import GO_AHEAD, Feature
from programs.grammar.page import Body, Page, Unwritable, as_code, listed, with_imports
from programs.stage.runs import Client

Form = Literal["both", "sync", "async"]
"""Which functions a node has. One that has both runs the one that fits the run."""


@dataclass(frozen=True)
class Node:
    """A node: its functions, and what they do; `retried`: with a retry policy."""

    body: Body = ()
    form: Form = "both"
    retried: bool = False

    @property
    def async_only(self) -> bool:
        """Whether it cannot run synchronously."""
        return self.form == "async"

    def write(self, page: Page) -> tuple[str, str]:
        """Write the functions; the node's name, and what is given to `add_node`."""
        name = page.name("node")
        if self.retried:
            page.note(Feature.NODE_RETRY)
        return name, functions(page, name, self.form, self.body, "state")


def functions(page: Page, name: str, form: Form, body: Body, given: str) -> str:
    """Write the functions of a node or a tool; what is given to `add_node`, or `func=` and `coroutine=`."""

    def write(asynchronous: bool) -> None:
        head = f"async def a{name}({given})" if asynchronous else f"def {name}({given})"
        node = given == "state"
        with page.block(head, asynchronous=asynchronous, in_node=node):
            page.line('path, out = state["path"], []' if node else "out = []")
            page.body(body)
            page.line('return {"out": out}' if node else 'return "+".join(out)')

    if form == "sync":
        if page.in_slot:
            page.note(Feature.OUTLIVES_SLOT)
        write(False)
        return name if given == "state" else f"func={name}"
    if form == "async":
        write(True)
        return f"a{name}" if given == "state" else f"coroutine=a{name}"
    page.twice(lambda: write(False))
    write(True)
    return f"RunnableLambda({name}, a{name})" if given == "state" else f"func={name}, coroutine=a{name}"


@dataclass(frozen=True)
class Side:
    """Nodes side by side."""

    nodes: tuple[Node, ...]

    @property
    def async_only(self) -> bool:
        """Whether one of them cannot run synchronously."""
        return any(node.async_only for node in self.nodes)

    def add(self, page: Page, builder: str, before: list[str]) -> list[str]:
        """Write them behind the nodes `before`; their names."""
        if len(self.nodes) > 1:
            page.note(Feature.PARALLEL_NODES)
            page.at_once()
        names = []
        for node in self.nodes:
            name, code = node.write(page)
            retry = ", retry_policy=RETRY" if node.retried else ""
            page.line(f'{builder}.add_node("{name}", {code}{retry})')
            join(page, builder, before, name)
            names.append(name)
        return names


@dataclass(frozen=True)
class FanOut:
    """One node that `Send` runs several times at once."""

    node: Node
    width: int = 2

    @property
    def async_only(self) -> bool:
        """Whether it cannot run synchronously."""
        return self.node.async_only

    def add(self, page: Page, builder: str, before: list[str]) -> list[str]:
        """Write it behind the nodes `before`; its name."""
        page.note(Feature.SEND)
        page.at_once()
        name, code = self.node.write(page)
        retry = ", retry_policy=RETRY" if self.node.retried else ""
        page.line(f'{builder}.add_node("{name}", {code}{retry})')
        spread = page.name("spread")
        with page.block(f"def {spread}(state)"):
            page.line("path = state['path']")
            paths = [f'Send("{name}", {{"path": f"{page.path()}"}})' for _ in range(self.width)]
            page.line(f"return {listed(paths)}")
        plans = page.name("plans")  # one node: each of several before it would send anew
        page.line(f'{builder}.add_node("{plans}", lambda state: {{}})')
        join(page, builder, before, plans)
        page.line(f'{builder}.add_conditional_edges("{plans}", {spread}, ["{name}"])')
        return [name]


@dataclass(frozen=True)
class Sub:
    """A graph as a node."""

    graph: Any

    @property
    def async_only(self) -> bool:
        """Whether it cannot run synchronously."""
        return bool(self.graph.async_only)

    def add(self, page: Page, builder: str, before: list[str]) -> list[str]:
        """Write it behind the nodes `before`; its name."""
        page.note(Feature.SUBGRAPH)
        name = page.name("sub")
        page.line(f'{builder}.add_node("{name}", {page.defined(self.graph)})')
        join(page, builder, before, name)
        return [name]


@dataclass(frozen=True)
class Tools:
    """A model's tool calls, run by LangGraph's `ToolNode`."""

    body: Body = ()
    width: int = 2
    form: Form = "both"

    @property
    def async_only(self) -> bool:
        """Whether the tool cannot run synchronously."""
        return self.form == "async"

    def add(self, page: Page, builder: str, before: list[str]) -> list[str]:
        """Write three nodes behind the nodes `before`: who calls, the tools, and what they said."""
        page.note(Feature.TOOL_NODE)
        page.at_once()
        tool, asks, tells = page.name("tool"), page.name("asks"), page.name("tells")
        code = functions(page, tool, self.form, self.body, "path")
        with page.block(f"def {asks}(state)"):
            page.line("path = state['path']")
            calls = [
                f'{{"name": "{tool}", "args": {{"path": f"{path}"}}, "id": f"{path}"}}'
                for path in [page.path() for _ in range(self.width)]
            ]
            page.line(f'return {{"messages": [AIMessage("", tool_calls={listed(calls)})]}}')
        page.line(f'{builder}.add_node("{asks}", {asks})')
        page.line(
            f'{builder}.add_node("{tool}", ToolNode([StructuredTool.from_function('
            f'{code}, name="{tool}", description="?")], handle_tool_errors=False))'
        )
        page.line(f'{builder}.add_node("{tells}", told)')
        join(page, builder, before, asks)
        join(page, builder, [asks], tool)
        join(page, builder, [tool], tells)
        return [tells]


def join(page: Page, builder: str, before: list[str], name: str) -> None:
    """Write the edges from the nodes `before` to this one, which waits for all of them."""
    first = quoted(before[0]) if len(before) == 1 else listed([quoted(each) for each in before])
    page.line(f'{builder}.add_edge({first}, "{name}")')


def quoted(node: str) -> str:
    """The node's name in source."""
    return node if node == "START" else f'"{node}"'


@dataclass(frozen=True)
class Graph:
    """A graph: layers, one after the other; `scheduled`: by itself, as the outermost one always is."""

    layers: tuple[Any, ...]
    scheduled: bool = True

    fans_out: ClassVar[bool] = True

    @property
    def async_only(self) -> bool:
        """Whether it cannot be invoked synchronously."""
        return any(layer.async_only for layer in self.layers)

    def define(self, page: Page, *, root: bool = False) -> str:
        """Write its definition; its name."""
        builder = page.name("builder")
        page.line(f"{builder} = StateGraph(State)")
        before = ["START"]
        for layer in self.layers:
            before = layer.add(page, builder, before)
        saver = "checkpointer=InMemorySaver()" if root and page.interrupts else ""
        compiled = f"{builder}.compile({saver})"
        name = page.name("graph")
        page.line(f"{name} = {f'on.scheduled({compiled})' if root or self.scheduled else compiled}")
        return name


@dataclass(frozen=True)
class Sketch:
    """A whole program."""

    graph: Graph
    slots: int
    policy: str
    clients: tuple[Client, ...]


@dataclass(frozen=True)
class Written:
    """A program's source, and its ingredients."""

    source: str
    features: frozenset[Feature]


def written(sketch: Sketch) -> Written:
    """The program.

    Raises:
        Unwritable: it makes no sense.
    """
    page = Page()
    _note_runs(sketch, page)
    graph = page.apart(lambda page: sketch.graph.define(page, root=True))
    clients = "".join(f"        {as_code(client)},\n" for client in sketch.clients)
    source = (
        f"def build(on):\n{page.definitions()}\n    return {graph}\n\n\n"
        f"PROGRAM = Program(\n    build=build,\n    slots={sketch.slots},\n    policy={sketch.policy!r},\n"
        f"    clients=(\n{clients}    ),\n    healthy={not page.features & GO_AHEAD},\n)\n"
    )
    return Written(with_imports(source), frozenset(page.features))


def _note_runs(sketch: Sketch, page: Page) -> None:
    on_threads = [client for client in sketch.clients if client.kind == "thread"]
    runs = [run for client in sketch.clients for run in client.runs]
    if on_threads and sketch.graph.async_only:
        raise Unwritable("an asynchronous graph is run synchronously")
    if any(run.cut or run.way == "events" for client in on_threads for run in client.runs):
        raise Unwritable("a run in a thread can neither be cut off nor give events")
    if len(runs) > 1:
        page.note(Feature.MANY_RUNS)
    if len(sketch.clients) > 1:
        page.note(Feature.SEVERAL_LOOPS)
    if any(client.kind == "uvloop" for client in sketch.clients):
        page.note(Feature.UVLOOP)
    if any(client.end == "closes" for client in sketch.clients):
        page.note(Feature.CLOSED_LOOP)
    page.note(*(CUTS[run.cut] for run in runs if run.cut))
    if any(run.way == "broken off" for run in runs):
        page.note(Feature.BROKEN_OFF)


CUTS = {"cancelled": Feature.CANCELLED, "timed out": Feature.CANCELLED, "hung up": Feature.HUNG_UP}
