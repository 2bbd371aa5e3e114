"""Analyses what a node's code can reach: models, graphs, tools, `Send` and `Command`.

Does not analyse edges or determine stages. It reads closures, globals named in code, attributes and
sequences; it calls nothing, reads no property and imports nothing.

The result is an upper bound: a model in a branch that never runs is included. An object is followed by the
attributes that the code reads of it. If the code also passes it on, these are all attributes that any code
which the node reaches reads of anything. Objects that exist only at run time (a model from the state or from
the run's context) are not found; an annotation or the profile supplies them.
"""

from __future__ import annotations

import enum
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langgraph.pregel import Pregel

from llmsched_langgraph._compiler.bytecode import Import, Path, Uses, uses_of
from llmsched_langgraph._compiler.commands import Commands, look_for_commands
from llmsched_langgraph._compiler.models import LIBRARIES, is_library, is_standard, model_of
from llmsched_langgraph._compiler.objects import MAX_ITEMS, function_of, in_class, items_of, variables_of

MAX_OBJECTS = 2_000
"""Maximum number of objects examined per node; further ones are unlikely to belong to its own code."""

_RUN = ("__call__", "invoke", "ainvoke")
_MADE = ("__new__", "__init__", "__post_init__")
_IMPLICIT = frozenset(
    {
        "__call__", "__getitem__", "__get__", "__iter__", "__next__", "__aiter__", "__anext__", "__enter__",
        "__aenter__", "__await__",
    }
)  # fmt: skip
"""Methods that code runs implicitly."""

_TOOL_MESSAGES = frozenset({"ToolMessage", "tool_call_id"})
"""Names in code that makes messages with the results of tools."""

_LEAVES = (str, bytes, bytearray, int, float, complex, type(None), type(Ellipsis))
_ONCE = (types.FunctionType, Pregel)
"""Types whose objects are examined once: what they refer to does not depend on the attributes read."""

_NOTHING: frozenset[str] = frozenset()
_NEVER = (_NOTHING, _NOTHING)


@dataclass(slots=True)
class Contents(Commands):
    """What code can reach.

    Attributes:
        model: description of the first model found and its location; None if there is none.
        graphs: compiled graphs that it may run.
        tools: names of the tools that it runs for a model; None if it is not a tool node.
        tool_names: names of all tools that it can reach: of tool objects, and keys of tables of functions.
        strings: the string constants in its code, which may be names of nodes.
        answers_tool_calls: whether it reads `tool_calls` of a message and makes tool messages or runs tools.
    """

    model: str | None = None
    graphs: list[Any] = field(default_factory=list)
    tools: tuple[str, ...] | None = None
    tool_names: set[str] = field(default_factory=set)
    strings: set[str] = field(default_factory=set)
    answers_tool_calls: bool = False


class _Look(NamedTuple):
    """An object that code reaches.

    Attributes:
        thing: the object.
        names: the attributes of it that the code reads, and the methods that the code runs implicitly.
        below: the attributes of its attributes that the code reads.
        where: the object's location, as text.
        passed_on: whether other code may read other attributes of it.
    """

    thing: Any
    names: frozenset[str]
    below: frozenset[str]
    where: str
    passed_on: bool = True


def contents_of(code: object) -> Contents:
    """Return everything that a function, a runnable or a callable object can reach."""
    return _Search(code).found


def is_tool_node(thing: object) -> bool:
    """Return whether it runs a model's tool calls, as LangGraph's `ToolNode` does."""
    return issubclass(type(thing), Runnable) and hasattr(type(thing), "tools_by_name")


def _tool_names(thing: object) -> Iterator[str]:
    """Yield the names of the tools that the object is, or that it is a table of."""
    cls: type = type(thing)  # asking the object for its class may run its code
    if issubclass(cls, BaseTool):
        name = variables_of(thing).get("name")
        if isinstance(name, str):
            yield name
    elif cls is dict or cls is types.MappingProxyType:
        # Functions by name, from which a node takes the one that a plan names.
        table: Any = thing
        pairs = zip(range(MAX_ITEMS), table.items(), strict=False)
        yield from (name for _, (name, value) in pairs if name and isinstance(name, str) and callable(value))


