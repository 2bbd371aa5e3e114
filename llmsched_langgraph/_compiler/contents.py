"""Analyses what a node's code can reach: models, graphs, tools, `Send` and `Command`.

Does not analyse edges or determine stages. It reads closures, globals named in code, attributes and
sequences; it calls nothing, reads no property and imports nothing.

The result is an upper bound: a model in a branch that never runs is included. Objects that exist only at run
time (a model from the state or from the run's context) are not found; an annotation or the profile supplies
them.
"""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import PregelProtocol
from langgraph.types import Command, Send

MAX_OBJECTS = 2_000
"""Maximum number of objects inspected per node; further ones are unlikely to be its own code."""

MAX_ITEMS = 256
"""Maximum number of elements inspected per list or dict."""

MAX_NAME = 100
"""Strings of this length or more are not taken for node names."""

_FACTORIES = {
    "init_chat_model",
    "create_agent",
    "create_react_agent",
    "create_deep_agent",
    "create_supervisor",
}
_LIBRARIES = {
    "deepagents",
    "httpx",
    "langchain",
    "langchain_core",
    "langgraph",
    "langsmith",
    "numpy",
    "openai",
    "pydantic",
    "pydantic_core",
}
"""Packages with generic functions, whose behaviour depends on their arguments only."""

_RUN = ("__call__", "invoke", "ainvoke")
_LEAVES = (str, bytes, bytearray, int, float, complex, type(None), type(Ellipsis))


@dataclass(slots=True)
class Contents:
    """What code can reach.

    Attributes:
        model: description of the first model found and its location; None if there is none.
        graphs: compiled graphs that it may run.
        tools: names of the tools that it runs for a model; None if it is not a tool node.
        sends: nodes that it names in a `Send`.
        sends_anywhere: whether it has a `Send` whose target is not a constant.
        goes: whether it has a `Command` with a `goto`.
        goes_up: whether such a command is for the parent graph.
        strings: the string constants in its code, which may be names of nodes.
    """

    model: str | None = None
    graphs: list[Any] = field(default_factory=list)
    tools: tuple[str, ...] | None = None
    sends: set[str] = field(default_factory=set)
    sends_anywhere: bool = False
    goes: bool = False
    goes_up: bool = False
    strings: set[str] = field(default_factory=set)


Names = frozenset[str] | None
"""Names of the attributes that the code which reached an object uses; None for all."""


def contents_of(code: object) -> Contents:
    """Return everything that a function, a runnable or a callable object can reach."""
    found = Contents()
    if is_tool_node(code):
        found.tools = tuple(vars(code).get("_tools_by_name", ()))
    seen: dict[object, object] = {}  # keeps the objects alive, so that their ids stay unique
    todo: deque[tuple[object, Names, str]] = deque([(code, None, "the node itself")])
    while todo and len(seen) < MAX_OBJECTS:
        thing, names, where = todo.popleft()
        key: object = id(thing)
        if isinstance(thing, types.MethodType):
            key = (id(thing.__func__), id(thing.__self__))  # a new object at each attribute access
        if isinstance(thing, _LEAVES) or key in seen:
            continue
        seen[key] = thing
        model = _model(thing, names)
        if model is not None:
            found.model = found.model or f"calls {model} ({where})"
        elif isinstance(thing, Pregel):
            found.graphs.append(thing)
        else:
            try:
                todo.extend(_reached(thing, names, where, found))
            except Exception:  # noqa: S112  # an object that cannot be inspected gives no information
                continue
    return found


def is_tool_node(thing: object) -> bool:
    """Return whether it runs a model's tool calls, as LangGraph's `ToolNode` does."""
    return isinstance(thing, Runnable) and hasattr(type(thing), "tools_by_name")


