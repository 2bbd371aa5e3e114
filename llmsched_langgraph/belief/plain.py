"""Knows how to read plain JSON data into numbers, and to say which field is wrong.

Does not know what the fields mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llmsched_langgraph.errors import InvalidDataError


def fields(data: object, at: str, *names: str) -> list[Any]:
    """The values of an object's fields, in the order of `names`.

    Raises:
        InvalidDataError: `data` is no object, or lacks one of them.
    """
    if not isinstance(data, Mapping):
        raise InvalidDataError(f"{at}: expected an object, got {type(data).__name__}")
    for name in names:
        if name not in data:
            raise InvalidDataError(f"{at}.{name}: missing")
    return [data[name] for name in names]


def items(data: object, at: str) -> list[Any]:
    """The items of a list.

    Raises:
        InvalidDataError: `data` is no list.
    """
    if not isinstance(data, (list, tuple)):
        raise InvalidDataError(f"{at}: expected a list, got {type(data).__name__}")
    return list(data)


def number(data: object, at: str, least: float = 0.0) -> float:
    """A finite number that is not under `least`.

    Raises:
        InvalidDataError: anything else.
    """
    # A bool is an int to Python, not to JSON.
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        raise InvalidDataError(f"{at}: expected a number, got {type(data).__name__}")
    if not math.isfinite(data) or data < least:
        raise InvalidDataError(f"{at}: expected a finite number >= {least:g}, got {data!r}")
    return float(data)


def whole(data: object, at: str, least: int = 0) -> int:
    """A whole number that is not under `least`.

    Raises:
        InvalidDataError: anything else.
    """
    if isinstance(data, bool) or not isinstance(data, int):
        raise InvalidDataError(f"{at}: expected a whole number, got {data!r}")
    if data < least:
        raise InvalidDataError(f"{at}: expected a whole number >= {least}, got {data}")
    return data


def text(data: object, at: str) -> str:
    """A string.

    Raises:
        InvalidDataError: anything else.
    """
    if not isinstance(data, str):
        raise InvalidDataError(f"{at}: expected a string, got {type(data).__name__}")
    return data