class _Search:
    """A walk over everything that a node's code can reach.

    Attributes:
        found: the result.
    """

    def __init__(self, code: object) -> None:
        self.found = Contents()
        if is_tool_node(code):
            tools: Any = variables_of(code).get("_tools_by_name", ())
            self.found.tools = tuple(tools)
            self.found.tool_names.update(self.found.tools)
        self._read: set[str] = set()  # names of all attributes that any of the code reads
        self._globals: set[str] = set()  # names of all global variables that any of it uses
        self._seen: dict[object, tuple[frozenset[str], frozenset[str]]] = {}
        self._alive: list[object] = []  # keeps the objects alive, so that ids stay unique
        self._passed_on: dict[object, _Look] = {}
        todo, read = [_Look(code, _IMPLICIT, _IMPLICIT, "the node itself")], -1
        while todo:
            self._walk(deque(todo))
            # Code that was reached may have read other attributes of what was passed on to it.
            grown, read = len(self._read) > read, len(self._read)
            todo = [
                look._replace(names=look.names | self._read, below=look.below | self._read)
                for look in (self._passed_on.values() if grown else ())
            ]
        named = self._read | self._globals | self.found.strings
        answers = bool(self.found.tool_names) or not named.isdisjoint(_TOOL_MESSAGES)
        self.found.answers_tool_calls = answers and "tool_calls" in self._read | self.found.strings

    def _walk(self, todo: deque[_Look]) -> None:
        while todo and len(self._alive) < MAX_OBJECTS:
            look = todo.popleft()
            if self._is_new(look):
                try:
                    todo.extend(self._into(look))
                except Exception:  # noqa: S112  # an object that cannot be inspected gives no information
                    continue

    def _is_new(self, look: _Look) -> bool:
        thing = look.thing
        cls = type(thing)
        if issubclass(cls, _LEAVES):
            return False
        key: object = id(thing)
        if cls is types.MethodType:
            key = (id(thing.__func__), id(thing.__self__))  # a new object at each attribute access
        if look.passed_on:
            self._passed_on.setdefault(key, look)
        names, below = before = self._seen.get(key, _NEVER)
        if before is not _NEVER and (issubclass(cls, _ONCE) or (look.names <= names and look.below <= below)):
            return False
        self._seen[key] = names | look.names, below | look.below
        self._alive.append(thing)
        return True

    def _into(self, look: _Look) -> Iterator[_Look]:
        """Record whether the object is a model, a graph or a tool; yield the objects that it refers to."""
        thing, names, where = look.thing, look.names, look.where
        cls = type(thing)
        self.found.tool_names.update(_tool_names(thing))
        model = model_of(thing, names)
        if model is not None:
            self.found.model = self.found.model or f"calls {model} ({where})"
        elif issubclass(cls, Pregel):
            self.found.graphs.append(thing)
        elif cls is types.FunctionType:
            if not is_standard(thing.__module__):
                yield from self._function(thing, None)
            yield from _wrapped(thing.__dict__, look)
        elif cls is types.MethodType:
            yield from self._method(thing, look)
        elif issubclass(cls, types.ModuleType):
            if not is_standard(thing.__name__):
                yield from _attributes(look, vars(thing))
        elif issubclass(cls, type):
            yield from self._class(thing, look)
        elif (items := items_of(thing)) is not None:
            yield from (look._replace(thing=item) for item in items)
        else:
            yield from self._object(look)

    def _method(self, method: types.MethodType, look: _Look) -> Iterator[_Look]:
        function, owner = method.__func__, method.__self__
        if type(function) is not types.FunctionType:
            yield from (look._replace(thing=thing) for thing in (function, owner))
        elif is_library(function.__module__) and (
            issubclass(type(owner), Runnable) or model_of(owner, _NOTHING) is not None
        ):
            yield look._replace(thing=owner)  # a model is not searched further
        else:
            yield from self._function(function, owner)

    def _class(self, cls: type, look: _Look) -> Iterator[_Look]:
        """Yield the attributes of a class, and the methods that creating an object of it would run."""
        if is_library(cls.__module__):
            return
        if issubclass(cls, enum.Enum):
            members = in_class(cls, "_member_map_")
            yield from _attributes(look, members if type(members) is dict else {})
            return
        makes = False
        for name in sorted(look.names - _IMPLICIT | (look.names & {"__call__"})):
            value = in_class(cls, name)
            function = function_of(value)
            if type(function) is not types.FunctionType:
                yield _Look(value, look.below, look.below, f"class attribute `{name}`")
            elif not is_library(function.__module__):
                makes |= type(value) is not staticmethod and type(value) is not classmethod
                yield _method(value, function, cls, name)
        for name in _MADE if makes else ():
            function = in_class(cls, name)
            if type(function) is types.FunctionType and not is_library(function.__module__):
                yield _method(function, function, cls, name)

    def _object(self, look: _Look) -> Iterator[_Look]:
        thing = look.thing
        cls = type(thing)
        variables = variables_of(thing)
        yield from _wrapped(variables, look)
        names = look.names
        if issubclass(cls, Runnable) or cls.__module__.startswith("langgraph."):
            # Runnables, and LangGraph's own objects (a node, a task), contain other runnables and functions.
            yield from _attributes(look._replace(names=frozenset(variables)), variables)
            names = names.union(_RUN)
        else:
            yield from _attributes(look, variables)
        # A library's run methods would lead from each of its objects to the whole library.
        if is_library(cls.__module__):
            names -= {*_RUN, *_IMPLICIT} if issubclass(cls, Runnable) else _IMPLICIT - {"__call__"}
        elif any(name not in variables and in_class(cls, name) is None for name in names - _IMPLICIT):
            names |= {"__getattr__", "__getattribute__"}
        yield from self._in_class(look, names)

    def _in_class(self, look: _Look, names: frozenset[str]) -> Iterator[_Look]:
        """Yield the methods, properties and class attributes of an object with these names."""
        cls = type(look.thing)
        for name in sorted(names):
            value = in_class(cls, name)
            function = function_of(value)
            if type(function) is not types.FunctionType:
                if not is_library(cls.__module__):
                    yield _Look(function, look.below, look.below, f"class attribute `{name}`")
            elif not is_standard(function.__module__):
                yield _method(value, function, cls if type(value) is classmethod else look.thing, name)

    def _function(self, function: types.FunctionType, owner: object) -> Iterator[_Look]:
        """Yield what a function refers to; `owner` is its first argument, if that is known."""
        code, space = function.__code__, function.__globals__
        library = is_library(function.__module__)
        uses = uses_of(code)
        cells = dict(_cells(function))
        if not library:
            self.found.strings |= uses.strings
            self._read |= uses.attributes
            self._globals |= uses.globals
        generic = (function.__module__ or "").partition(".")[0] in LIBRARIES
        look_for_commands(code, cells, space, self.found, generic=generic)
        for name, value in cells.items():
            if type(value) is str:
                self.found.strings.add(value)
            if library and _is_tools(value):
                continue  # tools that are described to an agent's model, not tools that it runs
            yield from _use(value, name, uses, f"closure variable `{name}`")
        if not library:
            for name in sorted(uses.globals & space.keys()):
                yield from _use(space[name], name, uses, f"global `{name}`")
            for each in uses.imports:
                yield from _imported(each, space.get("__package__"), uses)
        below = uses.attributes | _IMPLICIT
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            yield _Look(default, below, below, "a default argument")
        if owner is not None and code.co_argcount:
            direct = uses.direct.get(code.co_varnames[0], frozenset())
            names = uses.attributes if direct is None else _first_of(direct)
            yield _Look(owner, names, below, "the object of a method", passed_on=direct is None)
            if "__class__" in cells:
                yield from _above(owner, cells["__class__"], uses)