def _model(thing: object, names: Names) -> str | None:
    """Describe `thing` if it is a model or creates one; otherwise return None."""
    cls = thing if isinstance(thing, type) else type(thing)
    if issubclass(cls, BaseLanguageModel) or _is_client(cls):
        return f"a new {cls.__name__}" if isinstance(thing, type) else cls.__name__
    if isinstance(thing, PregelProtocol) and not isinstance(thing, Pregel):
        return f"a remote graph, {cls.__name__}"
    if (
        isinstance(thing, types.FunctionType)
        and thing.__name__ in _FACTORIES
        and _is_library(thing.__module__)
    ):
        return f"what {thing.__name__}() builds"
    if (
        cls.__module__.startswith("llmsched_langgraph.")
        and cls.__name__ == "Scheduler"
        and "slot" in (names or ())
    ):
        return "what it takes a slot for"
    return None


def _is_client(cls: type) -> bool:
    # openai's classes, and those of SDKs from the same generator.
    return any(
        base.__name__ in {"BaseClient", "SyncAPIResource", "AsyncAPIResource"}
        and base.__module__.endswith(("._base_client", "._resource"))
        for base in cls.__mro__
    )


def _is_library(module: str | None) -> bool:
    root = (module or "").partition(".")[0]
    return root in _LIBRARIES or root.startswith(("langchain_", "langgraph_")) or _is_standard(module)


def _is_standard(module: str | None) -> bool:
    return (module or "").partition(".")[0] in sys.stdlib_module_names and module != "__main__"


def _reached(thing: object, names: Names, where: str, found: Contents) -> Iterator[tuple[object, Names, str]]:
    """Yield the objects that `thing` refers to, with the names used of each, and its location."""
    if isinstance(thing, types.FunctionType):
        if not _is_standard(thing.__module__):
            yield from _from_function(thing, None, found)
    elif isinstance(thing, types.MethodType):
        if isinstance(thing.__func__, types.FunctionType):
            yield from _from_function(thing.__func__, thing.__self__, found)
    elif isinstance(thing, functools.partial):
        yield from ((part, names, where) for part in (thing.func, *thing.args, *thing.keywords.values()))
    elif isinstance(thing, dict | types.MappingProxyType):
        yield from ((value, names, where) for value in _first(thing.values()))
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        yield from ((value, names, where) for value in _first(thing))
    elif isinstance(thing, types.ModuleType):
        if not _is_library(thing.__name__) or thing.__name__.startswith("langchain"):
            yield from _attributes(thing, vars(thing), names or frozenset())
    elif isinstance(thing, type):
        return
    elif (wrapped := (getattr(thing, "__dict__", None) or {}).get("__wrapped__")) is not None:
        yield wrapped, names, where
    elif isinstance(thing, Runnable) or type(thing).__module__.startswith("langgraph."):
        # Runnables, and LangGraph's own objects (a node, a task), contain other runnables and functions.
        yield from _attributes(thing, _variables(thing), None)
        yield from _in_class(thing, names)
    else:
        yield from _attributes(thing, _variables(thing), names or frozenset())
        yield from _in_class(thing, None if names is None else names | {_RUN[0]})


def _first(items: Any) -> Iterator[object]:
    for _, item in zip(range(MAX_ITEMS), items, strict=False):
        yield item


def _found_in_class(cls: type, name: str) -> object:
    """Return the class attribute without evaluating a property or binding a method."""
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return None


def _variables(thing: object) -> dict[str, object]:
    variables = dict(getattr(thing, "__dict__", None) or {})
    for cls in type(thing).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            slot = cls.__dict__.get(name)
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    variables[name] = slot.__get__(thing)
                except AttributeError:
                    pass  # a slot that is not set
    private = variables.get("__pydantic_private__")
    return {**variables, **private} if isinstance(private, dict) else variables


def _attributes(
    thing: object, variables: Mapping[str, object], names: Names
) -> Iterator[tuple[object, Names, str]]:
    what = "global" if isinstance(thing, types.ModuleType) else "attribute"
    for name in tuple(variables) if names is None else names & variables.keys():
        yield variables[name], names, f"{what} `{name}`"


