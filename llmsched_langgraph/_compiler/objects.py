"""Finds the objects that an object refers to, without running any code of the object.

Does not look at functions or decide what is followed. An object's class can make an attribute, `isinstance`
or a comparison run code of its own, which may open a connection; so everything here goes by the type.
"""

from __future__ import annotations

import enum
import functools
import gc
import itertools
import threading
import types
from collections import ChainMap, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_ITEMS = 256
"""Maximum number of elements of a list or dict that are examined."""

_SEQUENCES = (list, tuple, set, frozenset, deque)
_BOUND_IN_C = (types.BuiltinMethodType, types.MethodWrapperType)
_PYTHON_CONTAINERS = (UserDict, UserList, ChainMap)
_QUEUES = ("queue", "asyncio.queues")
_IN_C = {"itertools", "contextvars", "_contextvars"}
_ITERATORS = ("iterator", "map", "filter", "zip", "enumerate", "reversed")


def variables_of(thing: Any) -> dict[str, object]:
    """Return the instance's own attributes: its dict, its slots, and pydantic's private and extra ones."""
    found = dict(_dict_of(thing))
    for cls in type(thing).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            slot = cls.__dict__.get(name)
            if type(slot) is types.MemberDescriptorType:
                try:
                    found[name] = slot.__get__(thing)
                except AttributeError:
                    pass  # a slot that is not set
    for name in ("__pydantic_private__", "__pydantic_extra__"):
        apart = found.get(name)
        if type(apart) is dict:
            found.update(apart)
    return found


def _dict_of(thing: Any) -> dict[str, object]:
    if type(thing) is threading.local:
        found = threading.local.__getattribute__(thing, "__dict__")
        return found if type(found) is dict else {}
    for cls in type(thing).__mro__:
        if "__dict__" in cls.__dict__:
            kept = cls.__dict__["__dict__"]
            if type(kept) not in (types.GetSetDescriptorType, types.MemberDescriptorType):
                break  # the class computes it
            found = kept.__get__(thing)
            return found if type(found) is dict else {}
    return {}


def in_class(cls: type, name: str) -> object:
    """Return the class attribute without evaluating a property or binding a method."""
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return None


def function_of(value: Any) -> object:
    """Return the function inside a property, class method or similar descriptor; otherwise the value."""
    cls = type(value)
    if cls is property:
        return value.fget
    if cls in (functools.cached_property, functools.partialmethod):
        return value.func
    if cls in (classmethod, staticmethod):
        return value.__func__
    return value


def items_of(thing: Any) -> Iterator[object] | None:
    """Return the elements of a container; None for an object that is not one.

    Containers are those of the standard library: lists, dicts, iterators, queues, partial functions, bound
    methods of C, context variables and members of enumerations.
    """
    cls = type(thing)
    for kind in _SEQUENCES:
        if issubclass(cls, kind):
            return _first(kind.__iter__(thing))
    if issubclass(cls, dict):
        made_by = [_factory(thing)] if issubclass(cls, defaultdict) else []
        return itertools.chain(made_by, _first(dict.values(thing)))
    if cls is types.MappingProxyType:
        return _first(thing.values())
    if issubclass(cls, functools.partial):
        return iter([part(thing) for part in _PARTS])
    if cls in _BOUND_IN_C:
        owner = thing.__self__
        return iter(()) if type(owner) is types.ModuleType else iter((owner,))
    if issubclass(cls, enum.Enum):
        return iter((_dict_of(thing).get("_value_"),))
    if issubclass(cls, _PYTHON_CONTAINERS) or cls.__module__ in _QUEUES:
        return iter(_dict_of(thing).values())
    if cls.__module__ in _IN_C or (cls.__module__ == "builtins" and cls.__name__.endswith(_ITERATORS)):
        return _first(gc.get_referents(thing))
    return None


def _slot(cls: Any, name: str) -> Callable[[object], object]:
    """Return the function that reads an attribute which C code keeps in objects of the class."""
    get: Callable[[object], object] = cls.__dict__[name].__get__
    return get


_factory = _slot(defaultdict, "default_factory")
_PARTS = [_slot(functools.partial, name) for name in ("func", "args", "keywords")]


def _first(items: Iterable[object]) -> Iterator[object]:
    for _, item in zip(range(MAX_ITEMS), items, strict=False):
        yield item