def _method(value: object, function: types.FunctionType, owner: object, name: str) -> _Look:
    """Return a look at the function of this name in a class, bound to its object or class."""
    bound = function if type(value) is staticmethod else types.MethodType(function, owner)
    return _Look(bound, _NOTHING, _NOTHING, f"method `{name}`", passed_on=False)


def _above(owner: Any, cls: object, uses: Uses) -> Iterator[_Look]:
    """Yield the methods that `super()` may mean, in a method of the class `cls`."""
    order: tuple[type, ...] = owner.__mro__ if issubclass(type(owner), type) else type(owner).__mro__
    after = [index for index, base in enumerate(order, 1) if base is cls]
    for name in sorted(uses.attributes) if after else ():
        for base in order[after[0] :]:
            function = function_of(base.__dict__.get(name))
            if type(function) is types.FunctionType and not is_standard(function.__module__):
                yield _method(base.__dict__[name], function, owner, name)
                break


def _use(value: Any, variable: str, uses: Uses, where: str) -> Iterator[_Look]:
    """Yield a look at the value of a variable that code uses; for a module, at the attributes read of it."""
    below = uses.attributes | _IMPLICIT
    direct = uses.direct.get(variable)
    if direct is None:
        yield _Look(value, below, below, where)
    elif not issubclass(type(value), types.ModuleType):
        yield _Look(value, _first_of(direct), below, where, passed_on=False)
    else:
        for path in sorted(direct):
            yield from _in_module(value, path, below)


