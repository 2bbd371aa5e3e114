"""Checks what users give to a scheduler, and where a scheduler is expected.

Does not check backends, tenants, budgets or policies: their own modules do.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._ledger.auto import Auto
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.tenants import Tenants
from llmsched_langgraph._runtime.routing import Requested
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.scheduler import Scheduler

logger = logging.getLogger("llmsched_langgraph")


def check_profile(profile: object) -> None:
    """Do nothing if it is a `Profile`, or None.

    Raises:
        ConfigurationError: it is neither.
    """
    if profile is not None and not isinstance(profile, Profile):
        raise ConfigurationError(
            f"profile must be a Profile, such as that of another scheduler (scheduler.profile), not "
            f"{profile!r:.80}; a folder, a URL or a store is given as profiles"
        )


def check_function(function: object, what: str, arguments: str) -> None:
    """Do nothing if it can be called.

    Raises:
        ConfigurationError: it cannot; the message begins with `what`.
    """
    if not callable(function):
        raise ConfigurationError(f"{what} must be a function of {arguments}, not {function!r:.80}")


def check_names(model: object, stage: object, account: object) -> None:
    """Do nothing if they can be what a call asks for, its stage and its account.

    Raises:
        ConfigurationError: one of them cannot; the message begins with its name.
    """
    if model is not None and not isinstance(model, str | Requested):
        raise ConfigurationError(
            f"model must be the name of a model or a base URL, such as 'gpt-4o', or None, not {model!r:.80}"
        )
    if not isinstance(stage, str):
        raise ConfigurationError(f"stage must be a text, such as 'search', not {stage!r:.80}")
    if account is not None and (not isinstance(account, str) or not account):
        # The message does not show it: it may be a key.
        raise ConfigurationError(f"account must be text that is not empty, not a {type(account).__name__}")


def tell_of_excess(tenants: Tenants, pools: Sequence[Backend]) -> None:
    """Log which tenants may hold more slots than any backend has: such a limit does nothing."""
    most = max(pool.slots.high if isinstance(pool.slots, Auto) else int(pool.slots) for pool in pools)
    above = {
        name: own.max_slots
        for name, own in tenants.named.items()
        if own.max_slots is not None and own.max_slots > most
    }
    if above:
        logger.warning(
            "Tenant(max_slots=...) limits a tenant at each backend. It does nothing for %s, because no "
            "backend has more than %d slots: give a smaller number, or leave max_slots out",
            ", ".join(f"{name!r} ({slots})" for name, slots in above.items()),
            most,
        )


def as_scheduler(scheduler: object) -> Scheduler | None:
    """Return the scheduler that a user gave, or None for none.

    Raises:
        ConfigurationError: it is no scheduler.
    """
    from llmsched_langgraph._runtime.scheduler import Scheduler

    if scheduler is None or isinstance(scheduler, Scheduler):
        return scheduler
    what = "the class itself" if scheduler is Scheduler else type(scheduler).__name__
    example = scheduler if isinstance(scheduler, int) and not isinstance(scheduler, bool) else 8
    raise ConfigurationError(f"scheduler must be a Scheduler, such as Scheduler({example}), not {what}")


def refuse_settings(where: str, settings: Mapping[str, Any]) -> None:
    """Do nothing if no unknown arguments were given.

    Args:
        where: the call with its first argument, such as "schedule(graph".
        settings: the unknown arguments by name.

    Raises:
        TypeError: there is one; if it is an argument of `Scheduler`, the message says where it belongs.
    """
    from llmsched_langgraph._runtime.scheduler import Scheduler

    if not settings:
        return
    function, names = where.partition("(")[0], list(settings)
    message = f"{function}() got an unexpected keyword argument {names[0]!r}"
    if all(name in inspect.signature(Scheduler).parameters for name in names):
        given = ", ".join(
            f"{value!r}" if name == "slots" else f"{name}={value!r:.60}" for name, value in settings.items()
        )
        first = "" if where.endswith("(") else ", "
        message += f": it is a setting of the scheduler; write {where}{first}Scheduler({given}))"
    raise TypeError(message)
