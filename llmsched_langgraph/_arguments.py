"""Checks values that users give. Each error names the setting and what is allowed.

Does not know what a setting means: the caller says it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from typing import TypeGuard

from llmsched_langgraph.errors import ConfigurationError


def check_flag(value: object, what: str) -> None:
    """Do nothing if the value is True or False.

    Raises:
        ConfigurationError: it is neither.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{what} must be True or False, not {value!r}")


def check_text(value: object, what: str, example: str = "") -> str:
    """Return the value if it is text that is not empty.

    Args:
        value: what was given.
        what: the name of the setting, with which the message of an error begins.
        example: a valid value, for the message.

    Raises:
        ConfigurationError: it is not.
    """
    if isinstance(value, str) and value:
        return value
    such = f", such as {example!r}" if example else ""
    raise ConfigurationError(f"{what} must be a text that is not empty{such}, not {value!r:.80}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question for the nearest of the known names, or the list of them, for the end of a message."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are {', '.join(names)}" if len(names) > 1 else f"there is {''.join(names) or 'none'}"


def whole_number(value: object, what: str, of: str = "", *, least: int = 1) -> int:
    """Return a whole number of at least `least`.

    Args:
        value: what was given.
        what: the name of the setting, with which the message of an error begins.
        of: what the number counts, for the message.
        least: its minimum.

    Raises:
        ConfigurationError: it is no such number.
    """
    if is_whole(value) and value >= least:
        return value
    raise ConfigurationError(_not_whole(what, of, least) + f", not {value!r:.40}")


def whole_limit(value: object, what: str, of: str = "") -> int | None:
    """Return a whole number of at least 1, or None for no limit. See `whole_number`."""
    if value is None or (is_whole(value) and value >= 1):
        return value
    raise ConfigurationError(_not_whole(what, of, 1) + f", or None for no limit, not {value!r:.40}")


def positive_limit(value: object, what: str, unit: str = "", *, finite: bool = True) -> float | None:
    """Return a positive number, or None for no limit.

    Args:
        value: what was given.
        what: the name of the setting, with which the message of an error begins.
        unit: what the number counts, for the message, such as "seconds".
        finite: whether it must be finite.

    Raises:
        ConfigurationError: it is neither.
    """
    if value is None:
        return None
    if is_number(value) and value > 0:
        if not finite or value <= sys.float_info.max:
            return value
        raise ConfigurationError(f"{what} must be finite, or None for no limit, not {value!r:.40}")
    number = f"number of {unit}" if unit else "number"
    raise ConfigurationError(f"{what} must be a positive {number}, or None for no limit, not {value!r:.40}")


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether it is an `int`; a `bool` is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether it is an `int` or a `float`; a `bool` is neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _not_whole(what: str, of: str, least: int) -> str:
    return f"{what} must be a whole number of at least {least}" + (f" ({of})" if of else "")