def _in_module(module: types.ModuleType, path: Path, below: frozenset[str]) -> Iterator[_Look]:
    name, *more = path
    if is_standard(module.__name__) or name not in vars(module):
        return
    value, where = vars(module)[name], f"global `{name}`"
    if not more:
        yield _Look(value, below, below, where)
    elif issubclass(type(value), types.ModuleType):
        yield from _in_module(value, tuple(more), below)
    else:
        yield _Look(value, frozenset(more[:1]), below, where, passed_on=False)


def _first_of(paths: Iterable[Path]) -> frozenset[str]:
    return frozenset(path[0] for path in paths)


def _imported(each: Import, package: object, uses: Uses) -> Iterator[_Look]:
    """Yield the objects that an import inside a function binds, if the module is already imported."""
    path = each.module
    if each.level and isinstance(package, str):
        parts = package.split(".")
        path = ".".join([*parts[: len(parts) - each.level + 1], *([path] if path else [])])
    if each.variable:  # `import a.b` keeps `a`
        name = each.variable if path.partition(".")[0] == each.variable else path
        if name in sys.modules:
            yield from _use(sys.modules[name], each.variable, uses, f"module `{name}`")
    for name, variable in each.names:
        # `import a.b as c` reads `b`, too.
        submodule = sys.modules.get(path if path.rpartition(".")[2] == name else f"{path}.{name}")
        value = vars(sys.modules[path]).get(name, submodule) if path in sys.modules else submodule
        if value is not None and not (type(value) is types.FunctionType and is_standard(value.__module__)):
            yield from _use(value, variable, uses, f"`{name}` of module `{path}`")


def _attributes(look: _Look, variables: Mapping[str, object]) -> Iterator[_Look]:
    what = "global" if issubclass(type(look.thing), types.ModuleType) else "attribute"
    for name in sorted(look.names & variables.keys()):
        yield _Look(variables[name], look.below, look.below, f"{what} `{name}`")


def _wrapped(variables: Mapping[str, object], look: _Look) -> Iterator[_Look]:
    """Yield the functions that `functools.wraps`, `lru_cache` or `singledispatch` store on a function."""
    for name in ("__wrapped__", "registry"):
        if name in variables:
            yield look._replace(thing=variables[name])


def _is_tools(value: Any) -> bool:
    if issubclass(type(value), list | tuple):
        return any(issubclass(type(item), BaseTool) for item in value)
    return issubclass(type(value), BaseTool) or is_tool_node(value)


def _cells(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            pass  # a variable that is not set yet
