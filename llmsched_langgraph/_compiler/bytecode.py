"""Reads what a function's code uses, nested functions included: variables, attributes, imports, strings.

Does not look at the values. Bytecode differs between versions of Python; where an instruction is not known, a
variable counts as used in every way.
"""

from __future__ import annotations

import dis
import functools
import itertools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_NAME = 100
"""Minimum length of a string that is not taken for a name."""

_MAX_PATH = 8

_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "LOAD_SUPER_METHOD"}
_READS = {"LOAD_ATTR", "LOAD_METHOD"}
_BY_STRING = {"getattr", "attrgetter", "methodcaller"}
_BETWEEN = {"EXTENDED_ARG", "NOP", "CACHE"}


Path = tuple[str, ...]


class Import(NamedTuple):
    """An import inside a function.

    Attributes:
        module: the module as it is written, without leading dots.
        level: the number of leading dots.
        names: what is imported from it, and the variables that this is kept in; empty for `import module`.
        variable: the variable of `import module`; empty if `names` is not.
    """

    module: str
    level: int
    names: tuple[tuple[str, str], ...]
    variable: str


@dataclass(frozen=True, slots=True)
class Uses:
    """What code uses.

    Attributes:
        globals: names of global variables and builtins.
        attributes: names of attributes, of any object.
        direct: the attribute paths that the code reads of each variable: `a.b.c` is ("b", "c") of a. None for
            a variable that is also passed on, called, or indexed.
        imports: the imports.
        strings: the string constants, which may be names of nodes.
    """

    globals: frozenset[str]
    attributes: frozenset[str]
    direct: Mapping[str, frozenset[Path] | None]
    imports: tuple[Import, ...]
    strings: frozenset[str]


@functools.lru_cache(4096)
def uses_of(code: types.CodeType) -> Uses:
    """Return what the code uses, and all functions, lambdas and comprehensions inside it."""
    every = list(codes(code))
    strings = frozenset(text for each in every for text in _strings(each.co_consts))
    scan = _Scan()
    try:
        for each in every:
            scan.read(each)
    except Exception:  # instructions of another Python
        names = frozenset(name for each in every for name in each.co_names)
        imports = tuple(Import(name, 0, (), name.partition(".")[0]) for name in names)
        return Uses(names, names, {}, imports, strings)
    attributes = frozenset(scan.attributes)
    if scan.globals & _BY_STRING or attributes & _BY_STRING:
        attributes |= {name for text in strings for name in text.split(".") if name.isidentifier()}
    direct = {name: None if used is None else frozenset(used) for name, used in scan.direct.items()}
    return Uses(frozenset(scan.globals), attributes, direct, tuple(scan.imports), strings)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code, and that of all functions, lambdas and comprehensions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def _strings(constants: Any) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            if len(constant) < MAX_NAME:
                yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from _strings(constant)


class _Scan:
    """Collects what several codes use."""

    def __init__(self) -> None:
        self.globals: set[str] = set()
        self.attributes: set[str] = set()
        self.direct: dict[str, set[Path] | None] = {}
        self.imports: list[Import] = []

    def read(self, code: types.CodeType) -> None:
        steps = [step for step in dis.get_instructions(code) if step.opname not in _BETWEEN]
        for place, step in enumerate(steps):
            if step.opname in _ATTRIBUTES or step.opname == "IMPORT_FROM":
                self.attributes.add(step.argval)
            elif step.opname == "IMPORT_NAME":
                level = steps[place - 2].argval if place > 1 else 0
                self.imports.append(_import(step.argval, level, steps, place + 1))
            elif "LOAD_" in step.opname and step.opname not in ("LOAD_CLOSURE", "LOAD_CONST"):
                if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                    self.globals.add(step.argval)
                # Some instructions load two variables; an attribute is read of the last one.
                loaded = step.argval if isinstance(step.argval, tuple) else (step.argval,)
                for name in loaded[:-1]:
                    self.direct[name] = None
                self._use(loaded[-1], steps, place + 1)

    def _use(self, name: object, steps: list[dis.Instruction], place: int) -> None:
        if not isinstance(name, str):
            return
        after = itertools.takewhile(lambda step: step.opname in _READS, steps[place : place + _MAX_PATH])
        path = tuple(step.argval for step in after)
        used = self.direct.setdefault(name, set())
        if path:
            if used is not None:
                used.add(path)
        elif place >= len(steps) or steps[place].opname not in ("STORE_ATTR", "DELETE_ATTR"):
            self.direct[name] = None


def _import(module: str, level: object, steps: list[dis.Instruction], place: int) -> Import:
    names, pending, variable = [], "", ""
    for step in steps[place:]:
        if step.opname == "IMPORT_FROM":
            pending = step.argval
        elif step.opname.startswith("STORE_"):
            kept = step.argval[0] if isinstance(step.argval, tuple) else step.argval
            if not pending:
                variable = kept
                break
            names.append((pending, kept))
            pending = ""
        elif step.opname not in ("SWAP", "ROT_TWO", "POP_TOP"):
            break
    return Import(module, level if isinstance(level, int) else 0, tuple(names), variable)
