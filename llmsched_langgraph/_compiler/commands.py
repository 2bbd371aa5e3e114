"""Reads which nodes a function sends to or goes to: its `Send` and `Command` calls.

Does not look at what the function calls.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Mapping
from dataclasses import dataclass, field

from langgraph.types import Command, Send

from llmsched_langgraph._compiler.bytecode import codes


@dataclass(slots=True)
class Commands:
    """How code chooses the next nodes.

    Attributes:
        sends: nodes that it names in a `Send`.
        sends_anywhere: whether it has a `Send` whose target is not a constant.
        goes: whether it has a `Command` with a `goto`.
        goes_up: whether such a command addresses the parent graph.
    """

    sends: set[str] = field(default_factory=set)
    sends_anywhere: bool = False
    goes: bool = False
    goes_up: bool = False


def look_for_commands(
    code: types.CodeType,
    cells: Mapping[str, object],
    space: Mapping[str, object],
    found: Commands,
    *,
    generic: bool,
) -> None:
    """Add what the code of a function does to `found`.

    Args:
        code: the code.
        cells: the variables of its closure.
        space: its global variables.
        found: what was found so far.
        generic: whether it is library code, which passes on commands of other code.
    """
    for each in codes(code):
        known = {*each.co_names, *each.co_freevars}
        send = {name for name in known if _means(name, Send, cells, space)}
        if not generic and any(_means(name, Command, cells, space) for name in known):
            # Keyword names are a tuple among the constants.
            commands = [words for words in each.co_consts if isinstance(words, tuple) and "goto" in words]
            found.goes |= bool(commands)
            found.goes_up |= any("graph" in words for words in commands)
        if send:
            targets, unknown = _send_targets(each, send)
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
