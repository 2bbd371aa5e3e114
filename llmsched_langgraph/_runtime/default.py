"""Holds the process-wide scheduler, which `schedule(graph)` uses by default.

Does not schedule calls: `Scheduler` does.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from llmsched_langgraph._fork import in_child
from llmsched_langgraph._runtime.config_file import settings_of_file
from llmsched_langgraph._runtime.environment import (
    CONFIG,
    settings_of_environment,
    tell_of_unknown_variables,
)
from llmsched_langgraph._runtime.scheduler import Scheduler
from llmsched_langgraph._runtime.shared.home import VARIABLE as URL
from llmsched_langgraph.errors import ConfigurationError

_lock = threading.Lock()
_default: Scheduler | None = None


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


in_child(_forked)


def default_scheduler() -> Scheduler:
    """Return the process-wide scheduler.

    The first call creates it from environment variables, each for the argument of `Scheduler` with its name:
    `LLMSCHED_SLOTS` (a number or "auto"; default 8), `LLMSCHED_POLICY` (default llmsched),
    `LLMSCHED_PROFILES`, `LLMSCHED_RECORD`, `LLMSCHED_QUEUE_TIMEOUT_S`, `LLMSCHED_MAX_JOBS`,
    `LLMSCHED_MAX_QUEUED` and `LLMSCHED_AT_DOOR`. `LLMSCHED_CONFIG` names a TOML file, whose keys are the
    names of the arguments of `Scheduler`, `Backend` and `Tenant`; the variables go before it. Other variables
    that begin with `LLMSCHED_` are logged. Every scheduler without a `url` takes that of `LLMSCHED_URL`.

    Raises:
        ConfigurationError: a variable or the file is invalid; the message names the variable, or the file
            and the key.
    """
    global _default
    scheduler = _default
    if scheduler is not None:
        return scheduler
    with _lock:
        if _default is None:
            _default = _made()
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


def _made() -> Scheduler:
    """Return a scheduler with the settings of the environment, and of the file that it names."""
    tell_of_unknown_variables()
    variables, file = settings_of_environment(), os.environ.get(CONFIG)
    settings = _settings_of(file) if file else {}
    if os.environ.get(URL):
        settings.pop("url", None)
    if "slots" in variables and "backends" in settings:
        raise ConfigurationError(
            f"LLMSCHED_SLOTS is set, and {file} has backends, each with its own slots: unset LLMSCHED_SLOTS"
        )
    settings |= {setting: value for setting, (_, value) in variables.items()}
    try:
        return Scheduler(**settings)
    except ConfigurationError as error:
        places = [f"{file} ({CONFIG})"] if file else []
        places += [variable for variable, _ in variables.values()]
        if not places:
            raise
        raise ConfigurationError(f"settings of {', '.join(places)}: {error}") from None


def _settings_of(file: str) -> dict[str, Any]:
    try:
        return settings_of_file(file)
    except ConfigurationError as error:
        raise ConfigurationError(f"{CONFIG}: {error}") from None
