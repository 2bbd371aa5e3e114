"""Replaces a method of another library's class by one that wraps it.

Does not undo it: a second library may have wrapped the method since.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any


def wrap_method(cls: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace `cls.name`, or what it inherits, by `wrap(method)`, where `method` takes the instance first."""
    method = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
    plain = method if type(method) is types.FunctionType else _bound_late(method)
    setattr(cls, name, functools.wraps(method)(wrap(plain)))


def _bound_late(method: Any) -> Callable[..., Any]:
    # For example a proxy of an instrumentation library. It passes `isinstance` as a function, but works only
    # as a descriptor.
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return method.__get__(self, type(self))(*args, **kwargs)

    return call


def lacks(cls: Any, *names: str) -> str | None:
    """Return which of the methods the class itself does not define; None if it defines all."""
    missing = [name for name in names if name not in getattr(cls, "__dict__", {})]
    return f"{getattr(cls, '__name__', cls)} has no {', '.join(missing)}" if missing else None
