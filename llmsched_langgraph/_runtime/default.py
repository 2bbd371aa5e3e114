"""Holds the process-wide scheduler, which `schedule(graph)` uses by default.

Does not schedule calls: `Scheduler` does.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Literal

from llmsched_langgraph._core.policies import POLICIES
from llmsched_langgraph._fork import in_child
from llmsched_langgraph._ledger.backends import DEFAULT_SLOTS
from llmsched_langgraph._observe.recorder import VARIABLE, recordable
from llmsched_langgraph._runtime.scheduler import DEFAULT_POLICY, Scheduler
from llmsched_langgraph.errors import ConfigurationError

_lock = threading.Lock()
_default: Scheduler | None = None


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


in_child(_forked)


def default_scheduler() -> Scheduler:
    """Return the process-wide scheduler.

    The first call creates it from the environment variables `LLMSCHED_SLOTS` (a number or
    "auto"; default 8), `LLMSCHED_POLICY` (default llmsched) and `LLMSCHED_RECORD` (a file to record to;
    default none). Every scheduler without a `url` takes that of `LLMSCHED_URL`.

    Raises:
        ConfigurationError: one of these variables has an invalid value.
    """
    global _default
    scheduler = _default
    if scheduler is not None:
        return scheduler
    with _lock:
        if _default is None:
            _default = Scheduler(_slots(), policy=_policy(), record=_record())
        return _default


def set_default_scheduler(scheduler: Scheduler) -> None:
    """Replace the process-wide scheduler. Runs that already began stay on the previous one."""
    global _default
    if not isinstance(scheduler, Scheduler):
        raise ConfigurationError(
            f"the default scheduler must be a Scheduler, such as Scheduler(8), not {type(scheduler).__name__}"
        )
    with _lock:
        _default = scheduler


def reset_default_scheduler() -> None:
    """Discard the process-wide scheduler; the next use creates one from the environment."""
    global _default
    with _lock:
        _default = None


def _slots() -> int | Literal["auto"]:
    text = os.environ.get("LLMSCHED_SLOTS", str(DEFAULT_SLOTS))
    if text == "auto":
        return "auto"
    try:
        slots = int(text)
    except ValueError:
        slots = 0
    if slots < 1:
        raise ConfigurationError(
            f"LLMSCHED_SLOTS={text!r} in the environment must be a whole number of at least 1 "
            f"(the calls that the backend serves at once) or auto"
        )
    return slots


def _record() -> Path | None:
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        return recordable(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{VARIABLE}={text!r} in the environment: {error}") from None


def _policy() -> str:
    name = os.environ.get("LLMSCHED_POLICY", DEFAULT_POLICY)
    if name not in POLICIES:
        raise ConfigurationError(
            f"LLMSCHED_POLICY={name!r} in the environment is not a policy; name one of: {', '.join(POLICIES)}"
        )
    return name
