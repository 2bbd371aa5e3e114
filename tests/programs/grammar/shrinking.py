"""Simplifies a program that fails, as long as it fails in the same way.

Does not know the ingredients: it drops, hoists and lowers what stands in the fields of their classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any

from programs.grammar.graphs import Sketch, Sub, Written, written
from programs.grammar.page import Statement, Unwritable

ORDERS: dict[str, tuple[Any, ...]] = {
    "form": ("sync", "async", "both"),
    "policy": ("fcfs",),
    "slots": (1, 2, 3),
    "way": ("invoke",),
}
"""Values of fields, the simplest first; of other fields the default is the simplest one."""

_FROM_ZERO = ("pause_ms", "after_ms", "after", "ms")  # other whole numbers start from one


def simpler(thing: Any) -> Iterator[Any]:
    """Programs, or parts of one, that are a little simpler; those that are much simpler come first."""
    if isinstance(thing, tuple):
        yield from _fewer(thing)
        for index, each in enumerate(thing):
            for other in simpler(each):
                yield (*thing[:index], other, *thing[index + 1 :])
    elif is_dataclass(thing) and not isinstance(thing, type):
        for field in fields(thing):
            value = getattr(thing, field.name)
            for other in _simpler_value(field, value):
                yield replace(thing, **{field.name: other})


def _fewer(things: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Without one of them, or with what is inside of one in its place."""
    for index, each in enumerate(things):
        before, after = things[:index], things[index + 1 :]
        if len(things) > 1 or isinstance(each, Statement):
            yield before + after
        for inner in _inside(each):
            yield before + inner + after


def _inside(thing: Any) -> Iterator[tuple[Any, ...]]:
    """The bodies in a statement, or the layers in a subgraph."""
    if isinstance(thing, Sub):
        yield thing.graph.layers
    elif isinstance(thing, Statement):
        todo = [getattr(thing, field.name) for field in fields(thing)]  # type: ignore[arg-type]
        while todo:
            value = todo.pop(0)
            if isinstance(value, tuple) and value:
                if isinstance(value[0], Statement):
                    yield value
                else:
                    todo += value
            elif is_dataclass(value) and not isinstance(value, type | Statement):
                todo += [getattr(value, field.name) for field in fields(value)]


def _simpler_value(field: Field[Any], value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        yield from simpler(value)
    elif is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "of"):
            yield value.of
        yield from simpler(value)
    elif field.name in ORDERS:
        order = ORDERS[field.name]
        yield from order[: order.index(value)] if value in order else order
    elif isinstance(value, int) and not isinstance(value, bool):
        lowest = 0 if field.name in _FROM_ZERO else 1
        yield from sorted({lowest, value // 2, value - 1} - {value}) if value > lowest else ()
    elif field.default is not MISSING and value != field.default:
        yield field.default


def shrink(sketch: Sketch, fails: Callable[[Written], bool], until: float) -> tuple[Sketch, int]:
    """Simplify a program until nothing simpler fails, or the time is over.

    Args:
        sketch: the program.
        fails: whether a simpler one fails in the same way.
        until: the end of the time, as `time.monotonic()` counts.

    Returns:
        The simplest program that fails, and how many were tried.
    """
    tried, seen, found = 0, set[str](), True
    while found:
        found = False
        for candidate in simpler(sketch):
            try:
                program = written(candidate)
            except Unwritable:
                continue
            if program.source in seen:
                continue
            if time.monotonic() > until:
                return sketch, tried
            seen.add(program.source)
            tried += 1
            if fails(program):
                sketch, found = candidate, True
                break
    return sketch, tried
