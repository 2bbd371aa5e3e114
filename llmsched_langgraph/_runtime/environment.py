"""Reads the settings of the process-wide scheduler from environment variables.

Does not read the file that `LLMSCHED_CONFIG` names, or make the scheduler. `LLMSCHED_URL` is here only as a
known name: every scheduler without a `url` reads it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import Any, get_args

from llmsched_langgraph._arguments import nearest
from llmsched_langgraph._core.policies import POLICIES
from llmsched_langgraph._observe.recorder import VARIABLE as RECORD
from llmsched_langgraph._observe.recorder import recordable
from llmsched_langgraph._runtime.door import AtDoor
from llmsched_langgraph._runtime.shared.home import VARIABLE as URL
from llmsched_langgraph.errors import ConfigurationError

logger = logging.getLogger("llmsched_langgraph")

PREFIX = "LLMSCHED_"
CONFIG = "LLMSCHED_CONFIG"

_told: set[str] = set()


def settings_of_environment() -> dict[str, tuple[str, Any]]:
    """Return the variable and the value of each setting of `Scheduler` that the environment has.

    Raises:
        ConfigurationError: a variable has an invalid value; the message begins with both.
    """
    found: dict[str, tuple[str, Any]] = {}
    for variable, (setting, read) in _VARIABLES.items():
        text = os.environ.get(variable)
        if text or (text is not None and variable in _NEVER_EMPTY):
            found[setting] = variable, read(variable, text)
    return found


def tell_of_unknown_variables() -> None:
    """Log, once for each, the variables that begin as those of this package and mean nothing."""
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in KNOWN and name not in _told:
            _told.add(name)
            logger.warning(
                "the environment has the variable %.80s, which means nothing (logged once for each): %s",
                name,
                nearest(name, KNOWN),
            )


def _refused(variable: str, text: str, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{variable}={text!r} in the environment {wanted}")


def _whole(of: str) -> Callable[[str, str], int]:
    def read(variable: str, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = 0
        if number < 1:
            raise _refused(variable, text, f"must be a whole number of at least 1 ({of})")
        return number

    return read


def _slots(variable: str, text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return _whole("the calls that the backend serves at once")(variable, text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} or auto") from None


def _policy(variable: str, text: str) -> str:
    if text not in POLICIES:
        raise _refused(variable, text, f"is not a policy; name one of: {', '.join(POLICIES)}")
    return text


def _seconds(variable: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise _refused(variable, text, "must be a positive number of seconds")
    return seconds


def _at_door(variable: str, text: str) -> str:
    if text not in get_args(AtDoor):
        raise _refused(variable, text, f"must be {' or '.join(get_args(AtDoor))}")
    return text


def _record(variable: str, text: str) -> object:
    try:
        return recordable(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{variable}={text!r} in the environment: {error}") from None


def _text(variable: str, text: str) -> str:
    return text


_VARIABLES: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "LLMSCHED_SLOTS": ("slots", _slots),
    "LLMSCHED_POLICY": ("policy", _policy),
    "LLMSCHED_PROFILES": ("profiles", _text),
    RECORD: ("record", _record),
    "LLMSCHED_QUEUE_TIMEOUT_S": ("queue_timeout_s", _seconds),
    "LLMSCHED_MAX_JOBS": ("max_jobs", _whole("the runs that may be active at once")),
    "LLMSCHED_MAX_QUEUED": ("max_queued", _whole("the waiting calls from which on no run begins")),
    "LLMSCHED_AT_DOOR": ("at_door", _at_door),
}
"""The setting of each variable, and what reads its text."""

KNOWN = (*_VARIABLES, CONFIG, URL)
"""All variables that mean something."""

_NEVER_EMPTY = ("LLMSCHED_SLOTS", "LLMSCHED_POLICY")
"""Variables that are errors if they are empty. Other empty ones count as absent."""
