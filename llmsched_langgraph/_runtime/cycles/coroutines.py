"""Reads the coroutines of a suspended task: which await each other, and which time limits end their wait.

Does not know what a task waits for: `stdlib` does.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

_DEEPEST = 1_000
"""Maximum length of a chain of coroutines, each awaiting the next, that is followed."""

_WAIT_FOR = getattr(asyncio.wait_for, "__code__", None)  # checked by `stdlib.why_not`


def chain_of(task: Any) -> Iterator[tuple[types.CodeType, types.FrameType | None, Any]]:
    """Iterate over the coroutines and asynchronous generators of a suspended task, from the outside in.

    Each comes as its code, its frame, and itself.
    """
    awaited = task.get_coro()
    for _ in range(_DEEPEST):
        for kind in ("cr", "ag", "gi"):
            code = getattr(awaited, f"{kind}_code", None)
            if code is not None:
                frame = getattr(awaited, f"{kind}_frame", None)
                yield code, frame, awaited
                if code in _driven_by:
                    awaited = None if frame is None else frame.f_locals.get(_driven_by[code])
                else:
                    awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
                break
        else:
            # An object in C, such as the awaitable of `anext`, that drives a generator or another such one.
            driven = [one for one in gc.get_referents(awaited) if isinstance(one, _DRIVEN) or _drives(one)]
            awaited = driven[0] if driven else None
        if awaited is None:
            return


def _drives(awaitable: object) -> bool:
    """Return whether it is an object in C that drives an asynchronous generator."""
    return type(awaitable).__name__ in _DRIVERS


_DRIVERS = ("async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper")
"""Type names of C objects that drive an asynchronous generator; Python does not export the types."""


def drives(generator: Callable[..., Any], variable: str) -> None:
    """Record that a generator drives the coroutine in this local variable, with `send` and `throw`."""
    _driven_by[generator.__code__] = variable


_driven_by: dict[types.CodeType, str] = {}
"""The name of the local variable that holds the driven coroutine, by the code of the generator."""

_DRIVEN = (types.CoroutineType, types.AsyncGeneratorType, types.GeneratorType)


def time_limit(task: Any, inside: object = None) -> bool:
    """Return whether a time limit of asyncio or AnyIO will end what the suspended task waits for.

    With `inside`, a limit counts only if the task entered it within the `with` block of that object: then the
    code in the block can go on after it. No limit counts if the task is not in that block.
    """
    limited, found = False, inside is None
    for code, frame, awaited in chain_of(task):
        if code is _WAIT_FOR and frame is not None and frame.f_locals.get("timeout") is not None:
            limited = True
        for manager in _managers(awaited):
            if manager is inside and inside is not None:
                limited, found = False, True
            elif _ends(manager):
                limited = True
    return limited and found


def _managers(generator: object, deep: int = 3) -> Iterator[object]:
    """Iterate over the objects in whose `with` blocks a coroutine or a generator stands, from the outside in.

    The interpreter keeps their methods for the exit on the stack of the suspended frame: bound ones, or, from
    Python 3.14 on, functions, each followed by the object. One that `contextlib` made stands for those in the
    blocks of its generator.
    """
    leaving = False
    for one in gc.get_referents(generator):
        if isinstance(one, types.MethodType) and one.__name__ in _EXITS:
            manager, leaving = one.__self__, False
        elif isinstance(one, types.FunctionType) and one.__name__ in _EXITS:
            leaving = True
            continue
        elif leaving:
            manager, leaving = one, False
        else:
            continue
        # Of other classes no attribute is read: that may run code of the user.
        within = getattr(manager, "gen", None) if type(manager).__module__ == "contextlib" else None
        if deep and isinstance(within, types.GeneratorType | types.AsyncGeneratorType):
            yield from _managers(within, deep - 1)
        else:
            yield manager


_EXITS = ("__exit__", "__aexit__")


def _ends(manager: object) -> bool:
    """Return whether it is a time limit that is not over."""
    if isinstance(manager, asyncio.Timeout):
        return manager.when() is not None and not manager.expired()
    scope = getattr(sys.modules.get("anyio"), "CancelScope", None)
    if scope is None or not isinstance(manager, scope):
        return False
    deadline, cancelled = getattr(manager, "deadline", math.inf), getattr(manager, "cancel_called", False)
    return bool(deadline != math.inf and not cancelled)