def _in_class(owner: object, names: Names) -> Iterator[tuple[object, Names, str]]:
    """Yield the methods and class attributes in `names`; if None, the methods that run the object."""
    # A library's run methods would lead from each of its objects to the whole library.
    own = not _is_library(type(owner).__module__)
    for name in sorted(names) if names is not None else _RUN if own else ():
        value = _found_in_class(type(owner), name)
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, functools.cached_property):
            value = value.func
        elif isinstance(value, classmethod | staticmethod):
            value = value.__func__
        if not isinstance(value, types.FunctionType):
            if own:
                yield value, names, f"class attribute `{name}`"
        elif not _is_standard(value.__module__):
            yield types.MethodType(value, owner), None, f"method `{name}`"


def _from_function(
    function: types.FunctionType, owner: object, found: Contents
) -> Iterator[tuple[object, Names, str]]:
    codes = list(_codes(function.__code__))
    names = frozenset(name for code in codes for name in code.co_names)
    cells = dict(_cells(function))
    library = _is_library(function.__module__)
    if not library:
        found.strings |= {text for code in codes for text in _strings(code.co_consts)}
    generic = (function.__module__ or "").partition(".")[0] in _LIBRARIES
    _look_for_sends(codes, cells, function.__globals__, found, generic=generic)
    for name, value in cells.items():
        if isinstance(value, str):
            found.strings.add(value)
        if library and _is_tools(value):
            continue  # tools that an agent's model is told about, not tools that it runs
        yield value, names, f"closure variable `{name}`"
    if not library:
        for name in sorted(names):
            if name in function.__globals__:
                yield function.__globals__[name], names, f"global `{name}`"
            elif name in sys.modules:
                yield sys.modules[name], names, f"module `{name}`"
    if owner is not None:
        yield from _attributes(owner, _variables(owner), names)
        yield from _in_class(owner, names)
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield default, names, "a default argument"


def _is_tools(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(isinstance(item, BaseTool) for item in value)
    return isinstance(value, BaseTool) or is_tool_node(value)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code, and that of all functions, lambdas and comprehensions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _cells(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            pass  # a variable that is not set yet


def _strings(constants: Any) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            if len(constant) < MAX_NAME:
                yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from _strings(constant)


def _look_for_sends(
    codes: list[types.CodeType],
    cells: Mapping[str, object],
    space: Mapping[str, object],
    found: Contents,
    *,
    generic: bool,
) -> None:
    for code in codes:
        known = {*code.co_names, *code.co_freevars}
        send = {name for name in known if _means(name, Send, cells, space)}
        # Library code passes on commands of other code.
        if not generic and any(_means(name, Command, cells, space) for name in known):
            # Keyword names are a tuple among the constants.
            commands = [words for words in code.co_consts if isinstance(words, tuple) and "goto" in words]
            found.goes |= bool(commands)
            found.goes_up |= any("graph" in words for words in commands)
        if not send:
            continue
        targets, unknown = _send_targets(code, send)
        found.sends |= targets
        found.sends_anywhere |= unknown


def _means(name: str, what: type, cells: Mapping[str, object], space: Mapping[str, object]) -> bool:
    value = cells.get(name, space.get(name))
    # Without a value: an attribute of a module, or imported inside the function.
    return value is what or (value is None and name == what.__name__)


def _send_targets(code: types.CodeType, names: set[str]) -> tuple[set[str], bool]:
    """Return the constant first arguments of `Send` calls, and whether one is not a constant."""
    targets, unknown, pending = set(), False, False
    for step in dis.get_instructions(code):
        if step.opname in {"LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME", "LOAD_ATTR"} and step.argval in names:
            pending = True
        elif pending and step.opname.startswith("LOAD_"):
            if step.opname == "LOAD_CONST" and isinstance(step.argval, str):
                targets.add(step.argval)
            else:
                unknown = True
            pending = False
    return targets, unknown
